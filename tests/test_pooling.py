"""Pooling with rows that have not begun, and with NaN at padding."""

import pytest
import torch
from tiny import HEADS, draw_input, perturbed, tiny_config
from transformers import DynamicCache

from modeling_dlr.losses_dlr import POOLINGS, pool

by_pooling = pytest.mark.parametrize("pooling", POOLINGS)


@by_pooling
def test_row_of_a_stream_that_has_not_begun(pooling: str):
    """Before its first step that counts a row's features are zeros, and from then on they are those of its steps."""
    model = perturbed(HEADS["sequence head"](tiny_config(pooling=pooling)).eval())
    ids = draw_input("tokens", model.config, 2, 12)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    cache = DynamicCache(config=model.config)
    first = model(ids[:, :7], attention_mask=mask[:, :7], cache=cache).logits
    torch.testing.assert_close(first[1], model.classifier.bias)
    last = model(ids[:, 7:], attention_mask=mask, cache=cache).logits
    torch.testing.assert_close(last[1:], model(ids[1:, 7:]).logits, rtol=1e-5, atol=1e-5)


@by_pooling
def test_padding_that_is_no_number(pooling: str):
    """What stands at steps that do not count reaches neither the features nor their gradient."""
    states, mask = torch.randn(2, 7, 3), torch.ones(2, 7, dtype=torch.bool)
    mask[0, :2], mask[1, 5:] = False, False
    expected, _ = pool(pooling, states, mask)
    poisoned = states.masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    features, _ = pool(pooling, poisoned, mask)
    assert torch.equal(features, expected)
    features.sum().backward()
    assert poisoned.grad is not None
    assert poisoned.grad.isfinite().all()
