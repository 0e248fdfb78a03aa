"""The rows on which a model is most wrong."""

from typing import Any

import numpy as np
from datasets import Dataset

from .encoding import IGNORED
from .labels import Labels
from .task import Task

MOST = 20
_CHARACTERS = 300


def worst(
    task: Task,
    labels: Labels,
    table: Dataset,
    places: np.ndarray,
    predicted: np.ndarray,
    wanted: np.ndarray,
    logits: Any,
) -> list[dict[str, Any]]:
    """The twenty worst mistakes, the worst first.

    Args:
        task: what was predicted.
        labels: what the labels mean.
        table: the rows.
        places: in the table, of each prediction.
        predicted: as `scores.Scorer` reads them; for tokens [rows, steps].
        wanted: likewise.
        logits: what the model gave.
    """
    if task.is_number:
        wrongness = np.abs(predicted - wanted)
        said = [{"true": float(w), "predicted": float(p)} for p, w in zip(predicted, wanted, strict=True)]
    elif task.task == "several labels":
        wrongness = np.where(wanted > 0.5, 1 - predicted, predicted).max(1)
        limits = [(task.thresholds or {}).get(name, 0.5) for name in labels.names]
        said = [
            {"true": _names(labels, w > 0.5), "predicted": _names(labels, p >= limits)}
            for p, w in zip(predicted, wanted, strict=True)
        ]
        wrongness = np.where((((predicted >= limits) == (wanted > 0.5)).all(1)), 0, wrongness)
    elif task.task == "tokens":
        wrong = (predicted != wanted) & (wanted != IGNORED)
        wrongness = wrong.sum(1)
        said = [{"wrong": int(w.sum()), "of": int((t != IGNORED).sum())} for w, t in zip(wrong, wanted, strict=True)]
    else:
        shifted = logits - logits.max(-1, keepdims=True)
        shares = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
        wrongness = np.where(predicted == wanted, 0, shares.max(-1))
        said = [
            {"true": labels.names[w], "predicted": labels.names[p], "score": round(float(share.max()), 4)}
            for p, w, share in zip(predicted, wanted, shares, strict=True)
        ]
    found = []
    for i in np.argsort(-wrongness, kind="stable")[:MOST].tolist():
        if wrongness[i] > 0:
            row = table[int(places[i])]
            found.append({"row": row["row"], **said[i], "text": " ".join(row["text"].split())[:_CHARACTERS]})
    return found


def _names(labels: Labels, given: np.ndarray) -> str:
    return ", ".join(name for name, on in zip(labels.names, given, strict=True) if on)
