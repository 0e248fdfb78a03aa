"""What a model says of rows, as cells of new columns."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from modeling_dlr.finetuning import Task

from .inputs import Item

Cells = dict[str, Any]

# From which probability one of several labels is given where the task knows no threshold of its own.
HALF = 0.5


def new_columns(task: Task) -> list[str]:
    """The names of the columns that an answer adds."""
    if task.task == "tokens":
        return ["start", "end", "label", "score"]
    if task.is_number:
        return [f"value_{label}" for label in task.labels] or ["value"]
    scores = [f"score_{label}" for label in task.labels] if task.task == "several labels" else ["score"]
    return ["label", *scores]


def answers(task: Task, logits: Tensor) -> list[Cells]:
    """The cells of rows, by the logits [B, labels] of a model with one answer per row."""
    columns = new_columns(task)
    if task.is_number:
        return [dict(zip(columns, _rounded(row), strict=True)) for row in logits.tolist()]
    if task.task == "several labels":
        limits = [(task.thresholds or {}).get(label, HALF) for label in task.labels]
        return [
            {"label": [name for name, p, limit in zip(task.labels, row, limits, strict=True) if p >= limit]}
            | dict(zip(columns[1:], _rounded(row), strict=True))
            for row in logits.sigmoid().tolist()
        ]
    scores, places = logits.softmax(-1).max(-1)
    return [
        {"label": task.labels[place], "score": score}
        for place, score in zip(places.tolist(), _rounded(scores.tolist()), strict=True)
    ]


def _rounded(values: Sequence[float]) -> list[float]:
    """Numbers in float32, whose last digits say nothing, to six significant ones."""
    return [float(f"{value:.6g}") for value in values]


class Span(NamedTuple):
    """A stretch of a row with one label: the first place, the one after the last, and the mean probability."""

    start: int
    end: int
    label: str
    score: float


def spans(task: Task, windows: Sequence[tuple[Item, Tensor]]) -> list[Span]:
    """The spans of one row, by its windows and the logits [steps, labels] of each.

    A place in the row is a character, a word of a list, or a sample. Steps that stand for the same place are averaged.
    Labels that begin with "B-" and "I-" are those of one span, which "B-" begins.
    """
    steps = np.concatenate([_kept(item, logits.softmax(-1).float().numpy()) for item, logits in windows])
    places = [place for item, _ in windows for place in _kept(item, item.units or range(item.length))]
    if isinstance(places[0], int):  # a step of sound is a sample
        bounds = np.arange(len(steps))
        return _runs(task, steps, bounds, bounds + 1)
    starts, ends = np.array(places).T
    real = ends > starts
    starts, ends, steps = starts[real], ends[real], steps[real]
    if not len(starts):
        return []
    new = np.flatnonzero(np.append(True, starts[1:] >= np.maximum.accumulate(ends)[:-1]))
    counts = np.diff(np.append(new, len(starts)))
    means = np.add.reduceat(steps, new) / counts[:, None]
    return _runs(task, means, starts[new], np.maximum.reduceat(ends, new))


def _kept(item: Item, steps: Any) -> Any:
    """Without the steps that another window reads with more around them."""
    first, last = item.skip
    return steps[first : len(steps) - last]


def _runs(task: Task, probabilities: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[Span]:
    """Neighbours of one label as one span, of probabilities [places, labels]."""
    best = probabilities.argmax(1)
    names = [task.labels[i] for i in best]
    joined = {name: name.removeprefix("B-").removeprefix("I-") for name in task.labels}
    number, group = 0, []
    for i, name in enumerate(names):
        number += i == 0 or joined[name] != joined[names[i - 1]] or name.startswith("B-")
        group.append(number)
    found = []
    for _, run in groupby(range(len(names)), key=group.__getitem__):
        here = list(run)
        if names[here[0]] != task.outside:
            score = float(probabilities[here, best[here]].mean())
            label = joined[names[here[0]]]
            found.append(Span(int(starts[here[0]]), int(ends[here[-1]]), label, *_rounded([score])))
    return found
