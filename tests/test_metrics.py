"""Metrics agree with scikit-learn on everything that counts, whatever the number of classes and examples."""

import warnings
from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from modeling_dlr.metrics import MacroF1, MaskedAccuracy

# One row per metric: what scikit-learn makes of the labels that count.
METRICS: dict[str, tuple[type[evaluate.Metric], Callable[..., Any]]] = {
    "accuracy": (MaskedAccuracy, accuracy_score),
    "f1_macro": (MacroF1, lambda references, predictions: f1_score(references, predictions, average="macro")),
}

by_metric = pytest.mark.parametrize("name", METRICS)


def draw(count: int, classes: int, ignored: float) -> tuple[np.ndarray, np.ndarray]:
    """Random predictions and references, of which a share is -100; the first never is."""
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
    """ignore_index names the class that does not count; -100 is then a class like any other."""
    metric, expected = METRICS[name]
    predictions, references = [0, 1, 2, -100, 1], [0, 2, 2, -100, 1]
    score = metric().compute(predictions=predictions, references=references, ignore_index=2)
    assert score == {name: expected([0, -100, 1], [0, -100, 1])}


@by_metric
def test_nothing_to_score(name: str):
    """When every reference is ignored there is no score, and the error says so."""
    with pytest.raises(ValueError, match=r"Every reference is -100"):
        METRICS[name][0]().compute(predictions=[1, 2], references=[-100, -100])
