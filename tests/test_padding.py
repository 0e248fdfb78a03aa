"""Padding never changes an output: a row has the same logits and gradients alone, in a batch, and padded anywhere."""

import copy
import itertools
from typing import Any

import pytest
import torch
from tiny import (
    EXAMPLES,
    HEADS,
    INPUTS,
    KERNELS,
    assert_same_tensors,
    draw_input,
    draw_labels,
    gradients_of,
    perturbed,
    tiny_config,
)
from torch import Tensor

from modeling_dlr import DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.heads_dlr import DLRHead
from modeling_dlr.kernels_dlr import DSSKernel
from modeling_dlr.losses_dlr import POOLINGS

LENGTHS = (7, 1, 63)
AMOUNTS = (0, 1, 5, 64)

DIRECTIONS = {"causal": False, "bidirectional": True}
NORMS = {
    f"{position} {kind}": {"norm_position": position, "norm_type": kind}
    for position in ("pre", "post")
    for kind in ("layer", "scalar_layer", "batch")
}
HEADS_AND_POOLINGS = [("sequence head", pooling) for pooling in POOLINGS] + [("token head", "mean")]

by_direction = pytest.mark.parametrize("bidirectional", DIRECTIONS.values(), ids=DIRECTIONS.keys())
by_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
by_head = pytest.mark.parametrize(
    ("head", "pooling"), HEADS_AND_POOLINGS, ids=[f"{head}, {pooling}" for head, pooling in HEADS_AND_POOLINGS]
)
by_side = pytest.mark.parametrize("side", ["left", "right"])


def padded(rows: list[Tensor], amount: int, side: str, content: Tensor | float = 0) -> tuple[Tensor, Tensor]:
    """Rows [1, L, ...] as one batch of the longest length plus ``amount``, and its mask."""
    length = max(row.shape[1] for row in rows) + amount
    batch = torch.stack([torch.as_tensor(content).expand(length, *row.shape[2:]).to(row.dtype) for row in rows])
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        steps = slice(length - row.shape[1], length) if side == "left" else slice(row.shape[1])
        batch[i, steps] = row[0]
        mask[i, steps] = 1
    return batch, mask


def answers(head: str, logits: Tensor, mask: Tensor) -> list[Tensor]:
    """The logits of each row that count: all of a sequence, those at the real steps of tokens."""
    return [row[steps.bool()] if head == "token head" else row for row, steps in zip(logits, mask, strict=True)]


def model_and_rows(head: str, kind: str = "tokens", **fields: Any) -> tuple[DLRHead, str, list[Tensor]]:
    """A model with every parameter moved, the name of its input, and rows of several lengths."""
    name, needed = INPUTS[kind]
    model = perturbed(HEADS[head](tiny_config(**needed, **fields)).eval())
    return model, name, [draw_input(kind, model.config, 1, length)[name] for length in LENGTHS]


@torch.no_grad()
def largest_change(head: str, model: DLRHead, name: str, rows: list[Tensor], side: str) -> float:
    """By how much the logits of any row move, of all batches and amounts of padding."""
    device = model.device
    alone = [model(**{name: row.to(device)}).logits[0] for row in rows]
    changes = []
    for amount, batch in itertools.product(AMOUNTS, ([0], [0, 1, 2])):
        inputs, mask = (tensor.to(device) for tensor in padded([rows[i] for i in batch], amount, side))
        logits = model(**{name: inputs}, attention_mask=mask).logits
        changes += [answer - alone[i] for i, answer in zip(batch, answers(head, logits, mask), strict=True)]
    return max(float(change.abs().max()) for change in changes)


@by_direction
@by_norm
@by_head
@by_side
def test_logits(head: str, pooling: str, norm: dict[str, str], bidirectional: bool, side: str, device: torch.device):
    """A row's logits are the same alone, in a batch of other lengths, and with any amount of padding on either side."""
    model, name, rows = model_and_rows(head, pooling=pooling, bidirectional=bidirectional, **norm)
    assert largest_change(head, model.double().to(device), name, rows, side) < 1e-9


@by_direction
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_logits_of_every_kernel(kernel: dict[str, Any], bidirectional: bool, device: torch.device):
    """The same holds for every kernel, for several of them per channel, and for kernels that gate others."""
    several = {"num_kernel_channels": 2, "channel_gate_act": "silu", "residual_type": "decay"}
    for head, side in itertools.product(HEADS, ("left", "right")):
        model, name, rows = model_and_rows(head, bidirectional=bidirectional, kernel_parameters=kernel, **several)
        assert largest_change(head, model.double().to(device), name, rows, side) < 1e-9


def test_only_softmax_depends_on_padding():
    """DSS softmax, whose kernel depends on the length, is the exception, and its docstring says so."""
    softmax = {"kernel_type": "dss", "version": "softmax"}
    model, name, rows = model_and_rows("sequence head", kernel_parameters=softmax)
    assert largest_change("sequence head", model.double(), name, rows, "right") > 1e-3
    assert "padding" in (DSSKernel.__doc__ or "")


@by_direction
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("head", HEADS)
def test_batch_statistics(head: str, norm_position: str, bidirectional: bool):
    """In training, where BatchNorm mixes the rows of a batch, padding changes no logit, gradient or statistic."""
    fields = {"norm_type": "batch", "norm_position": norm_position, "bidirectional": bidirectional}
    model, name, rows = model_and_rows(head, **fields)
    trained = []
    for amount, side in itertools.product((0, 5, 64), ("right", "left")):
        copied = copy.deepcopy(model).double().train()
        inputs, mask = padded(rows, amount, side)
        logits = answers(head, copied(**{name: inputs}, attention_mask=mask).logits, mask)
        torch.cat([row.flatten() for row in logits]).square().sum().backward()
        trained.append(dict(enumerate(logits)) | gradients_of(copied) | dict(copied.named_buffers()))
    for other in trained[1:]:
        assert_same_tensors(other, trained[0], tolerance=1e-9)


@by_direction
@by_side
@pytest.mark.parametrize("head", HEADS)
def test_logits_in_float32(head: str, bidirectional: bool, side: str, device: torch.device):
    """In float32 they agree to 1e-5."""
    model, name, rows = model_and_rows(head, bidirectional=bidirectional, hidden_size=17)
    assert largest_change(head, model.to(device), name, rows, side) < 1e-5


@pytest.mark.parametrize("kind", INPUTS)
@by_direction
@by_side
def test_content_of_padding(kind: str, bidirectional: bool, side: str):
    """The content of padded steps does not matter, for tokens, embeddings and values."""
    model, name, rows = model_and_rows("sequence head", kind, bidirectional=bidirectional)
    first, second = (
        model(**{name: inputs}, attention_mask=mask).logits
        for inputs, mask in (padded(rows, 5, side, content) for content in (0, 7))
    )
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gap", [slice(2, 3), slice(0, 4), slice(3, 7)], ids=["inside", "at the start", "at the end"])
def test_mask_without_padding_tokens(gap: slice):
    """Only the mask defines padding: the padding token may be data."""
    model = perturbed(HEADS["sequence head"](tiny_config(bidirectional=True)).eval())
    ids = torch.zeros(1, 7, dtype=torch.long)
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, gap] = 0
    changed = ids.masked_fill(mask == 0, 5)
    expected = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(model(input_ids=changed, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(input_ids=ids).logits, expected, rtol=1e-3)


@by_direction
@pytest.mark.parametrize("layer_types", [["dlr"] * 2, ["dlr", "local_attention"], ["full_attention"] * 2], ids=str)
def test_gaps(layer_types: list[str], bidirectional: bool, device: torch.device):
    """Padding inside a row is skipped, with and without a cache."""
    fields = {"hidden_size": 8, "attention_window": 5, "layer_types": layer_types, "bidirectional": bidirectional}
    model = perturbed(DLRModel(tiny_config(**fields)).eval()).double().to(device)
    ids, mask = torch.randint(1, 11, (4, 31), device=device), torch.ones(4, 31, dtype=torch.long, device=device)
    mask[0, 5:9], mask[1, :3], mask[1, 20:22], mask[2] = 0, 0, 0, torch.randint(2, (31,))
    mask[2, 17] = 1
    for use_cache in (False, True)[: 1 if bidirectional else 2]:
        states = model(ids, attention_mask=mask, use_cache=use_cache).last_hidden_state
        for row, steps in enumerate(mask.bool()):
            alone = model(ids[row : row + 1, steps]).last_hidden_state[0]
            torch.testing.assert_close(states[row, steps], alone, rtol=1e-9, atol=1e-9)


@by_direction
@by_norm
@by_head
@by_side
def test_gradients(head: str, pooling: str, norm: dict[str, str], bidirectional: bool, side: str):
    """The gradient of a padded batch's loss is that of its rows one by one, for every parameter."""
    model, name, rows = model_and_rows(head, pooling=pooling, bidirectional=bidirectional, **norm)
    model = model.double()
    labels = [draw_labels(head, model.config, 1, length) for length in LENGTHS]
    count = sum(label.numel() for label in labels)
    for row, label in zip(rows, labels, strict=True):
        model(**{name: row}, labels=label, num_items_in_batch=count).loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    inputs, mask = padded(rows, 5, side)
    batch_labels = padded(labels, 5, side, -100)[0] if head == "token head" else torch.cat(labels)
    model(**{name: inputs}, attention_mask=mask, labels=batch_labels).loss.backward()
    assert_same_tensors(gradients_of(model), expected, tolerance=1e-9)


@by_norm
@by_side
@pytest.mark.parametrize("head", HEADS)
def test_padding_embedding_of_zeros(head: str, norm: dict[str, str], side: str):
    """A padding embedding of zeros, of which a norm without an epsilon makes 0/0, leaves no trace in any gradient."""
    model = HEADS[head](tiny_config(initializer_range=0.5, **norm)).double()
    assert not model.model.embed_tokens.weight[0].any()
    rows = [draw_input("tokens", model.config, 1, length)["input_ids"] for length in LENGTHS]
    labels = [draw_labels(head, model.config, 1, length) for length in LENGTHS]
    inputs, mask = padded(rows, 5, side)
    batch_labels = padded(labels, 5, side, -100)[0] if head == "token head" else torch.cat(labels)
    gradients = []
    for content in (0, 7):
        model.zero_grad()
        filled = inputs.masked_fill(mask == 0, content)
        model(input_ids=filled, attention_mask=mask, labels=batch_labels).loss.backward()
        gradients.append(gradients_of(model))
    assert_same_tensors(gradients[0], gradients[1], tolerance=1e-9)


POISONS = {"not a number": torch.nan, "infinity": torch.inf, "the largest number": torch.finfo(torch.float64).max}
# What a model is besides, so that padding takes every way through it.
WAYS: dict[str, dict[str, Any]] = {
    **{name: {"kernel_parameters": parameters, "bidirectional": True} for name, parameters in KERNELS.items()},
    **{f"{name}, bidirectional": norm | {"bidirectional": True} for name, norm in NORMS.items()},
    **NORMS,
    "gates": {"num_kernel_channels": 2, "channel_gate_act": "silu", "output_gate": "geglu"},
    "full attention": {"hidden_size": 8, "layer_types": ["dlr", "full_attention"], "attention_ff_ratio": 2},
    "local attention": {"hidden_size": 8, "layer_types": ["local_attention", "dlr"], "attention_window": 5},
}


def trained(model: Any, inputs: dict[str, Tensor], content: float, **others: Any) -> dict[str, Tensor]:
    """The loss, the gradients of parameters and inputs, and statistics, of inputs with ``content`` at their padding."""
    copied = copy.deepcopy(model).train()
    (name, values), padding = next(iter(inputs.items())), others["attention_mask"] == 0
    if name == "pixel_values":
        padding = padding.unsqueeze(1).unflatten(2, values.shape[2:])
    else:
        padding = padding.view(*padding.shape, *[1] * (values.dim() - padding.dim()))
    filled = values.masked_fill(padding, content)
    loss = copied(**{name: filled.requires_grad_()}, **others).loss
    loss.backward()
    assert filled.grad is not None
    # Embeddings as an input leave the table of tokens without a gradient.
    gradients = {name: value.grad for name, value in copied.named_parameters() if value.grad is not None}
    assert gradients.keys() >= {name for name, _ in copied.named_parameters() if "embed_tokens" not in name}
    return {"loss": loss, "input": filled.grad} | gradients | dict(copied.named_buffers())


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
@pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS)
def test_padding_with_nan(fields: dict[str, Any], poison: float):
    """NaN and infinity at padding reach no gradient: at the ends, inside a row, and in a whole row."""
    for kind, head in (("embeddings", "token head"), ("three values per step", "sequence head")):
        name, needed = INPUTS[kind]
        model = perturbed(HEADS[head](tiny_config(**needed | fields))).double()
        inputs = draw_input(kind, model.config, 4, 9)
        mask = torch.ones(4, 9)
        mask[0, 6:], mask[1, :3], mask[2, 4:6], mask[3] = 0, 0, 0, 0
        labels = draw_labels(head, model.config, 4, 9)
        if head == "token head":
            labels = labels.masked_fill(mask == 0, -100)
        others = {"attention_mask": mask, "labels": labels}
        batch = {name: inputs[name].double()}
        assert_same_tensors(trained(model, batch, poison, **others), trained(model, batch, 0, **others))


@pytest.mark.parametrize("auto_class", [name for name in EXAMPLES if name != "AutoModel"])
def test_padding_with_nan_in_every_head(auto_class: str):
    """The same for every head, with embeddings for tokens."""
    fields = {"hidden_size": 8} | EXAMPLES[auto_class].fields
    model = perturbed(AUTO_CLASSES[auto_class](tiny_config(**fields))).double()
    inputs, labels = (draw(model.config, 3, 7) for draw in EXAMPLES[auto_class][1:])
    (values,) = inputs.values()
    if "input_ids" in inputs:
        mask, inputs = torch.ones(values.shape), {"inputs_embeds": torch.randn(*values.shape, 8).double()}
    else:
        inputs = {name: value.double() for name, value in inputs.items()}
        mask = torch.ones(3, values[0, 0].numel()) if values.dim() == 4 else torch.ones(values.shape)
    mask[0, ..., :3] = 0
    others = labels | {"attention_mask": mask}
    assert_same_tensors(trained(model, inputs, torch.nan, **others), trained(model, inputs, 7, **others))


def test_padding_with_nan_in_packed_rows():
    """The same for documents in a padded row."""
    model = perturbed(HEADS["token head"](tiny_config(bidirectional=True))).double()
    mask, positions = torch.ones(2, 9), torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1], list(range(9))])
    mask[0, 7:], mask[1, :2] = 0, 0
    labels = draw_labels("token head", model.config, 2, 9).masked_fill(mask == 0, -100)
    others = {"attention_mask": mask, "labels": labels, "position_ids": positions}
    batch = {"inputs_embeds": torch.randn(2, 9, 3).double()}
    assert_same_tensors(trained(model, batch, torch.nan, **others), trained(model, batch, 7, **others))
