"""Metrics agree with scikit-learn on the references that are not ignored."""

import warnings
from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from golden_data import specs, tensors
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, r2_score
from torch.nn.functional import cross_entropy

from modeling_dlr.metrics import (
    R2,
    BalancedAccuracy,
    BatchBalancedAccuracy,
    BatchMacroF1,
    BatchMaskedAccuracy,
    BatchR2,
    MacroF1,
    MaskedAccuracy,
)
from modeling_dlr.weighted_loss import class_weighted_cross_entropy, class_weighted_loss, loss_by_counts

# One row per metric: what scikit-learn makes of the labels that count.
METRICS: dict[str, tuple[type[evaluate.Metric], Callable[..., Any]]] = {
    "accuracy": (MaskedAccuracy, accuracy_score),
    "f1_macro": (MacroF1, lambda references, predictions: f1_score(references, predictions, average="macro")),
    "accuracy_balanced": (BalancedAccuracy, balanced_accuracy_score),
}
BATCHED = {MaskedAccuracy: BatchMaskedAccuracy, MacroF1: BatchMacroF1, BalancedAccuracy: BatchBalancedAccuracy}

# What the official code calls each metric; here it has no batches, or the one that all is.
OFFICIAL: dict[str, type[evaluate.Metric]] = {
    "accuracy_ignore_m100": BatchMaskedAccuracy,
    "f1_macro": BatchMacroF1,
    "accuracy_balanced": BatchBalancedAccuracy,
    "r2": BatchR2,
}

by_metric = pytest.mark.parametrize("name", METRICS)


def draw(count: int, classes: int, ignored: float) -> tuple[np.ndarray, np.ndarray]:
    """Random predictions and references; a share of the references, but not the first, is -100."""
    random = np.random.default_rng(count * classes)
    predictions, references = random.integers(classes, size=(2, count))
    references[1:][random.random(count - 1) < ignored] = -100
    return predictions, references


@by_metric
@pytest.mark.parametrize("count", [1, 7, 63, 100])
@pytest.mark.parametrize("classes", [1, 2, 11])
@pytest.mark.parametrize("ignored", [0.0, 0.5], ids=["all counted", "half ignored"])
def test_like_scikit_learn(name: str, count: int, classes: int, ignored: float):
    """The metric is scikit-learn's over the references that are not -100."""
    metric, expected = METRICS[name]
    predictions, references = draw(count, classes, ignored)
    counted = references != -100
    score = metric().compute(predictions=predictions, references=references)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn remarks on a single class
        assert score == {name: pytest.approx(expected(references[counted], predictions[counted]))}


@by_metric
def test_types_of_input(name: str):
    """Lists and arrays give the same plain number."""
    metric, _ = METRICS[name]
    predictions, references = draw(63, 3, 0.3)
    score = metric().compute(predictions=predictions, references=references)
    assert score == metric().compute(predictions=predictions.tolist(), references=references.tolist())
    assert type(score[name]) is float


@by_metric
def test_in_batches(name: str):
    """Examples may be added batch by batch."""
    metric = METRICS[name][0]()
    predictions, references = draw(100, 5, 0.2)
    for rows in (slice(0, 7), slice(7, 8), slice(8, 100)):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    assert metric.compute() == METRICS[name][0]().compute(predictions=predictions, references=references)


@by_metric
def test_another_ignored_class(name: str):
    """ignore_index replaces -100, which is then a class like any other."""
    metric, expected = METRICS[name]
    predictions, references = [0, 1, 2, -100, 1], [0, 2, 2, -100, 1]
    score = metric().compute(predictions=predictions, references=references, ignore_index=2)
    assert score == {name: expected([0, -100, 1], [0, -100, 1])}


@by_metric
def test_nothing_to_score(name: str):
    """If every reference is ignored, the error says so."""
    with pytest.raises(ValueError, match=r"Every reference is -100"):
        METRICS[name][0]().compute(predictions=[1, 2], references=[-100, -100])
    with pytest.raises(ValueError, match="There are no references"):
        METRICS[name][0]().compute(predictions=[], references=[])


@pytest.mark.parametrize("case", specs("metrics"))
def test_official_metrics(case: str):
    """On the official outputs, in one batch."""
    outputs, targets = tensors("metrics")[case]["outs"], tensors("metrics")[case]["y"].flatten()
    for name, expected in specs("metrics")[case].items():
        if name in OFFICIAL:
            predictions = (outputs if name == "r2" else outputs.argmax(-1)).flatten()
            score = OFFICIAL[name]().compute(predictions=predictions, references=targets, batch_size=len(targets))
            assert list(score.values()) == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("case", ["seg", "seg_missing_class"])
def test_official_weighted_loss(case: str):
    """Value and gradient of the class-weighted cross-entropy, also with a missing class."""
    data = tensors("metrics")[case]
    outputs = data["outs"].clone().requires_grad_()
    loss = class_weighted_cross_entropy(outputs, data["y"])
    loss.backward()
    assert loss.item() == pytest.approx(specs("metrics")[case]["class_weighted_cross_entropy"], rel=1e-6)
    torch.testing.assert_close(outputs.grad, data["grad.class_weighted_cross_entropy"], rtol=1e-5, atol=1e-8)


def test_weighted_loss_ignores():
    """Ignored labels change nothing; if all are ignored, the loss is 0."""
    logits, labels = torch.randn(2, 7, 3), torch.randint(3, (2, 7))
    longer = torch.cat((labels, torch.full((2, 4), -100)), dim=1)
    loss = class_weighted_cross_entropy(torch.cat((logits, torch.randn(2, 4, 3)), dim=1), longer)
    torch.testing.assert_close(loss, class_weighted_cross_entropy(logits, labels))
    assert class_weighted_cross_entropy(logits, torch.full((2, 7), -100)) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("counts", [None, [9, 4, 1]])
def test_loss_by_counts(counts: list[int] | None, smoothing: float):
    """Torch's, with weights that fall with the square root of the counts; 0 without a label, and no gradient."""
    logits, labels = torch.randn(2, 7, 3, requires_grad=True), torch.randint(3, (2, 7))
    labels[0, :3] = -100
    weight = None if counts is None else torch.tensor([1 / 3, 1 / 2, 1]) / (11 / 18)
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten(), weight, label_smoothing=smoothing)
    loss = loss_by_counts(counts, smoothing)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    torch.testing.assert_close(loss((logits,), labels, 22), expected / 2)
    nothing = loss({"logits": logits}, torch.full((2, 7), -100))
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weighted_loss_refuses():
    """Invalid labels are refused by the loss, because the Trainer does not give them to the head."""
    logits, labels = torch.randn(2, 7, 3), torch.randint(3, (2, 7))
    for wrong, says in (
        (labels + 0.5, r"float32: pass labels\.long"),
        (labels.bool(), "bool"),
        (labels + 3, "num_labels-1 = 2"),
        (labels.T, r"the shape \[2, 7\] .* got \[7, 2\]"),
    ):
        with pytest.raises(ValueError, match=says):
            class_weighted_loss({"logits": logits}, wrong)


def test_weighted_loss_of_parts():
    """Parts of a batch are weighted by their numbers of labels."""
    logits, labels = torch.randn(2, 7, 3), torch.randint(3, (2, 7))
    labels[0, :3] = -100
    count = (labels != -100).sum()
    parts = [class_weighted_loss({"logits": logits[i]}, labels[i], count) for i in range(2)]
    alone = [class_weighted_cross_entropy(logits[i], labels[i]) for i in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], (4 * alone[0] + 7 * alone[1]) / 11)


@pytest.mark.parametrize("metric", BATCHED)
def test_mean_over_batches(metric: type[evaluate.Metric]):
    """The mean of the scores of the whole batches; the remaining examples are left out."""
    predictions, references = draw(23, 3, 0.3)
    alone = [metric().compute(predictions=predictions[i : i + 7], references=references[i : i + 7]) for i in (0, 7, 14)]
    score = BATCHED[metric]().compute(predictions=predictions, references=references, batch_size=7)
    assert list(score.values()) == [pytest.approx(np.mean([list(each.values()) for each in alone]))]
    assert list(score) == [f"{next(iter(alone[0]))}_batch_mean"]


@pytest.mark.parametrize("metric", [*BATCHED.values(), BatchR2])
def test_batch_too_large(metric: type[evaluate.Metric]):
    with pytest.raises(ValueError, match=r"batch_size=5 .* 4"):
        metric().compute(predictions=[1, 0, 1, 1], references=[1, 1, 0, 1], batch_size=5)


@pytest.mark.parametrize("count", [2, 7, 100])
def test_r2_like_scikit_learn(count: int):
    """It is scikit-learn's unless the variance is tiny; NaN references are ignored."""
    random = np.random.default_rng(count)
    references = random.normal(size=count)
    predictions = references + random.normal(size=count) / 3
    expected = pytest.approx(r2_score(references, predictions))
    assert R2().compute(predictions=predictions, references=references) == {"r2": expected}
    ignored = np.append(references, [np.nan] * 3)
    assert R2().compute(predictions=np.append(predictions, [9.0] * 3), references=ignored) == {"r2": expected}


def test_r2_of_nothing():
    with pytest.raises(ValueError, match="Every reference is NaN"):
        R2().compute(predictions=[1.0], references=[float("nan")])
    with pytest.raises(ValueError, match="There are no references"):
        R2().compute(predictions=[], references=[])


@by_metric
def test_any_shape(name: str):
    """Arrays and tensors of any shape are scored as if flat, also after `add_batch`."""
    metric = METRICS[name][0]
    predictions, references = draw(60, 3, 0.3)
    flat = metric().compute(predictions=predictions, references=references)
    shaped = {"predictions": predictions.reshape(5, 12), "references": references.reshape(5, 12)}
    assert metric().compute(**shaped) == flat
    assert metric().compute(**{key: torch.from_numpy(values) for key, values in shaped.items()}) == flat
    after = metric()
    after.add_batch(predictions=predictions[:7], references=references[:7])
    assert after.compute(predictions=predictions[7:], references=references[7:]) == flat


def test_batches_are_checked_when_they_are_added():
    """Values that are not whole numbers are refused; batches may have any shape."""
    metric = MaskedAccuracy()
    with pytest.raises(ValueError, match="class indices"):
        metric.add_batch(predictions=np.array([0.4, 0.6]), references=np.array([0, 1]))
    metric.add_batch(predictions=np.ones((2, 3), int), references=np.ones((2, 3), int))
    metric.add_batch(predictions=np.ones((2, 3, 1), int), references=np.zeros((2, 3, 1), int))
    assert metric.compute() == {"accuracy": 0.5}


def test_a_batch_has_references():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BatchR2().compute(predictions=[0.0], references=[1.0], batch_size=0)


def test_compute_does_not_store_values(monkeypatch: pytest.MonkeyPatch):
    """`compute` scores the arrays directly."""
    monkeypatch.setattr("datasets.Features.encode_batch", lambda *arguments: pytest.fail("values are encoded"))
    values = np.zeros((2, 3), np.float32)
    assert R2().compute(predictions=values, references=values) == {"r2": 1.0}


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"same shape, got \[2, 3\] and \[2\]"):
        MaskedAccuracy().compute(predictions=np.zeros((2, 3)), references=np.zeros(2))


@pytest.mark.parametrize("wrong", [[0.5, 1.0], [float("nan"), 1.0], ["a", "b"]], ids=str)
def test_classes_are_whole_numbers(wrong: list[Any]):
    with pytest.raises(ValueError, match="class indices"):
        MaskedAccuracy().compute(predictions=wrong, references=[0, 1])
