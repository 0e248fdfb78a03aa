"""The loss of every kind of problem, held against plain loops over the labels that count."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BIDIRECTIONAL, EXAMPLES, HEADS, SOUND, draw_input, gradients_of, tiny_config
from torch import Tensor
from torch.nn import functional

from modeling_dlr import DLRForQuestionAnswering, DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.heads_dlr import DLRHead
from modeling_dlr.losses_dlr import loss_by_problem_type

IGNORED = -100
NAN = float("nan")


def single_label(logits: list[float], label: int) -> list[float]:
    return [] if label == IGNORED else [math.log(sum(math.exp(x) for x in logits)) - logits[label]]


def multi_label(logits: list[float], labels: list[float]) -> list[float]:
    return [math.log1p(math.exp(-x if y else x)) for x, y in zip(logits, labels, strict=True) if not math.isnan(y)]


def regression(logits: list[float], labels: list[float]) -> list[float]:
    return [(x - y) ** 2 for x, y in zip(logits, labels, strict=True) if not math.isnan(y)]


def mean_over_labels(terms: Any, logits: Tensor, labels: Tensor) -> float:
    """The mean of ``terms`` over every row of logits."""
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    values = [value for row, label in zip(rows, labels, strict=True) for value in terms(row, label)]
    return sum(values) / len(values)


# problem_type, num_labels, labels of three sequences, and the terms of the loss.
SEQUENCE_PROBLEMS: dict[str, tuple[str, int, list[Any], Any]] = {
    "one class of four": ("single_label_classification", 4, [3, 0, 1], single_label),
    "one class, a label ignored": ("single_label_classification", 4, [3, IGNORED, 1], single_label),
    "two classes": ("single_label_classification", 2, [1, 0, 1], single_label),
    "several classes": ("multi_label_classification", 2, [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], multi_label),
    "several classes, a gap": ("multi_label_classification", 2, [[1.0, NAN], [NAN, NAN], [0.0, 1.0]], multi_label),
    "one number": ("regression", 1, [[0.5], [-2.0], [1.0]], regression),
    "three numbers": ("regression", 3, [[0.5, 1.0, 2.0], [-1.0, NAN, 3.0], [0.0, 0.0, 0.0]], regression),
}

# The same for every step of two sequences of three steps.
TOKEN_PROBLEMS: dict[str, tuple[str, int, list[Any], Any]] = {
    "a class per step": ("single_label_classification", 4, [0, IGNORED, 2, 1, IGNORED, IGNORED], single_label),
    "a number per step": ("regression", 1, [[0.5], [NAN], [2.0], [NAN], [NAN], [1.0]], regression),
    "two numbers per step": ("regression", 2, [[0.5, NAN]] * 5 + [[1.0, 2.0]], regression),
    "several classes per step": ("multi_label_classification", 2, [[1.0, 0.0]] * 5 + [[NAN, 1.0]], multi_label),
}

# Each problem as named in the configuration, and as found from the first labels: several numbers must be named.
PROBLEMS = {
    f"{name}, {'named' if named else 'found'}": (head, shape, named, *problem)
    for head, shape, problems in (("sequence head", (3,), SEQUENCE_PROBLEMS), ("token head", (2, 3), TOKEN_PROBLEMS))
    for name, problem in problems.items()
    for named in (False, True)
    if named or problem[:2] not in (("regression", 2), ("regression", 3))
}


def head_for(head: str, **fields: Any) -> DLRHead:
    return HEADS[head](tiny_config(**fields)).eval()


@pytest.mark.parametrize(
    ("head", "shape", "named", "problem", "num_labels", "values", "terms"), PROBLEMS.values(), ids=PROBLEMS.keys()
)
def test_loss(head: str, shape: tuple[int, ...], named: bool, problem: str, num_labels: int, values: list, terms: Any):
    """The loss is the mean over the labels that count, and the first labels settle what kind of problem it is."""
    model = head_for(head, num_labels=num_labels, problem_type=problem if named else None)
    labels = torch.tensor(values)
    labels = labels.reshape(*shape, *labels.shape[1:])
    output = model(**draw_input("tokens", model.config, shape[0], 3), labels=labels)
    assert output.loss.item() == pytest.approx(mean_over_labels(terms, output.logits, values), rel=1e-5)
    assert model.config.problem_type == problem


@pytest.mark.parametrize(("head", "shape"), [("sequence head", (3,)), ("token head", (3, 7))], ids=HEADS)
def test_regression_without_a_last_axis(head: str, shape: tuple[int, ...]):
    """One number per sequence or step may be given without the axis of size one, and as an integer."""
    model = head_for(head, num_labels=1)
    inputs = draw_input("tokens", model.config, 3, 7)
    labels = torch.randint(5, shape)
    expected = model(**inputs, labels=labels.float().unsqueeze(-1)).loss
    assert model(**inputs, labels=labels.float()).loss == expected
    assert model(**inputs, labels=labels).loss == expected


@pytest.mark.parametrize(("head", "shape"), [("sequence head", (3,)), ("token head", (3, 7))], ids=HEADS)
def test_classes_with_a_last_axis(head: str, shape: tuple[int, ...]):
    """A class per sequence or step may have a last axis of size one, as transformers' own heads allow."""
    model = head_for(head)
    inputs = draw_input("tokens", model.config, 3, 7)
    labels = torch.randint(4, shape)
    assert model(**inputs, labels=labels.unsqueeze(-1)).loss == model(**inputs, labels=labels).loss


def test_integers_that_pad_do_not_count_in_a_regression():
    """transformers' token collator turns labels into integers and pads them with -100."""
    model = head_for("token head", num_labels=1)
    inputs = draw_input("tokens", model.config, 1, 7)
    labels = torch.tensor([[1, 2, 3, 4, 5, IGNORED, IGNORED]])
    floats = labels.float().masked_fill(labels == IGNORED, NAN)
    assert model(**inputs, labels=labels).loss == model(**inputs, labels=floats).loss


@pytest.mark.parametrize("num_labels", [1, 3])
def test_several_classes_as_integers(num_labels: int):
    """Where the problem is named, zeros and ones of any signed type do, and -100 is what NaN is of floats."""
    model = head_for("sequence head", num_labels=num_labels, problem_type="multi_label_classification")
    inputs, labels = draw_input("tokens", model.config, 3, 7), torch.randint(2, (3, num_labels))
    labels[0, 0] = IGNORED
    expected = model(**inputs, labels=labels.float().masked_fill(labels == IGNORED, NAN)).loss
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8):
        assert model(**inputs, labels=labels.to(dtype)).loss == expected


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8], ids=str)
def test_short_integers(dtype: torch.dtype):
    """Classes and steps may have any signed type, also where their number does not fit into it."""
    inputs, labels = {"input_ids": torch.ones(2, 300, dtype=torch.long)}, torch.tensor([100, IGNORED])
    model = head_for("sequence head", num_labels=300)
    assert model(**inputs, labels=labels.to(dtype)).loss == model(**inputs, labels=labels).loss > 0
    answers: Any = DLRForQuestionAnswering(tiny_config())
    short, long = ({"start_positions": y, "end_positions": y} for y in (labels.to(dtype), labels))
    assert answers(**inputs, **short).loss == answers(**inputs, **long).loss > 0


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_several_labels_per_pixel(problem: str):
    """Labels have the shape of the logits, [B, num_labels, h, w], and the loss is that of the flat sequence."""
    example = EXAMPLES["AutoModelForSemanticSegmentation"]
    model: Any = AUTO_CLASSES["AutoModelForSemanticSegmentation"](tiny_config(**example.fields, problem_type=problem))
    output = model(**example.inputs(model.config, 2, 7), labels=(labels := torch.rand(2, 4, 2, 7)))
    loss = functional.mse_loss if problem == "regression" else functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


MULTI_HOT = torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 2)


def test_what_labels_settle_is_one_head_s():
    """Heads that are made from one configuration, and those from a head's own, find out by themselves."""
    config = tiny_config()
    inputs = draw_input("tokens", config, 2, 3)
    classes, several, steps = (HEADS[head](config) for head in ("sequence head", "sequence head", "token head"))
    classes(**inputs, labels=torch.tensor([0, 3]))
    several(**inputs, labels=MULTI_HOT)
    steps(**inputs, labels=torch.zeros(2, 3, dtype=torch.long))
    assert [each.config.problem_type for each in (classes, several, steps)] == [
        "single_label_classification", "multi_label_classification", "single_label_classification",
    ]  # fmt: skip
    assert config.problem_type is None
    assert several.model.config is several.config
    other = HEADS["token head"](several.config)
    assert other(**inputs, labels=torch.zeros(2, 3, dtype=torch.long)).loss.isfinite()
    assert several.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("saved", ["multi_label_classification", "regression"])
def test_a_folder_serves_another_head(saved: str, tmp_path: Path):
    """Each head that is loaded from another's folder learns from labels as if it had been made anew."""
    for fields in (BIDIRECTIONAL, SOUND | {"bidirectional": True}):
        HEADS["sequence head"](tiny_config(**fields, problem_type=saved)).save_pretrained(tmp_path / "head")
        DLRModel.from_pretrained(tmp_path / "head").save_pretrained(tmp_path / "base")
        for auto_class in ("MultipleChoice", "QuestionAnswering", "NextSentencePrediction", "TokenClassification",
                           "AudioFrameClassification", "SemanticSegmentation", "MaskedLM"):  # fmt: skip
            example = EXAMPLES[f"AutoModelFor{auto_class}"]
            if ("input_size" in example.fields) != ("input_size" in fields):
                continue
            for folder in ("head", "base"):
                model: Any = AUTO_CLASSES[f"AutoModelFor{auto_class}"].from_pretrained(tmp_path / folder)
                images = {"pixel_values": torch.randn(2, 1, 2, 7)} if auto_class == "SemanticSegmentation" else {}
                assert model(**example.arguments(model.config) | images).loss.isfinite()
                model.config.architectures = [type(model).__name__]  # as when it is saved
                assert model.config.to_dict()["problem_type"] != saved


def test_classes_reloaded_as_a_score(tmp_path: Path):
    """A head of three classes that is loaded with one output learns scores; its loss was 0 whatever the labels were."""
    model = head_for("sequence head", num_labels=3)
    inputs = draw_input("tokens", model.config, 3, 7)
    model(**inputs, labels=torch.tensor([0, 1, 2]))
    model.save_pretrained(tmp_path)
    again = HEADS["sequence head"].from_pretrained(tmp_path, num_labels=1, ignore_mismatched_sizes=True)
    scores = torch.tensor([1.0, 2.0, 7.0])
    output = again(**inputs, labels=scores)
    torch.testing.assert_close(output.loss, functional.mse_loss(output.logits[:, 0], scores))
    output.loss.backward()
    assert gradients_of(again)["classifier.weight"].any()
    again.save_pretrained(tmp_path)
    assert HEADS["sequence head"].from_pretrained(tmp_path).config.problem_type == "regression"


IGNORED_LABELS = {
    "classes": ("token head", {}, torch.full((2, 3), IGNORED)),
    "numbers": ("token head", {"num_labels": 1}, torch.full((2, 3), NAN)),
    "several classes": ("sequence head", {"num_labels": 3}, torch.full((2, 3), NAN)),
}


@pytest.mark.parametrize("count", [None, 0, 6], ids=["no count", "nothing counted", "counted elsewhere"])
@pytest.mark.parametrize(("head", "fields", "labels"), IGNORED_LABELS.values(), ids=IGNORED_LABELS.keys())
def test_everything_ignored(head: str, fields: dict[str, Any], labels: Tensor, count: int | None):
    """When every label is ignored the loss is 0 and so is every gradient, whatever the rest of the batch holds."""
    model = head_for(head, **fields)
    inputs = draw_input("tokens", model.config, 2, 3)
    loss = model(**inputs, labels=labels, num_items_in_batch=None if count is None else torch.tensor(count)).loss
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("ignored", ["labels", "numbers"])
def test_ignored_labels_have_no_gradient(ignored: str):
    """Logits at ignored labels get no gradient, and the others get what they would get alone."""
    logits = torch.randn(7, 2, requires_grad=True)
    labels = {"labels": torch.randint(2, (7,)), "numbers": torch.randn(7, 2)}[ignored]
    keep = torch.tensor([True, False, True, True, False, True, False])
    gap = {"labels": IGNORED, "numbers": NAN}[ignored]
    config = tiny_config(num_labels=2, problem_type={"numbers": "regression"}.get(ignored))
    loss = loss_by_problem_type(logits=logits[keep], labels=labels[keep], config=config)
    (alone,) = torch.autograd.grad(loss, logits)
    labels[~keep] = gap
    (gradient,) = torch.autograd.grad(loss_by_problem_type(logits=logits, labels=labels, config=config), logits)
    assert not gradient[~keep].any()
    torch.testing.assert_close(gradient, alone)


# Labels of four rows, cut after the first, and how many of them the Trainer counts.
PARTS: dict[str, tuple[str, dict[str, Any], Tensor, int]] = {
    "a class per row": ("sequence head", {}, torch.tensor([0, 3, 1, 2]), 4),
    "a class per row, one ignored": ("sequence head", {}, torch.tensor([0, 3, IGNORED, 2]), 3),
    "a class per step": ("token head", {}, torch.tensor([[0, 1, IGNORED], [1, 3, IGNORED], [2, 2, 2], [3, 1, 0]]), 10),
    "a number per row": ("sequence head", {"num_labels": 1}, torch.tensor([[0.0], [1.0], [2.0], [3.0]]), 4),
    "several classes": ("sequence head", {"num_labels": 3}, torch.tensor([[0.0, 1.0, 1.0]] * 4), 12),
    "several classes, one unknown": ("sequence head", {"num_labels": 2}, torch.tensor([[0.0, NAN]] * 4), 8),
    "integers per step, padded": (
        "token head",
        {"num_labels": 1},
        torch.tensor([[4, IGNORED, IGNORED], [1, 3, IGNORED], [2, 2, 2], [3, 1, 0]]),
        9,
    ),
}


@pytest.mark.parametrize("as_tensor", [False, True], ids=["count as a number", "count as a tensor"])
@pytest.mark.parametrize(("head", "fields", "labels", "count"), PARTS.values(), ids=PARTS.keys())
def test_parts_of_a_batch(head: str, fields: dict[str, Any], labels: Tensor, count: int, as_tensor: bool):
    """The losses of unequal parts, told how many labels the whole batch has, add up to its mean; so do gradients."""
    model = head_for(head, **fields).double()
    inputs = draw_input("tokens", model.config, 4, 3)["input_ids"]
    num_items = torch.tensor(count) if as_tensor else count
    whole = model(input_ids=inputs, labels=labels).loss
    parts = sum(
        model(input_ids=inputs[rows], labels=labels[rows], num_items_in_batch=num_items).loss
        for rows in (slice(0, 1), slice(1, 4))
    )
    torch.testing.assert_close(parts, whole)
    for actual, expected in zip(
        torch.autograd.grad(parts, tuple(model.parameters())),
        torch.autograd.grad(whole, tuple(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)
