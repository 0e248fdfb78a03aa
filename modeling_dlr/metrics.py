"""Metrics as `evaluate.Metric`s without a download: `MaskedAccuracy().compute(predictions=…, references=…)`.

Each metric has two versions: over all references at once, and (`Batch…`) the mean over batches, which the DLR paper
reports. The two differ, and the second depends on the batch size. Predictions and references may have any shape, the
same for both. `compute` scores arrays directly, without storing them; `add_batch` stores them first.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error, recall_score

from .configuration_base_dlr import IGNORED_CLASS

# Lower bound on the variance that R² divides by (arXiv 2212.00768).
_LEAST_VARIANCE = 1e-5


class _Metric(evaluate.Metric):
    """One score over all references that are not ignored."""

    key: ClassVar[str]

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """Score predictions against references, together with everything added before.

        Args:
            predictions: an array, tensor or list of any shape; None to score only what was added.
            references: an array, tensor or list of the same shape, or None.
            options: options of the metric.

        Returns:
            A dictionary from the metric's name to its score; None on all but the main process of a distributed run.

        Raises:
            ValueError: if the shapes differ, or if every reference is ignored.
        """
        added_before = self.writer is not None or self.num_process > 1
        if predictions is None or references is None or added_before:
            return super().compute(predictions=predictions, references=references, **options)
        return self._compute(*self._flat(predictions, references), **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **options: Any) -> None:
        """Store predictions and references for a later `compute`; both may have any shape, the same for both.

        Raises:
            ValueError: if the shapes differ, or if a class metric is given values that are not whole numbers.
        """
        predictions, references = self._flat(predictions, references)
        super().add_batch(predictions=predictions, references=references, **options)

    def _flat(self, predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        if predictions.shape != references.shape:
            raise ValueError(
                f"predictions and references must have the same shape, got {list(predictions.shape)} and "
                f"{list(references.shape)}: give one prediction per reference, for logits of classes the argmax."
            )
        return predictions.ravel(), references.ravel()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            module_name=self.key,
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references, one per example or step",
            features=self._features(),
        )

    @abstractmethod
    def _features(self) -> datasets.Features: ...

    @abstractmethod
    def _score(self, predictions: np.ndarray, references: np.ndarray) -> float: ...


class _ClassMetric(_Metric):
    """A metric of class indices; references equal to ``ignore_index`` are ignored."""

    def _features(self) -> datasets.Features:
        return datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})

    def _flat(self, predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
        predictions, references = super()._flat(predictions, references)
        return _classes("predictions", predictions), _classes("references", references)

    def _compute(self, predictions: Any, references: Any, ignore_index: int = IGNORED_CLASS) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        counts = references != ignore_index
        _refuse_nothing(counts, f"{ignore_index}, the ignored class")
        return {self.key: float(self._score(predictions[counts], references[counts]))}


def _classes(what: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or (array % 1 != 0).any():
        raise ValueError(f"{what} must be class indices (whole numbers), got {array.ravel()[:5].tolist()}, …")
    return array


def _refuse_nothing(counts: np.ndarray, ignored: str) -> None:
    if not counts.size:
        raise ValueError("There are no references: there is nothing to score.")
    if not counts.any():
        raise ValueError(f"Every reference is {ignored}: there is nothing to score.")


class MaskedAccuracy(_ClassMetric):
    """Share of correct predictions; references equal to ``ignore_index`` (-100) are ignored.

    >>> MaskedAccuracy().compute(predictions=[1, 0, 2], references=[1, -100, 0])
    {'accuracy': 0.5}
    """

    key = "accuracy"

    def _score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        return accuracy_score(references, predictions)


class MacroF1(_ClassMetric):
    """F1 averaged over the classes that occur in references or predictions; ``ignore_index`` (-100) is ignored.

    >>> MacroF1().compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, -100])
    {'f1_macro': 0.6666666666666666}
    """

    key = "f1_macro"

    def _score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        return float(f1_score(references, predictions, average="macro"))


class BalancedAccuracy(_ClassMetric):
    """Recall averaged over the classes that occur in the references; ``ignore_index`` (-100) is ignored.

    >>> BalancedAccuracy().compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, -100])
    {'accuracy_balanced': 0.75}
    """

    key = "accuracy_balanced"

    def _score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        return float(recall_score(references, predictions, labels=np.unique(references), average="macro"))


class R2(_Metric):
    """1 - MSE / variance, where the variance is that of all references and at least 1e-5; NaN references are ignored.

    >>> R2().compute(predictions=[0.0, 0.5, 1.0], references=[0.0, float("nan"), 2.0])
    {'r2': 0.5}
    """

    key = "r2"

    def _features(self) -> datasets.Features:
        return datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predictions, references = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
        counts = ~np.isnan(references)
        _refuse_nothing(counts, "NaN, which is ignored")
        return {self.key: self._score(predictions[counts], references[counts])}

    def _score(self, predictions: np.ndarray, references: np.ndarray) -> float:
        # Not `r2_score`, which has no lower bound on the variance.
        return float(1 - mean_squared_error(references, predictions) / max(np.var(references), _LEAST_VARIANCE))


class _PerBatch(_Metric):
    """The mean of a metric over batches; an incomplete last batch is dropped, as in the official code."""

    def _compute(self, predictions: Any, references: Any, batch_size: int, **options: int) -> dict[str, float]:
        scores = [
            super(_PerBatch, self)._compute(batch, targets, **options)[self.key]
            for batch, targets in _batches(np.asarray(predictions), np.asarray(references), batch_size)
        ]
        return {f"{self.key}_batch_mean": float(np.mean(scores))}


def _batches(
    predictions: np.ndarray, references: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if batch_size < 1:
        raise ValueError(f"batch_size, the number of references in one batch, must be at least 1, got {batch_size}.")
    count = len(references) // batch_size
    if not count:
        raise ValueError(
            f"batch_size={batch_size} must be at most the number of references, {len(references)}: give the number "
            "of references in one batch, which is sequences times steps."
        )
    for start in range(0, count * batch_size, batch_size):
        yield predictions[start : start + batch_size], references[start : start + batch_size]


class BatchMaskedAccuracy(_PerBatch, MaskedAccuracy):
    """`MaskedAccuracy` averaged over batches of ``batch_size`` references; a fully ignored batch scores 1.

    >>> BatchMaskedAccuracy().compute(predictions=[1, 0, 2, 2], references=[1, -100, 0, 2], batch_size=2)
    {'accuracy_batch_mean': 0.75}
    """

    def _compute(
        self, predictions: Any, references: Any, batch_size: int, ignore_index: int = IGNORED_CLASS
    ) -> dict[str, float]:
        pairs = _batches(np.asarray(predictions), np.asarray(references), batch_size)
        counted = [(batch == targets)[targets != ignore_index] for batch, targets in pairs]
        return {f"{self.key}_batch_mean": float(np.mean([right.mean() if right.size else 1.0 for right in counted]))}


class BatchMacroF1(_PerBatch, MacroF1):
    """`MacroF1` averaged over batches of ``batch_size`` references.

    >>> BatchMacroF1().compute(predictions=[0, 0, 1, 1], references=[0, 0, 1, 0], batch_size=2)
    {'f1_macro_batch_mean': 0.6666666666666666}
    """


class BatchBalancedAccuracy(_PerBatch, BalancedAccuracy):
    """`BalancedAccuracy` averaged over batches of ``batch_size`` references.

    >>> BatchBalancedAccuracy().compute(predictions=[0, 0, 1, 1], references=[0, 0, 1, 0], batch_size=2)
    {'accuracy_balanced_batch_mean': 0.75}
    """


# pyrefly: ignore[inconsistent-inheritance] - a metric over batches needs the batch size as an argument
class BatchR2(_PerBatch, R2):
    """`R2` averaged over batches of ``batch_size`` references.

    >>> BatchR2().compute(predictions=[0.0, 1.0, 0.0, 2.0], references=[0.0, 2.0, 0.0, 2.0], batch_size=2)
    {'r2_batch_mean': 0.75}
    """
