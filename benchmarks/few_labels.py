"""What pretraining brings where labels are few: `modeling-dlr train` from random and from pretrained weights.

    python benchmarks/few_labels.py --save --threads 1     # every row; saved rows are skipped
    python benchmarks/few_labels.py --model FOLDER --rows 0 1 --threads 1

A row is one run on 8, 32, 128 or all labels of each class, a quarter of which decide when to stop, and is scored on the
same test rows as the other runs of its data. For "colours", which gives each character of Python code the kind of its
token, these are numbers of windows of 1,024 characters. Runs of a row's data and labels have the same seconds of the
processor. They start from the pretrained model (`pretrained`), from random weights of the same model (`random`), or as
the command does without a pretrained model (`default`).
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import RESULTS, load, run_benchmark
from pretrain import NAME
from real_models import linear
from real_sets import RealSet, Split, colours
from real_texts import LABELLED, Texts
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.finetuning import TrainOptions, evaluate, train
from modeling_dlr.markdown import markdown_table

MODEL = Path("pretrained") / NAME
DATA = ("news", "programs", "colours")
STARTS = ("pretrained", "default", "random")
# Seconds of the processor by the labels of each class; 0 is all labels.
SECONDS = {8: 60, 32: 90, 128: 150, 0: 240}
# Test rows, and those of them that are scored within the seconds.
TEST_ROWS, FEW_ROWS = 400, 50
# More passes than the seconds allow, which alone end a run then, unless its validation scores have stopped rising.
EPOCHS = 1000
MAX_LENGTH = 1024
# Characters of a window, windows of a file at most, and the letters of the kinds of tokens.
WINDOW, WINDOWS_OF_A_FILE, LETTERS = 1024, 16, "abcdefg"


class Row(NamedTuple):
    """A run: its data, the labels of each class (0 for all), the weights it starts from, and its seed."""

    data: str
    labels: int
    start: str
    seed: int


ROWS = [Row(data, labels, start, seed) for seed in range(3) for start in STARTS for labels in SECONDS for data in DATA]


def splits(data: Texts, labels: int, seed: int, test_rows: int = TEST_ROWS) -> dict[str, Texts]:
    """Training, validation and test rows; the test rows are the same for each number of labels and each seed.

    Args:
        data: of which equal texts are taken once.
        labels: rows of each class to train and to validate on, or 0 for all that are no test rows.
        seed: chooses these rows.
        test_rows: number of test rows.
    """
    rows = list(dict(zip(data.texts, data.labels, strict=True)).items())
    order = np.random.default_rng(0).permutation(len(rows))
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": list(order[:test_rows])}
    rest = np.random.default_rng(seed).permutation(order[test_rows:])
    for name in sorted(set(data.labels)):
        mine = [int(place) for place in rest if rows[place][1] == name]
        mine = mine[:labels] if labels else mine
        validation = len(mine) // 4 if labels else len(mine) // 10
        parts["validation"] += mine[:validation]
        parts["train"] += mine[validation:]
    return {
        part: Texts([rows[place][0] for place in places], [rows[place][1] for place in places])
        for part, places in parts.items()
    }


def windows(data: RealSet, labels: int, seed: int, test_rows: int = TEST_ROWS) -> dict[str, Texts]:
    """The same of windows of files, whose labels are strings of letters. The windows of a file are in one split.

    Args:
        data: files of ASCII characters, and the kind of each character.
        labels: windows to train and to validate on, or 0 for all of files without test windows.
        seed: chooses these windows.
        test_rows: number of test windows.
    """
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for place, file in enumerate(data.inputs):
        starts = range(0, min(len(file), WINDOW * WINDOWS_OF_A_FILE) - WINDOW + 1, WINDOW)
        parts[data.splits[place]] += [(place, start) for start in starts]
    counts = {"test": test_rows} | ({"train": labels - labels // 4, "validation": labels // 4} if labels else {})
    names = np.array(list(LETTERS))
    found = {}
    for part, cuts in parts.items():
        order = np.random.default_rng(0 if part == "test" else seed).permutation(len(cuts))[: counts.get(part)]
        rows = [(place, slice(start, start + WINDOW)) for place, start in (cuts[each] for each in order)]
        texts = [data.inputs[place][cut].tobytes().decode() for place, cut in rows]
        found[part] = Texts(texts, ["".join(names[data.labels[place][cut]]) for place, cut in rows])
    return found


def write_splits(parts: dict[str, Texts], folder: Path) -> None:
    """A table for each split."""
    for name, rows in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(zip(*rows, strict=True))


def options_of(row: Row, folder: Path, model: Path, seconds: int) -> TrainOptions:
    """The options of a run; random weights of the same model are written into the folder."""
    common: dict[str, Any] = {
        "budget": f"{seconds}s",
        "epochs": EPOCHS,
        "seed": row.seed,
        "output": folder / "model",
        "pictures": False,
    }
    if row.start == "default":
        return TrainOptions(**common, from_scratch=True)
    if row.start == "random":
        torch.manual_seed(row.seed)
        DLRForMaskedLM(DLRConfig.from_pretrained(model)).save_pretrained(folder / "random")
    return TrainOptions(
        **common, max_length=MAX_LENGTH, pretrained=model if row.start == "pretrained" else folder / "random"
    )


def measure(row: Row, model: Path = MODEL, seconds: int | None = None, test_rows: int = TEST_ROWS) -> dict[str, Any]:
    """The accuracy of a run on the test rows, and that of a linear model on the same rows."""
    time.perf_counter = time.process_time  # by which `train` keeps to its budget
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        if row.data == "colours":
            parts = windows(colours(WINDOW * WINDOWS_OF_A_FILE), row.labels, row.seed, test_rows)
        else:
            parts = splits(LABELLED[row.data](), row.labels, row.seed, test_rows)
        few = {"test": Texts(*(each[:FEW_ROWS] for each in parts["test"]))}
        write_splits(parts | few, folder / "data")
        options = options_of(row, folder, model, seconds or SECONDS[row.labels])
        quiet = Console(quiet=True)
        report = train(folder / "data", options, console=quiet)
        write_splits({"whole": parts["test"]}, folder)
        accuracy = evaluate(folder / "model", folder / "whole.csv", console=quiet).scores["accuracy"]
    return {
        "accuracy": accuracy,
        "linear": (accuracy_around if row.data == "colours" else accuracy_of_tf_idf)(parts),
        "rows": {name: len(rows.texts) for name, rows in parts.items()},
        "parameters": report.training["parameters"],
        "steps": report.training["steps"],
        "cpu_seconds": round(report.seconds),
    }


def accuracy_of_tf_idf(parts: dict[str, Texts]) -> float:
    """The share of the test rows that logistic regression of words gets right."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(*parts["train"]).score(*parts["test"]))


def accuracy_around(parts: dict[str, Texts]) -> float:
    """The share of the test characters that logistic regression of the characters around each one gets right."""
    inputs, labels, places = [], [], list[Split]()
    named: dict[Split, Texts] = {"train": parts["train"], "test": parts["test"]}
    for name, rows in named.items():
        inputs += [np.frombuffer(text.encode(), dtype=np.uint8) for text in rows.texts]
        labels += [np.array([LETTERS.index(letter) for letter in kinds]) for kinds in rows.labels]
        places += [name] * len(rows.texts)
    return float(linear(RealSet(inputs, labels, places, LETTERS)).mean())


def table(results: Path) -> str:
    """The means over seeds, with the least and the largest, for `benchmarks/render.py`."""
    lines = load(results / "few_labels.json")
    rows = []
    for data in DATA:
        for labels in SECONDS:
            cells = [cell([line["accuracy"] for line in lines if key_of(line) == (data, labels, s)]) for s in STARTS]
            linear = cell(
                {line["seed"]: line["linear"] for line in lines if key_of(line)[:2] == (data, labels)}.values()
            )
            if any(cells):
                rows.append([data, str(labels or "all"), *cells, linear])
    heading = ["data", "labels", "pretrained", "default", "the same model, random", "linear"]
    return f"\n{markdown_table(heading, rows)}\n\n" if rows else ""


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """What the runs of a cell have in common."""
    return line["data"], line["labels"], line["start"]


def cell(values: Iterable[float]) -> str:
    """Mean, least and largest; a single value alone; empty without values."""
    given: Sequence[float] = list(values)
    if len(given) < 2:
        return f"{given[0]:.3f}" if given else ""
    return f"{statistics.mean(given):.3f} ({min(given):.3f} … {max(given):.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", type=Path, default=MODEL)
    known, others = parser.parse_known_args()
    run_benchmark(__doc__, RESULTS / "few_labels.json", ROWS, lambda row: measure(row, known.model), others)
