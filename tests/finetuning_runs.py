"""Small runs of `modeling_dlr.finetuning.train` on tables that tests write."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modeling_dlr.finetuning import Report, TrainOptions, train

SMALL = {"layers": 1, "hidden_size": 8, "state_size": 4, "epochs": 1.0, "evaluations": 2, "pictures": False}
WORDS = {"good": ["superb", "lovely", "gripping"], "bad": ["dull", "clumsy", "tedious"]}


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def reviews(count: int = 60) -> list[list[str]]:
    generator = random.Random(0)
    return [
        [f"Number {i}: the plot was {generator.choice(WORDS[label])}.", label]
        for i in range(count)
        for label in [list(WORDS)[i % 2]]
    ]


def small(source: Path, folder: Path, **options: Any) -> Report:
    given = TrainOptions(**({"output": folder / "out"} | SMALL | options))
    return train(source, given, console=Console(quiet=True))


def refused(source: Path, folder: Path, **options: Any) -> str:
    """The message of a refusal, which leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - callers look at the message
        small(source, folder, **options)
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def classes(folder: Path) -> tuple[Path, dict[str, Any]]:
    return write(folder / "a.csv", ["text", "label"], reviews()), {}
