"""Metrics as `evaluate.Metric`s that need no download: `MaskedAccuracy().compute(predictions=…, references=…)`."""

from typing import Any

import datasets
import evaluate
import numpy as np

IGNORED_CLASS = -100

_CLASS_FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


class MaskedAccuracy(evaluate.Metric):
    """Share of right answers among the references that are not ``ignore_index`` (-100).

    >>> MaskedAccuracy().compute(predictions=[1, 0, 2], references=[1, -100, 0])
    {'accuracy': 0.5}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _class_metric_info(self, "masked_accuracy")

    def _compute(self, predictions: Any, references: Any, ignore_index: int = IGNORED_CLASS) -> dict[str, float]:
        predictions, references = _counted(predictions, references, ignore_index)
        return {"accuracy": float(np.mean(predictions == references))}


class MacroF1(evaluate.Metric):
    """F1 averaged over the classes that occur in the references or the predictions, ``ignore_index`` (-100) apart.

    >>> MacroF1().compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, -100])
    {'f1_macro': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _class_metric_info(self, "macro_f1")

    def _compute(self, predictions: Any, references: Any, ignore_index: int = IGNORED_CLASS) -> dict[str, float]:
        predictions, references = _counted(predictions, references, ignore_index)
        scores = []
        for label in np.union1d(predictions, references):
            hits = np.sum((predictions == label) & (references == label))
            scores.append(2 * hits / (np.sum(predictions == label) + np.sum(references == label)))
        return {"f1_macro": float(np.mean(scores))}


def _class_metric_info(metric: evaluate.Metric, name: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        module_name=name,
        description=metric.__doc__ or "",
        citation="",
        inputs_description="predictions and references: class indices, one per example or step",
        features=_CLASS_FEATURES,
    )


def _counted(predictions: Any, references: Any, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    predictions, references = np.asarray(predictions), np.asarray(references)
    counts = references != ignore_index
    if not counts.any():
        raise ValueError(f"Every reference is {ignore_index}, the ignored class: there is nothing to score.")
    return predictions[counts], references[counts]
