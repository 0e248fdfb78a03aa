"""What heads refuse: with the rule, the value and the cure, and before any work."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny import HEADS, tiny_config
from torch import Tensor

from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_dlr import DLRMixer

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
        ["num_labels-1 = 1", "got 2"],
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
    "a row of padding": (
        "AutoModelForSequenceClassification",
        {"vocab_size": 5},
        {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.tensor([[1] * 4, [0] * 4])},
        ["at least one step", "row 1", "drop empty texts"],
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


# Labels that do not fit two sequences of seven steps and four classes.
WRONG_LABELS = {
    "class too many": {"sequence head": torch.tensor([0, 4]), "token head": torch.full((2, 7), 4)},
    "wrong shape": {"sequence head": torch.zeros(2, 7, dtype=torch.long), "token head": torch.tensor([0, 1])},
    "floats of another number": {"sequence head": torch.zeros(2, 3), "token head": torch.zeros(2, 7, 3)},
}


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
