"""What a model refuses before it starts to work: the message states the rule, the value and the cure."""

from typing import Any

import pytest
import torch
from tiny import HEADS, draw_input, perturbed, tiny_config

from modeling_dlr import DLRModel

IDS = torch.ones(2, 7, dtype=torch.long)
VALUES = torch.zeros(2, 7, 3)

# The configuration, the inputs, the kind of error, and what its message must contain.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], list[str]]] = {
    "no input": ({}, {}, ValueError, ["Exactly one", "none of them"]),
    "two inputs": (
        {},
        {"input_ids": IDS, "inputs_embeds": VALUES},
        ValueError,
        ["Exactly one", "input_ids and inputs_embeds"],
    ),
    "values for a model of tokens": (
        {},
        {"input_values": VALUES},
        ValueError,
        ["reads tokens", "11", "pass input_ids"],
    ),
    "tokens for a model of values": (
        {"input_size": 3},
        {"input_ids": IDS},
        ValueError,
        ["reads real values", "input_size=3", "pass input_values"],
    ),
    "tokens without a batch": ({}, {"input_ids": IDS[0]}, ValueError, ["input_ids", "[batch, length]", "got [7]"]),
    "real-valued tokens": ({}, {"input_ids": IDS.float()}, ValueError, ["integers", "float32", "input_values"]),
    "bytes as bytes": ({}, {"input_ids": IDS.to(torch.uint8)}, ValueError, ["int64 or int32", "uint8", ".long()"]),
    "truths as tokens": ({}, {"input_ids": IDS.bool()}, ValueError, ["int64 or int32", "bool"]),
    "integer embeddings": ({}, {"inputs_embeds": VALUES.long()}, ValueError, ["inputs_embeds", "int64", ".float()"]),
    "integer values": (
        {"input_size": 3},
        {"input_values": VALUES.long()},
        ValueError,
        ["input_values", "int64", ".float()"],
    ),
    "token beyond the vocabulary": (
        {},
        {"input_ids": IDS * 11},
        IndexError,
        ["0 … vocab_size-1 = 10", "got 11", "own tokenizer", "resize_token_embeddings"],
    ),
    "negative token": ({}, {"input_ids": IDS - 3}, IndexError, ["0 …", "got -2", "own tokenizer"]),
    "embeddings of another width": (
        {},
        {"inputs_embeds": VALUES[..., :2]},
        ValueError,
        ["inputs_embeds", "hidden_size=3", "got [2, 7, 2]"],
    ),
    "values of another width": (
        {"input_size": 2},
        {"input_values": VALUES},
        ValueError,
        ["input_values", "input_size=2", "got [2, 7, 3]"],
    ),
    "no feature axis": (
        {"input_size": 3},
        {"input_values": VALUES[..., 0]},
        ValueError,
        ["input_values", "input_size=3", "got [2, 7]"],
    ),
    "mask of another length": (
        {},
        {"input_ids": IDS, "attention_mask": IDS[:, :5]},
        ValueError,
        ["attention_mask", "[2, 7]", "got [2, 5]", "0 for padding"],
    ),
    "additive mask": (
        {},
        {"input_ids": IDS, "attention_mask": torch.tensor([[-torch.inf, *[0.0] * 6]] * 2)},
        ValueError,
        ["attention_mask", "1 at steps that count", "0 at padding", "got -inf", "attention_mask == 0"],
    ),
    "additive mask of a finite number": (
        {},
        {"input_ids": IDS, "attention_mask": torch.tensor([[0, 0, -1e9, 0, 0, 0, 0]] * 2)},
        ValueError,
        ["attention_mask", "got -1000000000.0", "attention_mask == 0"],
    ),
    "mask of -1": ({}, {"input_ids": IDS, "attention_mask": -IDS}, ValueError, ["attention_mask", "got -1"]),
    "mask of 2": ({}, {"input_ids": IDS, "attention_mask": 2 * IDS}, ValueError, ["attention_mask", "got 2"]),
    "mask that is no number": (
        {},
        {"input_ids": IDS, "attention_mask": IDS * torch.nan},
        ValueError,
        ["attention_mask", "got nan"],
    ),
    "weights as a mask": ({}, {"input_ids": IDS, "attention_mask": IDS * 0.5}, ValueError, ["got 0.5"]),
    "additive mask of queries and keys": (
        {},
        {"input_ids": IDS, "attention_mask": torch.zeros(2, 1, 7, 7).masked_fill(torch.ones(7, 7).triu(1) > 0, -1e9)},
        ValueError,
        ["attention_mask", "[2, 7]", "got [2, 1, 7, 7]", "one number per step"],
    ),
    "mask of an attention model": (
        {},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 7, 7)},
        ValueError,
        ["attention_mask", "[2, 7]", "got [2, 1, 7, 7]"],
    ),
}

# The head, its configuration, the labels, and what the message must contain.
REFUSED_LABELS: dict[str, tuple[str, dict[str, Any], torch.Tensor, list[str]]] = {
    "class too many": ("sequence head", {}, torch.tensor([0, 4]), ["num_labels-1 = 3", "got 4", "set num_labels"]),
    "negative class": ("sequence head", {}, torch.tensor([-1, 0]), ["0 …", "got -1", "-100 to be ignored"]),
    "class too many at a step": ("token head", {}, IDS * 9, ["num_labels-1 = 3", "got 9", "set num_labels"]),
    "one class for all steps": (
        "token head",
        {},
        torch.tensor([0, 1]),
        ["single_label_classification", "num_labels=4", "[2, 7]", "got [2]", "set problem_type"],
    ),
    "too few numbers": (
        "sequence head",
        {"problem_type": "regression"},
        torch.zeros(2, 3),
        ["regression", "[2, 4]", "got [2, 3]", "set problem_type"],
    ),
    "classes as indices": (
        "sequence head",
        {"problem_type": "multi_label_classification"},
        torch.tensor([0, 1]),
        ["multi_label_classification", "[2, 4]", "got [2]"],
    ),
}


@pytest.mark.parametrize("model_class", [DLRModel, *HEADS.values()], ids=["backbone", *HEADS])
@pytest.mark.parametrize(("fields", "inputs", "error", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_inputs(model_class: type, fields: dict, inputs: dict, error: type[Exception], says: list[str]):
    """An input that the model cannot read is refused by the backbone and alike by every head."""
    with pytest.raises(error) as caught:
        model_class(tiny_config(**fields))(**inputs)
    assert all(part in str(caught.value) for part in says), caught.value


@pytest.mark.parametrize("name", ["alpha", "scales", "D"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_what_is_not_finite(name: str, value: float):
    """Also where there are no poles."""
    model = DLRModel(tiny_config(kernel_parameters={"kernel_type": "sgconv"}))
    mixer = model.layers[1].mixer
    with torch.no_grad():
        (mixer.D if name == "D" else getattr(mixer.kernel, name)).flatten()[0] = value
    with pytest.raises(ValueError, match=rf"^model\.layers\.1\.mixer\.(kernel\.)?{name} must be finite, got {value}"):
        model(IDS)


@pytest.mark.parametrize(("head", "fields", "labels", "says"), REFUSED_LABELS.values(), ids=REFUSED_LABELS.keys())
def test_labels(head: str, fields: dict, labels: torch.Tensor, says: list[str]):
    """Labels outside the classes or of the wrong shape are refused."""
    with pytest.raises(ValueError, match=r"got") as caught:
        HEADS[head](tiny_config(**fields))(input_ids=IDS, labels=labels)
    assert all(part in str(caught.value) for part in says), caught.value


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer_types", [["dlr"] * 2, ["dlr", "full_attention"]], ids=str)
def test_kinds_of_masks(dtype: torch.dtype, layer_types: list[str]):
    """Zeros and ones of any type are one mask."""
    model = perturbed(DLRModel(tiny_config(hidden_size=8, layer_types=layer_types)).eval())
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 1, 1]])
    expected = model(IDS, attention_mask=mask).last_hidden_state
    assert torch.equal(model(IDS, attention_mask=mask.to(dtype)).last_hidden_state, expected)


@pytest.mark.parametrize("layer_types", [["dlr"] * 2, ["dlr", "full_attention"]], ids=str)
def test_mask_of_a_stream(layer_types: list[str]):
    """A mask is looked at in every chunk, also where a model reads no more of it than the chunk."""
    model = DLRModel(tiny_config(hidden_size=8, layer_types=layer_types)).eval()
    cache = model(IDS, use_cache=True).cache
    mask = torch.ones(2, 8)
    mask[1, 7] = -torch.inf
    with pytest.raises(ValueError, match=r"attention_mask must be 1 .* got -inf"):
        model(IDS[:, :1], attention_mask=mask, cache=cache)


WRONG_VALUES = {
    "mask": ({"attention_mask": 2 * IDS}, "attention_mask must be 1 at steps that count and 0 at padding"),
    "token": ({"input_ids": 11 * IDS}, "Token ids must lie in 0 … vocab_size-1 = 10"),
    "label": ({"labels": torch.tensor([0, 4])}, "Labels must lie in 0 … num_labels-1 = 3"),
}


def test_values_in_a_compiled_program():
    """A compiled program, which reads no value while it is traced, asserts them where it runs."""
    model = HEADS["sequence head"](tiny_config(num_hidden_layers=1)).eval()
    program = torch.compile(model, backend="eager", fullgraph=True)
    right = {"input_ids": IDS, "attention_mask": IDS, "labels": torch.tensor([0, 3])}
    assert program(**right).loss.isfinite()
    for wrong, says in WRONG_VALUES.values():
        with pytest.raises(RuntimeError, match=says):
            program(**right | wrong)


def test_bounds_are_allowed():
    """The first and the last token and class, an ignored one, one single step and a step that stands alone are fine."""
    ids = torch.tensor([[0, 10, 1, 1, 1, 1, 1]])
    mask = torch.tensor([[0, 0, 0, 1, 0, 0, 0]])
    sequence, token = (HEADS[head](tiny_config()) for head in HEADS)
    assert sequence(input_ids=ids, attention_mask=mask, labels=torch.tensor([3])).loss.isfinite()
    assert token(input_ids=ids, labels=torch.tensor([[0, 3, -100, 1, 2, 0, -100]])).loss.isfinite()
    assert sequence(**draw_input("tokens", sequence.config, 1, 1), labels=torch.tensor([0])).loss.isfinite()
