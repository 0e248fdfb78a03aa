"""modeling_dlr.finetuning finds the columns of a table, and what its labels mean."""

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modeling_dlr.finetuning import TrainOptions
from modeling_dlr.finetuning.columns import choose_columns
from modeling_dlr.finetuning.labels import Labels, understand
from modeling_dlr.finetuning.rows import read_rows, sample_of
from modeling_dlr.finetuning.splits import split_rows
from modeling_dlr.finetuning.tables import find_source

LONG = "a text that is somewhat longer than others"


@pytest.mark.parametrize(
    ("row", "options", "texts", "labels", "medium"),
    [
        ({"text": LONG, "label": "x"}, {}, ["text"], ["label"], "text"),
        ({"id": "7", "review": LONG, "stars": 3}, {}, ["review"], ["stars"], "text"),
        ({"where": "here", "what": LONG, "topic": "x"}, {}, ["what"], ["topic"], "text"),
        ({"Sequence": "ACGTACGTACGTAC", "Class": "x"}, {}, ["Sequence"], ["Class"], "dna"),
        ({"premise": LONG, "hypothesis": LONG, "label": "x"}, {}, ["premise", "hypothesis"], ["label"], "text"),
        ({"one": LONG, "two": LONG, "kind": "x"}, {"text": "one,two"}, ["one", "two"], ["kind"], "text"),
        ({"text": LONG, "a": 1, "b": 0}, {"label": "a,b"}, ["text"], ["a", "b"], "text"),
        ({"text, raw": LONG, "label": "x"}, {"text": "text, raw"}, ["text, raw"], ["label"], "text"),
        ({"path": "a.PNG", "label": "x"}, {}, ["path"], ["label"], "image"),
        ({"file": "a.wav", "label": "x"}, {}, ["file"], ["label"], "sound"),
    ],
)
def test_columns(row: dict[str, Any], options: dict[str, Any], texts: list[str], labels: list[str], medium: str):
    """By what is given, by usual names, and by what the cells hold."""
    found = choose_columns([row], TrainOptions(**options))
    assert (found.texts, found.labels, found.input) == (texts, labels, medium)
    assert found.is_pair == ("premise" in texts)


def understood(cells: Sequence[Any], folder: Path, text: Any = LONG, **options: Any) -> Labels:
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": cell}) for cell in cells))
    source = find_source(path)
    columns = choose_columns(sample_of(source, "utf-8"), TrainOptions(**options))
    return understand(read_rows(source, columns, folder, encoding="utf-8"), None, is_pair=columns.is_pair)


@pytest.mark.parametrize(
    ("cells", "task", "names"),
    [
        (["yes", "no"] * 5, "classes", ["no", "yes"]),
        ([10, 9, 2] * 5, "classes", ["2", "9", "10"]),
        ([1.0, 2.0] * 5, "classes", ["1", "2"]),
        ([True, False] * 5, "classes", ["False", "True"]),
        ([0.5, 2, 3] * 5, "number", []),
        (list(range(30)), "number", []),
        ([["a"], ["a", "b"], []] * 5, "several labels", ["a", "b"]),
        (["a|b", "b|c", "a", "a|c"] * 5, "several labels", ["a", "b", "c"]),
        (["a; b", "b; c", "a", "a; c"] * 5, "several labels", ["a", "b", "c"]),
        (["['a', 'b']", "['b']"] * 5, "several labels", ["a", "b"]),
        (["north, east", "south, west"] * 5, "classes", ["north, east", "south, west"]),
        ([[[0, 1, "x"]], []] * 5, "tokens", ["O", "x"]),
        ([[{"start": 2, "end": 6, "label": "x"}], []] * 5, "tokens", ["O", "x"]),
        ([("AB" * 30)[: len(LONG)]] * 5, "tokens", ["A", "B"]),
    ],
)
def test_tasks(cells: list[Any], task: str, names: list[str], tmp_path: Path):
    """The task and the names of the labels, numbers in their order."""
    found = understood(cells, tmp_path)
    assert (found.task, found.names) == (task, names)


def test_memory_of_rows(tmp_path: Path):
    """It does not hold the texts: a row more takes some tens of bytes, for its split, its key and its place."""
    peaks = []
    for count in (1500, 4500):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(
            "".join(json.dumps({"text": f"{i} {LONG * 20}", "label": "ab"[i % 2]}) + "\n" for i in range(count))
        )
        source = find_source(path)
        columns = choose_columns(sample_of(source, "utf-8"), TrainOptions())
        tracemalloc.start()
        rows = read_rows(source, columns, tmp_path, encoding="utf-8")
        split_rows(rows, understand(rows, None, is_pair=False).targets, validation=0.1, test=0.1, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3000 * 100


def test_targets(tmp_path: Path):
    """Numbers of classes; values; and the numbers of several labels, in the order of the rows."""
    assert understood(["b", "a", "b", "a"], tmp_path).targets.tolist() == [1, 0, 1, 0]
    assert understood([1.5, -2, 1.5], tmp_path).targets.tolist() == [1.5, -2.0, 1.5]
    assert understood([["b"], ["a", "b"], ["a"]] * 3, tmp_path).targets == [[1], [0, 1], [0]] * 3
