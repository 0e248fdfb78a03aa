"""Scores of predictions, with intervals, and the thresholds of several labels."""

from typing import Any

import numpy as np
from scipy.stats import binomtest

from .encoding import IGNORED
from .labels import Labels
from .task import Task

# Classes of which one is this many times as frequent as another are unequal.
UNEQUAL = 3.0
_RESAMPLES = 500


def are_unequal(labels: Labels) -> bool:
    """Whether some classes are much rarer than others."""
    return bool(labels.counts) and max(labels.counts) > UNEQUAL * min(labels.counts)


def main_score(task: Task, labels: Labels) -> str:
    """The score by which weights are chosen: the best says most about a task of this kind."""
    if task.is_number:
        return "r2"
    if task.task == "several labels":
        return "f1_micro"
    if task.task == "tokens":
        return "f1_macro"
    return "f1_macro" if are_unequal(labels) else "accuracy"


class Scorer:
    """Scores of predictions for one task.

    Args:
        task: what is predicted.
        labels: what the labels mean.

    Attributes:
        thresholds: for several labels, the probabilities from which each is given.
    """

    def __init__(self, task: Task, labels: Labels):
        self.task, self.labels = task, labels
        self.thresholds = np.full(len(labels.names), 0.5)

    def scores(self, predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
        """The scores by name.

        Args:
            predicted: classes [n], probabilities of several labels [n, C], or numbers [n].
            wanted: likewise; for several labels 0 and 1.
        """
        if self.task.is_number:
            return _of_numbers(predicted, wanted)
        if self.task.task == "several labels":
            return _of_several(predicted >= self.thresholds, wanted > 0.5)
        return _of_classes(predicted, wanted, self._counted())

    def fit_thresholds(self, probabilities: np.ndarray, wanted: np.ndarray) -> None:
        """Choose the threshold of each label that gives it the best F1."""
        self.thresholds = np.array(
            [_threshold(probabilities[:, i], wanted[:, i] > 0.5) for i in range(wanted.shape[1])]
        )

    def intervals(self, predicted: np.ndarray, wanted: np.ndarray, units: np.ndarray) -> dict[str, list[float]]:
        """The 95 % interval of each score: Wilson's for the accuracy of rows, by resampling rows for the others.

        Args:
            predicted: as for `scores`.
            wanted: likewise.
            units: the row of each prediction, which are resampled together.
        """
        scores = self.scores(predicted, wanted)
        rows, index = np.unique(units, return_inverse=True)
        order = np.argsort(index, kind="stable")
        bounds = np.searchsorted(index[order], np.arange(len(rows) + 1))
        generator = np.random.default_rng(0)
        draws: dict[str, list[float]] = {name: [] for name in scores}
        resamples = _RESAMPLES if len(units) < 200_000 else 100
        for _ in range(resamples):
            drawn = generator.integers(0, len(rows), len(rows))
            chosen = drawn if len(rows) == len(units) else _members(order, bounds, drawn)
            chosen = order[chosen] if len(rows) == len(units) else chosen
            for name, value in self.scores(predicted[chosen], wanted[chosen]).items():
                draws[name].append(value)
        found = {name: [float(each) for each in np.quantile(values, [0.025, 0.975])] for name, values in draws.items()}
        if "accuracy" in scores and self.task.task in ("classes", "pairs"):
            low, high = binomtest(int((predicted == wanted).sum()), len(wanted)).proportion_ci(method="wilson")
            found["accuracy"] = [float(low), float(high)]
        return found

    def per_class(self, predicted: np.ndarray, wanted: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall, F1 and number of each label; none for numbers."""
        if self.task.is_number:
            return []
        rows = []
        for i, name in enumerate(self.labels.names):
            if self.task.task == "several labels":
                given, true = predicted[:, i] >= self.thresholds[i], wanted[:, i] > 0.5
            else:
                given, true = predicted == i, wanted == i
            hits = int((given & true).sum())
            precision, recall = hits / max(1, given.sum()), hits / max(1, true.sum())
            f1 = 2 * hits / max(1, given.sum() + true.sum())
            row = {"label": name, "precision": precision, "recall": recall, "f1": f1, "count": int(true.sum())}
            if self.task.task == "several labels":
                row["threshold"] = float(self.thresholds[i])
            rows.append(row)
        return rows

    def _counted(self) -> list[int]:
        """The classes over which F1 is averaged: for tokens, those that are something."""
        outside = self.labels.outside
        return [i for i, name in enumerate(self.labels.names) if name != outside]


def _members(order: np.ndarray, bounds: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The predictions of the rows that are drawn."""
    starts, counts = bounds[drawn], bounds[drawn + 1] - bounds[drawn]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(starts, counts) + offsets]


def _of_numbers(predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    variance = float(np.var(wanted))
    return {
        "r2": float(1 - np.mean((predicted - wanted) ** 2) / max(variance, 1e-12)),
        "mean_absolute_error": float(np.mean(np.abs(predicted - wanted))),
    }


def _of_several(given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    hits, sizes = (given & true).sum(0), given.sum(0) + true.sum(0)
    return {
        "f1_micro": float(2 * hits.sum() / max(1, sizes.sum())),
        "f1_macro": float(np.mean(2 * hits / np.maximum(1, sizes))),
        "accuracy": float((given == true).all(1).mean()),
    }


def _of_classes(predicted: np.ndarray, wanted: np.ndarray, counted: list[int]) -> dict[str, float]:
    size = max(counted) + 1 if counted else 1
    size = int(max(size, predicted.max(initial=0) + 1, wanted.max(initial=0) + 1))
    hits = np.bincount(wanted[predicted == wanted], minlength=size)
    sizes = np.bincount(wanted, minlength=size) + np.bincount(predicted, minlength=size)
    there = [i for i in counted if sizes[i]]
    return {
        "accuracy": float((predicted == wanted).mean()),
        "f1_macro": float(np.mean(2 * hits[there] / sizes[there])) if there else 0.0,
    }


def _threshold(probabilities: np.ndarray, wanted: np.ndarray) -> float:
    """Between two probabilities, such that F1 is best; a half where there is nothing to choose by."""
    if not wanted.any() or wanted.all():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    f1 = 2 * np.cumsum(wanted[order]) / (np.arange(1, len(order) + 1) + wanted.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = 0  # equal probabilities are not parted
    best = int(f1.argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def answers(task: Task, logits: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Predictions as `Scorer` reads them, from what the model gives (for tokens, classes already)."""
    if task.is_number:
        return logits.reshape(-1).astype(np.float64) * std + mean
    if task.task == "several labels":
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    return logits if task.task == "tokens" else logits.argmax(-1)


def flat(predicted: np.ndarray, wanted: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of tokens, those that count, with the row of each."""
    counts = wanted != IGNORED
    return predicted[counts], wanted[counts], np.repeat(units, counts.sum(1))
