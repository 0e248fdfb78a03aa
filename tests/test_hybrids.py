"""Models that mix DLR layers with full and local attention: as exact under padding, packing and caches as DLR alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_packing import LENGTHS as DOCUMENTS
from test_packing import PACKINGS
from test_padding import answers, padded
from test_streaming import CUTS, streamed
from tiny import HEADS, assert_same_tensors, draw_input, draw_labels, gradients_of, perturbed, tiny_config
from tolerances import assert_close
from torch import Tensor
from transformers import AutoModelForTokenClassification, StaticCache

from modeling_dlr import DLRForCausalLM, DLRForTokenClassification, DLRModel
from modeling_dlr.heads_dlr import DLRHead

SIZES = {"hidden_size": 6, "num_hidden_layers": 3, "num_attention_heads": 3, "attention_window": 5}

HYBRIDS: dict[str, dict[str, Any]] = {
    "one of each": {"layer_types": ["dlr", "local_attention", "full_attention"]},
    "attention first": {
        "layer_types": ["local_attention", "full_attention", "dlr"],
        "norm_position": "post",
        "norm_type": "scalar_layer",
        "residual_type": "decay",
        "attention_ff_ratio": 2,
    },
    "gated DSS between": {
        "layer_types": ["full_attention", "dlr", "local_attention"],
        "kernel_parameters": {"kernel_type": "dss"},
        "output_gate": "glu",
        "num_kernel_channels": 2,
        "channel_gate_act": "silu",
    },
    "attention only": {"layer_types": ["local_attention"] * 3, "norm_type": "batch"},
}
ROWS = (7, 1, 63)

by_hybrid = pytest.mark.parametrize("fields", HYBRIDS.values(), ids=HYBRIDS.keys())
by_direction = pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
by_side = pytest.mark.parametrize("side", ["left", "right"])


def hybrid(model_class: Any, **fields: Any) -> Any:
    return perturbed(model_class(tiny_config(**SIZES | fields)).eval()).double()


def rows_of(model: DLRHead) -> list[Tensor]:
    return [draw_input("tokens", model.config, 1, length)["input_ids"] for length in ROWS]


@by_side
@pytest.mark.parametrize("head", HEADS)
@by_direction
@by_hybrid
def test_padding_changes_nothing(fields: dict[str, Any], bidirectional: bool, head: str, side: str):
    """Logits and gradients of a padded batch are those of its rows one by one."""
    model = hybrid(HEADS[head], bidirectional=bidirectional, **fields)
    rows = rows_of(model)
    labels = [draw_labels(head, model.config, 1, length) for length in ROWS]
    count, alone = sum(label.numel() for label in labels), []
    for row, label in zip(rows, labels, strict=True):
        output = model(row, labels=label, num_items_in_batch=count)
        output.loss.backward()
        alone.append(output.logits[0])
    expected = gradients_of(model)
    model.zero_grad()
    inputs, mask = padded(rows, 4, side, content=7)
    batch_labels = padded(labels, 4, side, -100)[0] if head == "token head" else torch.cat(labels)
    output = model(inputs, attention_mask=mask, labels=batch_labels)
    output.loss.backward()
    for actual, row in zip(answers(head, output.logits, mask), alone, strict=True):
        assert_close(actual, row, torch.float64)
    assert_same_tensors(gradients_of(model), expected, tolerance=1e-9)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS.keys())
@by_direction
@by_hybrid
def test_documents_are_computed_separately(fields: dict[str, Any], bidirectional: bool, packing: dict[str, Tensor]):
    """Documents that share a row have the logits and gradients of the documents one by one."""
    model = hybrid(DLRForTokenClassification, bidirectional=bidirectional, **fields)
    ids = draw_input("tokens", model.config, 1, sum(DOCUMENTS))["input_ids"]
    packed = model(ids, **packing).logits
    packed.square().sum().backward()
    gradients = gradients_of(model)
    model.zero_grad()
    alone = torch.cat([model(part).logits for part in ids.split(DOCUMENTS, dim=1)], dim=1)
    alone.square().sum().backward()
    assert_close(packed, alone, torch.float64)
    assert_same_tensors(gradients, gradients_of(model), tolerance=1e-9)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
@by_side
@by_hybrid
@torch.no_grad()
def test_chunks_are_the_whole(fields: dict[str, Any], side: str, cuts: list[int]):
    """A padded batch in pieces has the hidden states of the whole, for any split."""
    model = hybrid(DLRModel, **fields)
    ids, mask = padded(rows_of(model), 0, side, content=7)
    whole = model(ids, attention_mask=mask).last_hidden_state
    pieces = streamed(model, "input_ids", ids, cuts, attention_mask=mask)
    states = torch.cat([piece.last_hidden_state for piece in pieces], dim=1)
    assert_close(states[mask.bool()], whole[mask.bool()], torch.float64)


@by_hybrid
@torch.no_grad()
def test_static_cache(fields: dict[str, Any]):
    """A static cache with more capacity than steps gives the same logits step by step."""
    model = hybrid(DLRForCausalLM, **fields)
    ids = draw_input("tokens", model.config, 2, 17)["input_ids"]
    cache = StaticCache(config=model.config, max_cache_len=40)
    pieces = [model(part, cache=cache).logits for part in ids.split([9, *[1] * 8], dim=1)]
    assert_close(torch.cat(pieces, dim=1), model(ids).logits, torch.float64)


@torch.no_grad()
def test_only_full_attention_remembers_everything():
    """After many steps, only the cache of full attention has grown."""
    model = hybrid(DLRModel, **HYBRIDS["one of each"])
    sizes = []
    cache = None
    for length in (20, 30, 1):
        ids = draw_input("tokens", model.config, 2, length)["input_ids"]
        cache = model(ids, cache=cache, use_cache=True).cache
        sizes.append([layer.keys.numel() for layer in cache.layers])
    assert sizes == [[2 * 6 * 5, 2 * 6 * 9, 2 * 6 * steps] for steps in (20, 50, 51)]


@by_direction
@by_hybrid
def test_round_trip(fields: dict[str, Any], bidirectional: bool, tmp_path: Path):
    """A saved hybrid comes back with the same layers, to the bit."""
    model = hybrid(DLRForTokenClassification, bidirectional=bidirectional, **fields)
    model.save_pretrained(tmp_path)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert again.config.layer_types == fields["layer_types"]
    assert_same_tensors(again.state_dict(), model.state_dict())
    ids = rows_of(model)[0]
    assert_close(again(ids).logits, model(ids).logits, torch.float64)


def test_initial_scale():
    """Fresh queries are scaled by head_size^-1/2, built directly or as transformers builds a model."""
    config = tiny_config(**SIZES | HYBRIDS["one of each"])
    for model in (DLRModel(config), DLRModel._from_config(config)):
        for layer in model.layers[1:]:
            assert torch.equal(layer.mixer.attention.query_scale, torch.tensor([2**-0.5]))


def test_overfits_one_batch():
    """A hybrid learns the labels of one batch."""
    model = DLRForTokenClassification(tiny_config(**SIZES | HYBRIDS["one of each"] | {"hidden_size": 12})).train()
    ids = draw_input("tokens", model.config, 4, 23)["input_ids"]
    labels = (ids + ids.roll(1, dims=1)).remainder(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(100):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
