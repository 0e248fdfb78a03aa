"""Training never waits for an accelerator or copies numbers to it, except for the number of packed documents.

A CUDA graph can therefore capture a training step.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small_device import DEVICE, BusyDevice, SmallTensor, moved
from tiny import EXAMPLES, KERNELS, tiny_config
from torch import Tensor
from torch.optim import adam
from transformers import DynamicCache, StaticCache

from modeling_dlr import DLRForCausalLM, DLRForSequenceClassification, DLRForTokenClassification, DLRModel, checks_dlr
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.training import parameter_groups
from modeling_dlr.weighted_loss import class_weighted_loss, loss_by_counts

ATTENTION = {"hidden_size": 8, "layer_types": ["full_attention", "local_attention"], "attention_window": 5}
WAYS: dict[str, dict[str, Any]] = {
    "DLR": {},
    "bidirectional": {"bidirectional": True},
    "batch norm": {"norm_type": "batch", "norm_position": "post"},
    "attention": ATTENTION,
    **{name: {"kernel_parameters": parameters, "bidirectional": True} for name, parameters in KERNELS.items()},
}


@pytest.fixture(autouse=True)
def asserting_device(monkeypatch: pytest.MonkeyPatch):
    """The simulated device asserts values without waiting and has float64, as CUDA does."""
    monkeypatch.setattr(SmallTensor, "has_float64", True)
    monkeypatch.setattr(checks_dlr, "ASSERTING_DEVICES", (DEVICE.type,))
    monkeypatch.setattr(checks_dlr, "has_memory", lambda _: True)


def there(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Tensors on the device."""
    return {name: SmallTensor(tensor) for name, tensor in tensors.items()}


def padding(*shape: int) -> Tensor:
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, ..., 5:] = 0
    return mask


def test_the_simulated_device_notices_waits():
    """Reading a value, counting true values, and indexing by a mask are detected."""
    with BusyDevice() as device:
        x = torch.ones(3, device=DEVICE)
        for wait in (lambda: float(x.sum()), x.nonzero, lambda: x[x > 0], x.cpu, lambda: bool(x[0])):
            before = len(device.waits)
            wait()
            assert len(device.waits) > before
        before = len(device.waits)
        x[torch.ones(1, dtype=torch.long, device=DEVICE)] + x.where(x > 0, 1).cumsum(0)[:1]
        assert len(device.waits) == before
        assert device.copies == []
        torch.ones(2).to(DEVICE)
        x.copy_(torch.ones(3))
        assert len(device.copies) == 2


@pytest.mark.parametrize("auto_class", [name for name in EXAMPLES if name != "AutoModel"])
def test_every_head_learns(auto_class: str):
    """With labels, and with padding where there is a mask of texts."""
    example = EXAMPLES[auto_class]
    model = moved(AUTO_CLASSES[auto_class](tiny_config(**example.fields)))
    inputs, labels = (draw(model.config, 2, 7) for draw in example[1:])
    mask = {"attention_mask": padding(*inputs["input_ids"].shape)} if "input_ids" in inputs else {}
    with BusyDevice() as device:
        model(**there(inputs | labels | mask)).loss.backward()
    assert device.waits == device.copies == []


@pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS)
def test_every_way_through_a_model(fields: dict[str, Any]):
    """Forward and backward with padding, for every kind of layer."""
    model = moved(DLRModel(tiny_config(**fields)))
    inputs = {"inputs_embeds": torch.randn(2, 7, model.config.hidden_size), "attention_mask": padding(2, 7)}
    with BusyDevice() as device:
        model(**there(inputs)).last_hidden_state.sum().backward()
    assert device.waits == device.copies == []


@pytest.mark.parametrize("fields", [{}, {"bidirectional": True, "norm_type": "batch"}], ids=str)
def test_a_captured_step(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Loss, gradients and an optimizer that can be captured: no value is read, and none comes from the CPU."""
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda: [DEVICE.type])
    model = moved(DLRForSequenceClassification(tiny_config(hidden_dropout_prob=0.1, **fields)))
    inputs = {"input_ids": torch.randint(1, 11, (2, 7)), "attention_mask": padding(2, 7)}
    batch = there(inputs | {"labels": torch.tensor([0, 3])})
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3), capturable=True)
    for _ in range(2):
        with BusyDevice() as device:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert device.waits == device.copies == []
    kernels = [layer.mixer.kernel for layer in model.model.layers]
    assert all(kernel.memo._last is None for kernel in kernels)


@pytest.mark.parametrize("loss", [class_weighted_loss, loss_by_counts([3, 1])], ids=["batch", "counts"])
def test_a_weighted_loss(loss: Callable[..., Tensor]):
    """The weights of classes are copied to the device once."""
    logits, labels = SmallTensor(torch.randn(4, 2)), SmallTensor(torch.tensor([0, 1, 1, -100]))
    for _ in range(2):
        with BusyDevice() as device:
            loss([logits], labels, num_items_in_batch=3)
    assert device.waits == device.copies == []


CACHES: dict[str, tuple[dict[str, Any], Any]] = {
    "DLR": ({}, DynamicCache),
    "attention": (ATTENTION, DynamicCache),
    "static": ({"hidden_size": 8, "layer_types": ["full_attention", "dlr"]}, partial(StaticCache, max_cache_len=12)),
}


@pytest.mark.parametrize("head", [DLRForCausalLM, DLRForSequenceClassification])
@pytest.mark.parametrize(("fields", "cache_class"), CACHES.values(), ids=CACHES)
@torch.no_grad()
def test_a_stream(fields: dict[str, Any], cache_class: Any, head: type):
    """A prompt with padding, and steps and chunks after it, under a mask of all steps."""
    model = head(tiny_config(**fields)).eval()
    other = moved(copy.deepcopy(model))
    ids, mask = torch.randint(1, 11, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, :3], mask[1, 7] = 0, 0
    cache, cache_there, waits = cache_class(config=model.config), cache_class(config=model.config), []
    for start, stop in ((0, 6), (6, 7), (7, 8), (8, 9), (9, 12)):
        chunk = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop]}
        expected = model(**chunk, cache=cache).logits
        with BusyDevice() as device:
            actual = other(**there(chunk), cache=cache_there).logits
        torch.testing.assert_close(actual.inner[:, -1:], expected[:, -1:], rtol=1e-5, atol=1e-5)
        waits += device.waits
    assert waits == []


@pytest.mark.parametrize("packing", ["cu_seq_lens_q", "position_ids"])
def test_packed_rows(packing: str):
    """The number of documents is read once, however many layers there are; on the CPU it is known already."""
    model = DLRForTokenClassification(tiny_config(bidirectional=True)).eval()
    other = moved(copy.deepcopy(model))
    ids = torch.randint(1, 11, (1, 12))
    told = torch.tensor([0, 2, 3, 7, 12]) if packing == "cu_seq_lens_q" else torch.tensor([[0, 1, *range(10)]])
    expected = model(ids, **{packing: told}).logits
    with BusyDevice() as device:
        actual = other(SmallTensor(ids), **{packing: SmallTensor(told)}).logits
        assert len(device.waits) == 1
        if packing == "cu_seq_lens_q":
            other(SmallTensor(ids), cu_seq_lens_q=told)
            assert len(device.waits) == 1
        actual.sum().backward()
        assert len(device.waits) == 1
    torch.testing.assert_close(actual.inner, expected, rtol=1e-5, atol=1e-5)


WRONG = {
    "mask": ({"attention_mask": torch.full((2, 7), -1)}, "attention_mask must be 1 at steps that count"),
    "token": ({"input_ids": torch.full((2, 7), 11)}, "Token ids must lie in 0 … vocab_size-1 = 10"),
    "label": ({"labels": torch.tensor([0, 4])}, "Labels must lie in 0 … num_labels-1 = 3"),
}


@pytest.mark.parametrize(("wrong", "says"), WRONG.values(), ids=WRONG)
def test_wrong_values(wrong: dict[str, Tensor], says: str):
    """The device asserts them, and the message has the rule."""
    model = moved(DLRForSequenceClassification(tiny_config()))
    right = {"input_ids": torch.ones(2, 7, dtype=torch.long), "labels": torch.tensor([0, 3])}
    with BusyDevice(), pytest.raises(RuntimeError, match=says):
        model(**there(right | wrong))
