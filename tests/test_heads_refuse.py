"""What heads refuse: with the rule, the value and the cure, and before any work."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny import EXAMPLES, HEADS, tiny_config
from torch import Tensor

from modeling_dlr import DLRForSequenceClassification, checks_dlr
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.blocks_dlr import DLRMixer

# The head, its fields, its inputs, and what the message must contain.
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "next token of both sides": (
        "AutoModelForCausalLM",
        {"bidirectional": True},
        {},
        ["bidirectional", "DLRForMaskedLM"],
    ),
    "hidden values": ("AutoModelForMaskedLM", {"input_size": 3}, {}, ["predicts tokens", "input_size=3", "vocab_size"]),
    "sound as tokens": ("AutoModelForAudioClassification", {"vocab_size": 5}, {}, ["vocab_size=5", "set input_size"]),
    "pixels as tokens": ("AutoModelForImageClassification", {"vocab_size": 5}, {}, ["vocab_size=5", "set input_size"]),
    "wrong channels": (
        "AutoModelForImageClassification",
        {"input_size": 3},
        {"pixel_values": torch.zeros(1, 1, 2, 2)},
        ["input_size=3", "[1, 1, 2, 2]", "convert images to 3 channels"],
    ),
    "colour with transparency": (
        "AutoModelForSemanticSegmentation",
        {"input_size": 1},
        {"pixel_values": torch.zeros(1, 4, 2, 2)},
        ["input_size=1", "[1, 4, 2, 2]", "convert images to 1 channels"],
    ),
    "image without a batch": (
        "AutoModelForSemanticSegmentation",
        {"input_size": 3},
        {"pixel_values": torch.zeros(3, 2, 2)},
        ["[batch, input_size=3", "[3, 2, 2]"],
    ),
    "one choice": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(2, 7, dtype=torch.long)},
        ["input_ids", "[batch, sequences, length", "[2, 7]"],
    ),
    "no such choice": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 2, 7, dtype=torch.long), "labels": torch.tensor([2])},
        ["num_choices-1 = 1", "got 2"],
    ),
    "a single choice": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 1, 7, dtype=torch.long), "labels": torch.tensor([0])},
        ["at least 2 choices", "got 1"],
    ),
    "choices as zeros and a one": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 2, 7, dtype=torch.long), "labels": torch.tensor([[0, 1]])},
        ["the shape [1], the index", "got [1, 2]"],
    ),
    "labels of other questions": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 2, 7, dtype=torch.long), "labels": torch.tensor([1, 1])},
        ["the shape [1]", "got [2]"],
    ),
    "mask of other choices": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(2, 3, 7, dtype=torch.long), "attention_mask": torch.ones(3, 2, 7)},
        ["agree", "[2, 3, 7]", "[3, 2, 7]"],
    ),
    "four documents as a pair": (
        "AutoModelForNextSentencePrediction",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 4, 7, dtype=torch.long)},
        ["2 documents per example", "got 4", "DLRForMultipleChoice"],
    ),
    "one document as a pair": (
        "AutoModelForNextSentencePrediction",
        {"vocab_size": 5},
        {"input_ids": torch.ones(2, 1, 7, dtype=torch.long)},
        ["2 documents per example", "got 1"],
    ),
    "labels of an image on its side": (
        "AutoModelForSemanticSegmentation",
        {"input_size": 3},
        {"pixel_values": torch.zeros(2, 3, 5, 7), "labels": torch.zeros(2, 7, 5, dtype=torch.long)},
        ["[batch, height, width] = [2, 5, 7]", "got [2, 7, 5]", "without interpolation"],
    ),
    "documents in the row of a choice": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(1, 2, 4, dtype=torch.long),
            "position_ids": torch.tensor([[[0, 1, 2, 3], [0, 1, 0, 1]]]),
        },
        ["pools a row into one vector", "a row of its own"],
    ),
    "positions of one choice for all": (
        "AutoModelForMultipleChoice",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 2, 4, dtype=torch.long), "position_ids": torch.arange(4).unsqueeze(0)},
        ["position_ids", "[batch, sequences, length", "[1, 4]"],
    ),
    "positions of other pairs": (
        "AutoModelForNextSentencePrediction",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 2, 4, dtype=torch.long), "position_ids": torch.zeros(2, 2, 4, dtype=torch.long)},
        ["agree", "[1, 2, 4]", "[2, 2, 4]"],
    ),
    "answers of other questions": (
        "AutoModelForQuestionAnswering",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(2, 4, dtype=torch.long),
            "start_positions": torch.tensor([1, 1, 1]),
            "end_positions": torch.tensor([1, 2, 3]),
        },
        ["the shape [2]", "got [3]"],
    ),
    "beginnings without an end": (
        "AutoModelForQuestionAnswering",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(2, 4, dtype=torch.long),
            "start_positions": torch.tensor([1, 1]),
            "end_positions": torch.tensor([1]),
        },
        ["one shape", "[2] and [1]"],
    ),
    "answers in a row": (
        "AutoModelForQuestionAnswering",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(2, 4, dtype=torch.long),
            "start_positions": torch.tensor([[1, 1]]),
            "end_positions": torch.tensor([[1, 2]]),
        },
        ["the shape [batch]", "got [1, 2]"],
    ),
    "shifted labels of another length": (
        "AutoModelForCausalLM",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(1, 3, dtype=torch.long),
            "labels": torch.ones(1, 3, dtype=torch.long),
            "shift_labels": torch.ones(1, 2, dtype=torch.long),
        },
        ["labels", "[1, 3] of the input", "got [1, 2]"],
    ),
    "shifted labels as numbers": (
        "AutoModelForCausalLM",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(1, 3, dtype=torch.long),
            "labels": torch.ones(1, 3, dtype=torch.long),
            "shift_labels": torch.ones(1, 3),
        },
        ["signed integers", "float32", ".long()"],
    ),
    "flat labels of an image": (
        "AutoModelForSemanticSegmentation",
        {"input_size": 3},
        {"pixel_values": torch.zeros(2, 3, 5, 7), "labels": torch.zeros(2, 35, dtype=torch.long)},
        ["[batch, height, width] = [2, 5, 7]", "got [2, 35]"],
    ),
    "class of a pixel": (
        "AutoModelForSemanticSegmentation",
        {"input_size": 3},
        {"pixel_values": torch.zeros(2, 3, 5, 7), "labels": torch.full((2, 5, 7), 4)},
        ["num_labels-1 = 3", "got 4"],
    ),
    "tokens of another tokenizer": (
        "AutoModelForCausalLM",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 3, dtype=torch.long), "labels": torch.tensor([[1, 2, 5]])},
        ["vocab_size-1 = 4", "got 5", "pad them by -100"],
    ),
    "labels of another length": (
        "AutoModelForMaskedLM",
        {"vocab_size": 5, "bidirectional": True},
        {"input_ids": torch.ones(1, 3, dtype=torch.long), "labels": torch.ones(1, 2, dtype=torch.long)},
        ["labels", "[1, 3] of the input", "got [1, 2]"],
    ),
    "labels without their logits": (
        "AutoModelForCausalLM",
        {"vocab_size": 5},
        {
            "input_ids": torch.ones(1, 3, dtype=torch.long),
            "labels": torch.ones(1, 3, dtype=torch.long),
            "logits_to_keep": 1,
        },
        ["logits of every step", "logits_to_keep at 0"],
    ),
    "several documents in a row": (
        "AutoModelForSequenceClassification",
        {"vocab_size": 5},
        {"input_ids": torch.ones(1, 4, dtype=torch.long), "position_ids": torch.tensor([[0, 1, 0, 1]])},
        ["pools a row into one vector", "a row of its own"],
    ),
}


NO_TENSORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "tokens in lists": ("AutoModelForSequenceClassification", {"input_ids": [[1, 2]]}, "input_ids .* a list: .*'pt'"),
    "a text": ("AutoModelForCausalLM", {"input_ids": "some words"}, "input_ids .* a str: .*'pt'"),
    "labels in lists": ("AutoModelForSequenceClassification", {"labels": [1]}, "labels .* a list: encode classes"),
    "words to predict": ("AutoModelForCausalLM", {"labels": ["a"]}, "labels .* a list: encode classes"),
    "a label map in lists": (
        "AutoModelForSemanticSegmentation",
        {"pixel_values": torch.ones(1, 1, 1, 2), "labels": [[[0, 1]]]},
        "labels .* a list: encode classes",
    ),
    "positions in lists": ("AutoModel", {"position_ids": [[0, 1]]}, "position_ids .* a list"),
    "boundaries in lists": ("AutoModel", {"cu_seq_lens_q": [0, 2]}, "cu_seq_lens_q .* a list"),
    "a mask in lists": ("AutoModel", {"attention_mask": [[1, 1]]}, "attention_mask .* a list"),
    "a cache in tuples": ("AutoModel", {"cache": ((1,),)}, "cache .* a tuple: .*DynamicCache"),
    "pixels in an array": ("AutoModelForImageClassification", {"pixel_values": np.ones((1, 1, 2, 2))}, "a ndarray"),
    "answers in lists": (
        "AutoModelForQuestionAnswering",
        {"start_positions": torch.tensor([0]), "end_positions": [1]},
        "end_positions .* a list",
    ),
}


@pytest.mark.parametrize(("auto_class", "inputs", "says"), NO_TENSORS.values(), ids=NO_TENSORS.keys())
def test_what_is_no_tensor_is_refused(auto_class: str, inputs: dict[str, Any], says: str):
    values = "pixel_values" in inputs
    model = AUTO_CLASSES[auto_class](tiny_config(**{"input_size": 1} if values else {}))
    tokens = {} if values else {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    with pytest.raises(TypeError, match=says):
        model(**tokens | inputs)


@pytest.mark.parametrize(("auto_class", "fields", "inputs", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(
    auto_class: str,
    fields: dict[str, Any],
    inputs: dict[str, Any],
    says: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """What a head cannot be built for or cannot read is refused with the rule, the value and the cure, and no work."""
    monkeypatch.setattr(DLRMixer, "forward", lambda *_: pytest.fail("the backbone ran"))
    fields = {"vocab_size": None, "pad_token_id": None} | fields if "input_size" in fields else fields
    with pytest.raises(ValueError, match=r".*") as caught:
        AUTO_CLASSES[auto_class](tiny_config(**fields))(**inputs)
    assert all(part in str(caught.value) for part in says), caught.value


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("auto_class", [name for name in EXAMPLES if name != "AutoModel"])
def test_classes_are_integers(auto_class: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """No head takes classes, tokens or steps as anything but integers that hold -100, and it says how to make them."""
    monkeypatch.setattr(DLRMixer, "forward", lambda *_: pytest.fail("the backbone ran"))
    example = EXAMPLES[auto_class]
    config = tiny_config(**example.fields)
    labels = {name: value.to(dtype) for name, value in example.labels(config, 2, 7).items()}
    with pytest.raises(ValueError, match=r"\.long\(\)"):
        AUTO_CLASSES[auto_class](config)(**example.inputs(config, 2, 7), **labels)


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

# Labels that a head over three sequences and four classes refuses: its fields, the labels, and what the message says.
WRONG: dict[str, tuple[dict[str, Any], Tensor, list[str]]] = {
    "numbers for classes": ({"problem_type": SINGLE}, torch.tensor([3.7, 1.2, 0.9]), ["signed integers", "float32"]),
    "a number per sequence": ({}, torch.tensor([3.7, 1.2, 0.9]), ["[3, 4]", "got [3]", "one class each", ".long()"]),
    "zeros and ones": ({}, torch.eye(3, 4).long(), ["got [3, 4]", MULTI, REGRESSION, ".float()"]),
    "zeros and ones of a type": ({"problem_type": SINGLE}, torch.eye(3, 4).int(), ["got [3, 4]", MULTI, ".float()"]),
    "truths": ({}, torch.eye(3, 4).bool(), ["got [3, 4]", MULTI, ".float()"]),
    "truths for several classes": ({"problem_type": MULTI}, torch.eye(3, 4).bool(), ["floats", "bool", ".float()"]),
    "bytes for several classes": ({"problem_type": MULTI}, torch.eye(3, 4).byte(), ["floats", "uint8", ".float()"]),
    "classes for several": ({"problem_type": MULTI}, torch.tensor([0, 1, 2]), ["[3, 4]", "got [3]", SINGLE]),
    "padding of floats": ({"problem_type": MULTI}, torch.full((3, 4), -100.0), ["0 … 1", "NaN", "got -100.0"]),
    "more than there": ({"problem_type": MULTI}, torch.full((3, 4), 2), ["0 … 1", "be -100", "got 2"]),
    "one of several": ({"problem_type": MULTI, "num_labels": 1}, torch.tensor([0.0, 1.0, 1.5]), ["0 … 1", "got 1.5"]),
    "without end": ({"num_labels": 1}, torch.tensor([0.0, torch.inf, 1.0]), ["finite", "NaN", "got inf"]),
    "without end below": ({"problem_type": REGRESSION}, torch.full((3, 4), -torch.inf), ["finite", "got -inf"]),
    "truths as numbers": ({"num_labels": 1}, torch.tensor([True, False, True]), ["floats", "bool", ".float()"]),
    "complex numbers": ({"num_labels": 1}, torch.zeros(3, dtype=torch.complex64), ["floats", "complex64"]),
}


@pytest.mark.parametrize(("fields", "labels", "says"), WRONG.values(), ids=WRONG.keys())
def test_labels_of_another_problem(
    fields: dict[str, Any], labels: Tensor, says: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Type, shape and values are those that the loss computes with, or the message says which problem it could be."""
    monkeypatch.setattr(DLRMixer, "forward", lambda *_: pytest.fail("the backbone ran"))
    model = DLRForSequenceClassification(tiny_config(**fields))
    with pytest.raises(ValueError, match=r".*") as caught:
        model(input_ids=torch.ones(3, 7, dtype=torch.long), labels=labels)
    assert all(part in str(caught.value) for part in says), caught.value


def test_a_configuration_that_was_changed():
    """What is set on the configuration of a model that exists is checked with the labels."""
    model = DLRForSequenceClassification(tiny_config(problem_type=SINGLE))
    model.config.num_labels = 1
    with pytest.raises(ValueError, match="num_labels > 1"):
        model(input_ids=torch.ones(3, 7, dtype=torch.long), labels=torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("auto_class", [name for name in EXAMPLES if name != "AutoModel"])
@torch.no_grad()
def test_labels_on_an_accelerator(auto_class: str, monkeypatch: pytest.MonkeyPatch):
    """No value of labels is read there, which would wait for the device: it asserts them by itself.

    Meta tensors know shapes and types only, and raise where somebody asks for a value.
    """
    asserted = []
    monkeypatch.setattr(checks_dlr, "has_memory", lambda tensor: True)
    monkeypatch.setattr(checks_dlr, "ASSERTING_DEVICES", ("cpu", "meta"))
    monkeypatch.setattr(torch, "_assert_async", lambda holds, says: asserted.append((holds.device.type, says)))
    example = EXAMPLES[auto_class]
    config = tiny_config(**example.fields)
    model = AUTO_CLASSES[auto_class](config).to("meta")
    arguments = {name: value.to("meta") for name, value in example.arguments(config).items()}
    assert model(**arguments).loss.device.type == "meta"
    with pytest.raises(ValueError, match=r"\.long\(\)"):
        model(
            **arguments | {name: value.to("meta", torch.bool) for name, value in example.labels(config, 2, 7).items()}
        )
    assert all(device == "meta" for device, _ in asserted)
    # A step outside the sequence is not wrong: it is ignored.
    assert any("Labels must lie in 0" in says for _, says in asserted) == (
        auto_class != "AutoModelForQuestionAnswering"
    )


# Labels that do not fit two sequences of seven steps and four classes.
WRONG_LABELS = {
    "class too many": {"sequence head": torch.tensor([0, 4]), "token head": torch.full((2, 7), 4)},
    "wrong shape": {"sequence head": torch.zeros(2, 7, dtype=torch.long), "token head": torch.tensor([0, 1])},
    "floats of another number": {"sequence head": torch.zeros(2, 3), "token head": torch.zeros(2, 7, 3)},
}

# What the message says about labels of two sequences of seven steps that are numbers, or too few.
NUMBERS = {"sequence head": torch.zeros(2), "token head": torch.zeros(2, 7)}
TOO_FEW = {"sequence head": torch.tensor([1]), "token head": torch.ones(2, 6, dtype=torch.long)}
CURES = {
    "numbers": (None, NUMBERS, "numbers num_labels=1"),
    "numbers of a regression": (REGRESSION, NUMBERS, "numbers num_labels=1"),
    "too few": (None, TOO_FEW, "pass one each, -100 to ignore it"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("problem", "labels", "cure"), CURES.values(), ids=CURES.keys())
def test_cures_of_labels(problem: str | None, labels: dict[str, Tensor], cure: str, head: str):
    """Numbers may lack num_labels=1, and classes may be too few."""
    model = HEADS[head](tiny_config(problem_type=problem))
    with pytest.raises(ValueError, match=cure):
        model(input_ids=torch.ones(2, 7, dtype=torch.long), labels=labels[head])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS.keys())
def test_wrong_labels_move_nothing(head: str, labels: dict[str, Tensor]):
    """Labels are refused before a cache is moved on, and before they settle the kind of the problem."""
    model = HEADS[head](tiny_config())
    ids = torch.randint(1, 11, (2, 7))
    cache = model(input_ids=ids, use_cache=True).cache
    with pytest.raises(ValueError, match=r"must (lie in|have the shape)"):
        model(input_ids=ids, cache=cache, labels=labels[head])
    assert cache.get_seq_length() == 7
    assert model.config.problem_type is None
