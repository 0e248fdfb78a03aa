"""The confusion matrix and the learning curve as pictures. Needs matplotlib: pip install 'modeling-dlr[figures]'."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# More classes than this make no picture that can be read.
MOST_CLASSES = 40


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_confusion(names: Sequence[str], predicted: np.ndarray, wanted: np.ndarray, path: Path) -> None:
    """Draw which classes are taken for which: a row for each true class, in shares of its rows."""
    from matplotlib.figure import Figure

    count = len(names)
    table = np.bincount(wanted * count + predicted, minlength=count * count).reshape(count, count)
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    size = 3 + 0.45 * count
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), [name[:20] for name in names], rotation=60, ha="right")
    axes.set_yticks(range(count), [name[:20] for name in names])
    axes.set(xlabel="predicted", ylabel="true")
    if count <= 15:
        for row in range(count):
            for column in range(count):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{table[row, column]}", ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_numbers(predicted: np.ndarray, wanted: np.ndarray, path: Path) -> None:
    """Draw predicted numbers over true ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(wanted, predicted, s=8, alpha=0.5)
    ends = [min(wanted.min(), predicted.min()), max(wanted.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xlabel="true", ylabel="predicted")
    figure.savefig(path, dpi=120)


def draw_learning_curve(history: Sequence[dict[str, Any]], score: str, path: Path) -> None:
    """Draw the losses, and the score on the validation rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes, key, label in (
        (losses, "loss", "training"),
        (losses, "eval_loss", "validation"),
        (scores, f"eval_{score}", "validation"),
    ):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    losses.set(xlabel="step", ylabel="loss")
    scores.set(xlabel="step", ylabel=score.replace("_", " "))
    losses.legend()
    figure.savefig(path, dpi=120)
