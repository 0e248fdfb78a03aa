"""StripedHyena: a row's outputs do not depend on padding, packing, chunks or pieces, and generation agrees."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from tiny import gradients_of
from tiny_striped import TINY, VARIANTS, gated_convolution, tiny_striped, tokens
from tolerances import assert_close
from torch import Tensor
from transformers import DynamicCache, StaticCache

from modeling_dlr import (
    StripedHyenaConfig,
    StripedHyenaForSequenceClassification,
    StripedHyenaForTokenClassification,
    StripedHyenaModel,
    StripedHyenaModelForCausalLM,
    blocks_striped_hyena,
    checks_dlr,
    detach_cache,
)
from modeling_dlr.losses_dlr import POOLINGS

by_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
by_side = pytest.mark.parametrize("side", ["left", "right", "holes"])


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one batch, two steps longer than the longest, and its mask; holes lie anywhere."""
    length = max(map(len, rows)) + 2
    ids, mask = torch.full((len(rows), length), 9), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        places = {
            "left": torch.arange(length - len(row), length),
            "right": torch.arange(len(row)),
            "holes": torch.randperm(length)[: len(row)].sort().values,
        }[side]
        ids[i, places], mask[i, places] = row, 1
    return ids, mask


def alone(model: torch.nn.Module, row: Tensor) -> Tensor:
    return model(row.unsqueeze(0)).logits[0]


@by_variant
@torch.no_grad()
def test_block_is_its_definition(changes: dict[str, Any]):
    """The gated convolution against a loop over steps, taps and poles."""
    model = tiny_striped(StripedHyenaModel, **changes)
    block, x = model.blocks[0], torch.randn(1, 13, 12, dtype=torch.float64)
    gated = gated_convolution(
        block,
        block.projections(block.pre_norm(x))[0],
        model.config.column_split_hyena,
        model.config.num_attention_heads,
    )
    mixed = x + block.out_filter_dense(torch.from_numpy(gated))
    assert_close(block(x), mixed + block.mlp(block.post_norm(mixed)), torch.float64)


@torch.no_grad()
def test_attention_weights_that_nothing_holds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """A warning says so; where there are some, rows of several documents are refused."""
    model, row = tiny_striped(StripedHyenaModel), {"input_ids": tokens(1, 6), "use_cache": False}
    monkeypatch.setattr(checks_dlr.logger, "warning_once", checks_dlr.logger.warning)
    monkeypatch.setattr(checks_dlr.logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("modeling_dlr"), "propagate", True)
    model(**row, output_attentions=True)
    assert "'sdpa' attention" in caplog.text
    model.set_attn_implementation("eager")
    assert len(model(**row, output_attentions=True).attentions) == 1
    with pytest.raises(ValueError, match="one document per row"):
        model(**row, output_attentions=True, cu_seq_lens_q=torch.tensor([0, 2, 6]))


@pytest.mark.parametrize("name", ["poles", "residues", "D", "short_filter_weight"])
@torch.no_grad()
def test_a_parameter_that_is_not_finite(name: str):
    """It is refused by its name in the model, before a state has moved."""
    model = tiny_striped(StripedHyenaModelForCausalLM)
    cache = model(tokens(1, 5), use_cache=True).cache
    model.backbone.blocks[0].filter.get_parameter(name).view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=rf"^backbone\.blocks\.0\.filter\.{name} must be finite, got nan"):
        model(tokens(1, 1), cache=cache)
    assert cache.get_seq_length() == 5


@torch.no_grad()
def test_poles_of_zero_and_beyond_one():
    """0^0 is 1, and a filter may grow; also where the gradient is asked for."""
    model = tiny_striped(StripedHyenaModel)
    block, x = model.blocks[0], torch.randn(1, 63, 12, dtype=torch.float64)
    block.filter.poles[:, 0] = 0
    block.filter.poles[:, 1] *= 1.05 / block.filter.poles[:, 1].norm(dim=-1, keepdim=True)
    gated = gated_convolution(block, block.projections(block.pre_norm(x))[0], True, 2)
    mixed = x + block.out_filter_dense(torch.from_numpy(gated))
    assert_close(block(x), mixed + block.mlp(block.post_norm(mixed)), torch.float64)
    with torch.enable_grad():
        block(x).sum().backward()
    assert block.filter.poles.grad.isfinite().all()
    # The derivative of R P is that of the second tap alone: at P = 0 no other one has a part in it.
    assert block.filter.poles.grad[:, 0].abs().min() > 0


@torch.no_grad()
def test_long_filters_are_exact():
    """At the last of 2^17 steps, in float32: powers are taken in float64, where a float32 phase is off."""
    filter_ = tiny_striped(StripedHyenaModel).blocks[0].filter.float()
    angle = torch.linspace(0.1, 3, 36, dtype=torch.float64).view(12, 3)
    filter_.poles.copy_(0.99999 * torch.stack([angle.cos(), angle.sin()], dim=-1).unsqueeze(2))
    filter_.residues.zero_()[..., 0] = 1
    filter_.D.zero_()
    L = 2**17
    u = torch.zeros(1, L, 12).index_fill(1, torch.tensor([0]), 1)
    y, _ = filter_.filter_long(u, torch.ones_like(u), None, False, None)
    poles = filter_.poles[..., 0, :].double().numpy()
    last = ((poles[..., 0] + 1j * poles[..., 1]) ** (L - 1)).sum(1).real
    assert np.abs(y[0, -1].numpy() - last).max() < 1e-5 * np.abs(last).max() + 1e-6
    rounded = np.exp(np.log(poles[..., 0] + 1j * poles[..., 1]).astype(np.complex64) * np.float32(L - 1)).sum(1).real
    assert np.abs(rounded - last).max() > 1e-3 * np.abs(last).max()


@by_variant
@by_side
@torch.no_grad()
def test_padding_changes_no_output(changes: dict[str, Any], side: str):
    """Every row of a padded batch has its outputs alone, with and without a cache."""
    model = tiny_striped(StripedHyenaModelForCausalLM, **changes)
    rows = [tokens(n) for n in (7, 1, 12)]
    ids, mask = padded(rows, side)
    for use_cache in (False, True):
        logits = model(ids, attention_mask=mask, use_cache=use_cache).logits
        for row, answer, counts in zip(rows, logits, mask.bool(), strict=True):
            assert_close(answer[counts], alone(model, row), torch.float64)


@by_side
def test_padding_changes_no_gradient(side: str):
    """Nor do padded steps that are NaN."""
    model = tiny_striped(StripedHyenaModel)
    rows = [tokens(n) for n in (5, 2)]
    ids, mask = padded(rows, side)
    embeddings = model.embedding_layer(ids).masked_fill(mask.eq(0).unsqueeze(-1), torch.nan)
    states = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    states[mask.bool()].square().sum().backward()
    together = gradients_of(model)
    model.zero_grad()
    sum(model(row.unsqueeze(0)).last_hidden_state.square().sum() for row in rows).backward()
    for name, gradient in gradients_of(model).items():
        assert_close(together[name], gradient, torch.float64)


@by_variant
@torch.no_grad()
def test_packing_changes_no_output(changes: dict[str, Any]):
    """Documents in one row have their outputs alone, given by boundaries or by positions."""
    model, rows = tiny_striped(StripedHyenaModelForCausalLM, **changes), [tokens(n) for n in (3, 1, 9, 2)]
    expected = torch.cat([alone(model, row) for row in rows])
    bounds = torch.tensor([0, 3, 4, 13, 15])
    positions = torch.cat([torch.arange(len(row)) for row in rows]).unsqueeze(0)
    ids = torch.cat(rows).unsqueeze(0)
    assert_close(model(ids, cu_seq_lens_q=bounds).logits[0], expected, torch.float64)
    assert_close(model(ids, position_ids=positions).logits[0], expected, torch.float64)


def test_packing_learns_no_first_token():
    """The loss of packed documents is that of the same documents in rows of their own."""
    model, rows = tiny_striped(StripedHyenaModelForCausalLM), [tokens(n) for n in (4, 7)]
    ids = torch.cat(rows).unsqueeze(0)
    packed = model(ids, labels=ids, cu_seq_lens_q=torch.tensor([0, 4, 11])).loss
    batch, mask = padded(rows, "right")
    assert_close(packed, model(batch, attention_mask=mask, labels=batch.where(mask == 1, -100)).loss, torch.float64)


CHUNKS = [(1,) * 9, (1, 8), (2, 1, 6), (7, 2)]


@by_variant
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@torch.no_grad()
def test_chunks_change_no_answer(changes: dict[str, Any], chunks: tuple[int, ...]):
    """From a returned cache and from one that is handed in, dynamic or static, also from a first chunk of one token."""
    model, ids = tiny_striped(StripedHyenaModelForCausalLM, **changes), tokens(2, 9)
    expected = model(ids, use_cache=False).logits
    for begin in (None, DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=12)):
        cache, logits = begin, []
        for chunk in ids.split(chunks, dim=1):
            outputs = model(chunk, cache=cache, use_cache=True)
            cache = outputs.cache
            logits.append(outputs.logits)
        assert_close(torch.cat(logits, dim=1), expected, torch.float64)


@by_variant
@by_side
@torch.no_grad()
def test_padded_chunks_change_no_answer(changes: dict[str, Any], side: str):
    """Chunks of padded rows, where padding may come before, after and between the steps that count."""
    model, rows = tiny_striped(StripedHyenaModelForCausalLM, **changes), [tokens(n) for n in (9, 2, 6)]
    ids, mask = padded(rows, side)
    cache, logits = DynamicCache(config=model.config), []
    for stop in (1, 4, 5, ids.shape[1]):
        start = int(cache.get_seq_length())
        outputs = model(ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache)
        logits.append(outputs.logits)
    for row, answer, counts in zip(rows, torch.cat(logits, dim=1), mask.bool(), strict=True):
        assert_close(answer[counts], alone(model, row), torch.float64)


@by_variant
@torch.no_grad()
def test_pieces_change_no_answer(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Without a gradient long sequences are computed piece by piece: of steps, and of channels."""
    model, rows = tiny_striped(StripedHyenaModelForCausalLM, **changes), [tokens(n) for n in (12, 5)]
    ids, mask = padded(rows, "left")
    expected = model(ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
    for name, number in {"_NUMBERS_PER_PIECE": 150, "_NUMBERS_PER_FILTER": 150, "_FEWEST_CHANNELS": 2}.items():
        monkeypatch.setattr(blocks_striped_hyena, name, number)
    assert blocks_striped_hyena.piece_length(torch.zeros(2, 14, 12), 36) == 2
    for use_cache in (False, True):
        logits = model(ids, attention_mask=mask, use_cache=use_cache).logits
        assert_close(logits[mask.bool()], expected, torch.float64)
    cache = DynamicCache(config=model.config)
    parts = [
        model(ids[:, s], attention_mask=mask[:, : s.stop], cache=cache).logits for s in (slice(0, 5), slice(5, 14))
    ]
    assert_close(torch.cat(parts, dim=1)[mask.bool()], expected, torch.float64)


@by_variant
@torch.no_grad()
def test_generation(changes: dict[str, Any]):
    """Greedy and with beams, from prompts of one token and padded ones: with a cache as without."""
    model = tiny_striped(StripedHyenaModelForCausalLM, **changes)
    rows = [tokens(n) for n in (4, 1)]
    ids, mask = padded(rows, "left")
    common = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 3):
        cached, anew = (
            model.generate(ids, attention_mask=mask, num_beams=beams, use_cache=use_cache, **common)
            for use_cache in (True, False)
        )
        assert torch.equal(cached, anew)
    for row, answer in zip(rows, model.generate(ids, attention_mask=mask, **common), strict=True):
        assert torch.equal(answer[ids.shape[1] :], model.generate(row.unsqueeze(0), **common)[0, len(row) :])


@torch.no_grad()
def test_generation_stops_at_token_zero():
    """The end token may be 0, as ``<eod>`` of Evo is."""
    model = tiny_striped(StripedHyenaModelForCausalLM, tie_embeddings=False)
    model.backbone.norm.scale.fill_(1)
    prompt, free = torch.tensor([[5, 2, 7]]), {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 1}
    assert model.generate(prompt, **free).shape == (1, 7)
    states = model.backbone(prompt).last_hidden_state[0, -1]
    model.backbone.unembed.weight[0] = 100 * states
    assert model.generate(prompt, eos_token_id=0, **free)[0, 3:].tolist() == [0]


def test_gradients_flow_through_a_cache():
    """Chunk by chunk as at once; ``detach_cache`` cuts them."""
    model, ids = tiny_striped(StripedHyenaModel), tokens(1, 7)
    model(ids).last_hidden_state.square().sum().backward()
    expected = gradients_of(model)
    model.zero_grad()
    outputs = model(ids[:, :3], use_cache=True)
    later = model(ids[:, 3:], cache=outputs.cache)
    (outputs.last_hidden_state.square().sum() + later.last_hidden_state.square().sum()).backward()
    for name, gradient in gradients_of(model).items():
        assert_close(gradient, expected[name], torch.float64)
    for layer in detach_cache(model(ids, use_cache=True).cache).layers:
        tensors = [layer.keys, layer.values, getattr(layer, "recent", None)]
        assert not any(x.requires_grad for x in tensors if x is not None)


def test_gradient_checkpointing():
    """The same gradients, and no cache."""
    model, ids = tiny_striped(StripedHyenaModelForCausalLM).train(), tokens(2, 7)
    model(ids, labels=ids).loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    model.activation_checkpointing_enable()
    outputs = model(ids, labels=ids, use_cache=True)
    assert outputs.cache is None
    outputs.loss.backward()
    for name, gradient in gradients_of(model).items():
        assert_close(gradient, expected[name], torch.float64)
    with pytest.raises(ValueError, match="computes every block twice"):
        model(ids, cache=DynamicCache(config=model.config))


@by_variant
@torch.no_grad()
def test_attention_weights(changes: dict[str, Any]):
    """Eager attention answers as the other one does, and shows its weights."""
    model, ids = tiny_striped(StripedHyenaModelForCausalLM, **changes), tokens(2, 5)
    expected = model(ids).logits
    model.set_attn_implementation("eager")
    outputs = model(ids, output_attentions=True, output_hidden_states=True)
    assert_close(outputs.logits, expected, torch.float64)
    assert len(outputs.hidden_states) == 4
    assert [tuple(w.shape) for w in outputs.attentions] == [(2, 2, 5, 5)] * len(model.config.attn_layer_idxs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_poles_stay_exact(dtype: torch.dtype):
    """A cast leaves poles, residues and their gradients in float32, and all else is cast; float64 casts all."""
    model = tiny_striped(StripedHyenaModelForCausalLM).float()
    ids = tokens(2, 5)
    model(ids, labels=ids).loss.backward()
    model.to(dtype)
    for name, parameter in model.named_parameters():
        expected = torch.float32 if name.endswith(("poles", "residues")) else dtype
        assert (parameter.dtype, parameter.grad.dtype) == (expected, expected), name
    assert model(ids).logits.dtype == dtype
    assert {parameter.dtype for parameter in model.double().parameters()} == {torch.float64}


HEADS = {
    "sequence": (StripedHyenaForSequenceClassification, (3,)),
    "token": (StripedHyenaForTokenClassification, (3, 14)),
}


@pytest.mark.parametrize("head", HEADS)
@by_side
@torch.no_grad()
def test_classifiers(head: str, side: str):
    """A row's logits are its own; sequences are pooled over the steps that count."""
    model_class, shape = HEADS[head]
    rows = [tokens(n) for n in (12, 1, 5)]
    ids, mask = padded(rows, side)
    for pooling in POOLINGS:
        model = tiny_striped(model_class, pooling=pooling)
        outputs = model(ids, attention_mask=mask, labels=torch.randint(4, shape))
        assert outputs.loss.isfinite()
        for row, answer, counts in zip(rows, outputs.logits, mask.bool(), strict=True):
            expected = alone(model, row) if head == "token" else model(row.unsqueeze(0)).logits[0]
            assert_close(answer[counts] if head == "token" else answer, expected, torch.float64)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "token outside": ({"input_ids": torch.tensor([[11]])}, "Token ids must lie in 0 … vocab_size-1 = 10, got 11"),
    "two inputs": ({"input_ids": tokens(1, 2), "inputs_embeds": torch.zeros(1, 2, 12)}, "Exactly one of"),
    "mask of another length": ({"input_ids": tokens(1, 2), "attention_mask": torch.ones(1, 3)}, "must have the shape"),
    "packed, with a cache": (
        {"input_ids": tokens(1, 4), "cu_seq_lens_q": torch.tensor([0, 1, 4]), "use_cache": True},
        "no single state",
    ),
    "labels of kept logits": ({"input_ids": tokens(1, 4), "labels": tokens(1, 4), "logits_to_keep": 1}, "every step"),
    "unknown argument": ({"input_ids": tokens(1, 2), "atention_mask": None}, "did you mean 'attention_mask'"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_refused(refused: str):
    """Before any work, with the rule and the value."""
    arguments, says = REFUSED[refused]
    with pytest.raises((ValueError, IndexError, TypeError), match=says):
        tiny_striped(StripedHyenaModelForCausalLM)(**arguments)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"attn_layer_idxs": [0]}, "This cache has layers"),
    "states": ({"state_size": 5}, "it belongs to another model"),
    "keys": ({"num_attention_heads": 3}, "it belongs to another model"),
    "batch": ({}, "2 sequences, got 1"),
    "short filter": ({"short_filter_length": 4}, "it belongs to another model"),
}


@pytest.mark.parametrize("other", OTHERS)
@torch.no_grad()
def test_cache_of_another_model(other: str):
    """Refused before anything is computed."""
    changes, says = OTHERS[other]
    cache = tiny_striped(StripedHyenaModelForCausalLM, **changes)(tokens(2, 3), use_cache=True).cache
    with pytest.raises(ValueError, match=says):
        tiny_striped(StripedHyenaModelForCausalLM)(tokens(1 if other == "batch" else 2, 1), cache=cache)


def test_configuration_says_what_a_cache_has():
    """The layers of a cache follow from the configuration, before any step."""
    cache = DynamicCache(config=StripedHyenaConfig(**TINY))
    assert [type(layer).__name__ for layer in cache.layers] == ["HyenaCacheLayer", "DynamicLayer", "HyenaCacheLayer"]
