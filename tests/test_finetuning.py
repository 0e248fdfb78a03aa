"""modeling_dlr.finetuning trains on tables, files and sequences of every task, and refuses what is wrong."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finetuning_runs import SMALL, classes, refused, reviews, small, write
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from modeling_dlr.finetuning import Task, TrainOptions, evaluate, iter_rows, train
from modeling_dlr.finetuning.encoding import Encoder
from modeling_dlr.finetuning.labels import Labels
from modeling_dlr.finetuning.report import usage
from modeling_dlr.inference import predict
from modeling_dlr.tokenization import byte_tokenizer


def several(folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = [
        [
            f"{i} {'urgent' * (i % 2)} {'bill' * (i % 3 == 0)}",
            "|".join(["any"] + ["x"] * (i % 2) + ["y"] * (i % 3 == 0)),
        ]
        for i in range(60)
    ]
    return write(folder / "a.csv", ["text", "labels"], rows), {}


def numbers(folder: Path) -> tuple[Path, dict[str, Any]]:
    return write(folder / "a.csv", ["text", "score"], [["a" * (i % 7 + 1) + f" {i}", i / 3] for i in range(60)]), {}


def pairs(folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = [[f"one {i}", f"{'one' if i % 2 else 'other'} {i}", str(i % 2)] for i in range(60)]
    return write(folder / "a.csv", ["text_a", "text_b", "label"], rows), {}


def spans(folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = [
        {"text": f"é call {i:04} now", "spans": [{"start": 7, "end": 11, "label": "number"}] if i % 2 else []}
        for i in range(60)
    ]
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, {}


def words(folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = [{"tokens": ["call", f"Ann{i}", "now"], "ner_tags": ["O", "B-name", "O"]} for i in range(60)]
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, {}


def structure(folder: Path) -> tuple[Path, dict[str, Any]]:
    generator = random.Random(0)
    rows = [["".join(generator.choices("ACGT", k=30)), "EEEEEEEEEE" * 2 + "I" * 10] for _ in range(60)]
    return write(folder / "a.csv", ["sequence", "structure"], rows), {"max_length": 16}


def fasta(folder: Path) -> tuple[Path, dict[str, Any]]:
    generator = random.Random(0)
    for name, letters in (("at", "AT"), ("cg", "CG")):
        records = [f">{name}{i}\n{''.join(generator.choices(letters, k=20))}\n" for i in range(30)]
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{name}.fa").write_text("".join(records))
    return folder / "data", {}


def images(folder: Path) -> tuple[Path, dict[str, Any]]:
    from PIL import Image

    for i in range(40):
        path = folder / "data" / ("dark" if i % 2 else "bright") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), 20 + i + 150 * (i % 2), dtype=np.uint8)).save(path)
    return folder / "data", {}


def sounds(folder: Path) -> tuple[Path, dict[str, Any]]:
    from scipy.io import wavfile

    for i in range(40):
        path = folder / "data" / ("low" if i % 2 else "high") / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(np.arange(1600 + i) * (0.3 if i % 2 else 1.5))
        wavfile.write(path, 8000, (wave * 2**14).astype(np.int16))
    return folder / "data", {}


KINDS = {
    "classes": (classes, "classes", "text", "accuracy"),
    "several labels": (several, "several labels", "text", "f1_micro"),
    "numbers": (numbers, "number", "text", "r2"),
    "pairs": (pairs, "pairs", "text", "accuracy"),
    "spans": (spans, "tokens", "text", "f1_macro"),
    "words": (words, "tokens", "text", "f1_macro"),
    "label strings": (structure, "tokens", "dna", "f1_macro"),
    "fasta": (fasta, "classes", "dna", "accuracy"),
    "images": (images, "classes", "image", "accuracy"),
    "sounds": (sounds, "classes", "sound", "accuracy"),
}

SLOW = {"words", "fasta", "numbers"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS]
)
def test_every_kind_of_data(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The task is read from the data; the folder holds everything; what it predicts has the scores of `evaluate`."""
    build, task, medium, score = KINDS[kind]
    source, options = build(tmp_path)
    report = small(source, tmp_path, **options)
    assert (report.task.task, report.task.input, report.main) == (task, medium, score)
    assert report.scores.keys() == report.intervals.keys()
    assert len(report.baselines) == 2
    assert report.training["pooling"] == ("max" if task == "several labels" else "mean_max")
    assert all(low <= high for low, high in report.intervals.values())
    folder = tmp_path / "out"
    assert Task.load(folder) == report.task
    assert {"config.json", "model.safetensors", "modeling_dlr.py", "README.md", "results.json"} <= {
        path.name for path in folder.iterdir()
    }
    written = json.loads((folder / "results.json").read_text())
    assert written["metrics"][score] == report.scores[score]
    assert not (tmp_path / "out-unfinished").exists()
    again = evaluate(folder, source, console=Console(quiet=True))
    assert again.scores.keys() == report.scores.keys()
    predict(folder, source, tmp_path / "answers.jsonl", progress=False)
    check_answers(report.task, list(iter_rows(source)), read_lines(tmp_path / "answers.jsonl"), again.scores)
    if medium in ("text", "dna"):  # of files, the lines have a place for a path
        exec("\n".join(usage(report.task, str(folder))))  # noqa: S102 - what a reader would run
        assert "'...'" in capsys.readouterr().out


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_answers(task: Task, rows: list[dict[str, Any]], answers: list[dict[str, Any]], scores: dict[str, float]):
    """All columns are kept, and the answers have the scores that `evaluate` gives to the same rows."""
    kept = [{name: row[name] for name in rows[0]} for row in answers]
    if task.task == "tokens":
        texts = [row[task.text_columns[0]] for row in rows]
        assert list({json.dumps(row): 0 for row in kept}) == list({json.dumps(row): 0 for row in rows})
        for row in answers:
            text = row[task.text_columns[0]]
            length = len(text if isinstance(text, str) else " ".join(text))
            assert row["label"] is None or (row["label"] in task.labels and 0 <= row["start"] < row["end"] <= length)
        assert len({json.dumps(text) for text in texts}) <= len(answers)
        return
    assert kept == rows
    wanted = [row[task.label_column or "label"] for row in rows]
    if task.is_number:
        errors = [abs(row["value"] - float(value)) for row, value in zip(answers, wanted, strict=True)]
        assert np.mean(errors) == pytest.approx(scores["mean_absolute_error"], rel=1e-4)
        return
    given = [row.get("predicted_label", row["label"]) for row in answers]
    if task.task == "several labels":
        wanted, given = [set(cell.split("|")) for cell in wanted], [set(each) for each in given]
    assert np.mean([one == other for one, other in zip(given, wanted, strict=True)]) == pytest.approx(
        scores["accuracy"]
    )


@pytest.mark.slow
def test_saved_model_scores_the_test_rows(tmp_path: Path):
    """The scores of the report are those of the saved folder on the same rows, thresholds and scale included."""
    for build, extra in ((several, {}), (numbers, {}), (spans, {})):
        folder = tmp_path / build.__name__
        folder.mkdir()
        source, _ = build(folder)
        rows = pd.read_json(source, lines=True) if source.suffix == ".jsonl" else pd.read_csv(source)
        (folder / "data").mkdir()
        for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
            part.to_json(folder / "data" / f"{name}.jsonl", orient="records", lines=True)
        report = small(folder / "data", folder, **extra)
        assert report.rows == {"train": 40, "validation": 10, "test": 10}
        again = evaluate(folder / "out", folder / "data" / "test.jsonl", console=Console(quiet=True))
        assert again.scores == pytest.approx(report.scores, abs=1e-5)


@pytest.mark.slow
def test_it_learns(tmp_path: Path):
    """With its defaults but the length, on a task that takes one word."""
    report = small(classes(tmp_path)[0], tmp_path, epochs=40.0, hidden_size=32, evaluations=4, learning_rate=1e-2)
    assert report.scores["accuracy"] == 1
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "bad", 1: "good"}
    logits = model(**tokenizer(["Number 9: the plot was superb."], return_tensors="pt")).logits
    assert logits.argmax() == 1


def test_windows_of_tokens():
    """They are equally long but for a step, cover the row, and have the label of the first character of each token."""
    task = Task("tokens", "text", ["text"], "label", ["O", "x"], max_length=8, outside="O")
    labels = Labels("tokens", ["O", "x"], None, [1, 1], "", "O", "spans")
    encoder = Encoder(task, byte_tokenizer(add_prefix_space=False), "", 0.0, labels)
    row = {"row": 1, "text": "é is not ascii", "label": '[[0, 1, "x"], [9, 14, "x"]]'}
    windows = list(encoder.features(row))
    assert [len(window["input_ids"]) for window in windows] == [8, 7]
    assert [window["start"] for window in windows] == [0, 7]
    assert [label for window in windows for label in window["labels"]] == [1, 1] + [0] * 8 + [1] * 5


def test_duplicates_and_groups_stay_together(tmp_path: Path):
    """No text and no group is in two splits; given splits lose the training rows that are tested."""
    rows = [[*row, str(i // 6)] for i, row in enumerate(reviews(60))]
    source = write(tmp_path / "a.csv", ["text", "label", "person"], [*rows, *rows[:20]])
    from modeling_dlr.finetuning.columns import choose_columns
    from modeling_dlr.finetuning.rows import read_rows, sample_of
    from modeling_dlr.finetuning.splits import split_rows
    from modeling_dlr.finetuning.tables import find_source

    found = find_source(source)
    columns = choose_columns(sample_of(found, "utf-8"), TrainOptions())
    for group in (None, "person"):
        read = read_rows(found, columns, tmp_path, encoding="utf-8", group=group)
        splits = split_rows(read, None, validation=0.1, test=0.1, seed=0)
        parts = [set(read.keys[places]) for places in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60
        assert all(parts)
        if group is not None:
            assert read.groups is not None
            parts = [set(read.groups[places]) for places in (splits.train, splits.validation, splits.test)]
            assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    (tmp_path / "given").mkdir()
    write(tmp_path / "given" / "train.csv", ["text", "label"], reviews(60))
    write(tmp_path / "given" / "test.csv", ["text", "label"], reviews(10))
    read = read_rows(find_source(tmp_path / "given"), columns, tmp_path, encoding="utf-8")
    splits = split_rows(read, None, validation=0.1, test=0.1, seed=0)
    assert len(splits.test) == 10
    assert len(splits.train) + len(splits.validation) == 50


def test_empty_cells_are_dropped_and_counted(tmp_path: Path):
    rows = [*reviews(60), ["", "good"], ["text", " "]]
    console = Console(record=True, width=200)
    with console.capture() as capture:
        train(
            write(tmp_path / "a.csv", ["text", "label"], rows),
            TrainOptions(output=tmp_path / "out", **SMALL),
            console=console,
        )
    assert "2 rows with empty cells" in capture.get()


NUMBERS = [[row[0], i / 3] for i, row in enumerate(reviews())]
UNEQUAL = [["ACGTACGT", "EEEEIIII"]] * 30


@pytest.mark.parametrize(
    ("header", "rows", "options", "said"),
    [
        (["text", "label"], reviews(), {"label": "lable"}, ["'lable'", "'label'"]),
        (["text", "label"], reviews(), {"text": "txt"}, ["'txt'", "'text'"]),
        (["text", "label"], reviews(), {"group": "persn"}, ["'persn'"]),
        (["one", "two", "three"], [["a", "b", "c"]] * 30, {}, ["--label"]),
        (["text", "label"], [[row[0], "good"] for row in reviews()], {}, ["'good'"]),
        (["text", "label"], [*reviews(), ["one more", "odd"]], {}, ["'odd'", "61"]),
        (["text", "label"], reviews(10), {}, ["20", "10"]),
        (["text", "label"], [[row[0], f"name {i}"] for i, row in enumerate(reviews())], {}, ["nearly all different"]),
        (
            ["text", "label"],
            [[row[0], i / 3] for i, row in enumerate(reviews())],
            {"task": "classes"},
            ["--task number"],
        ),
        (["text", "label"], [*NUMBERS, ["x", "odd"]], {}, ["'odd'", "61"]),
        (["sequence", "label"], [*UNEQUAL, ["ACGTACGTA", "EEEE"]], {}, ["row 31", "9", "4"]),
        (["text", "label"], [["abc", json.dumps([[0, 2, "x"]])]] * 30 + [["ab", '[[1, 5, "x"]]']], {}, ["Row 31", "5"]),
        (["text", "label"], [["", "good"]] * 30, {}, ["empty cell"]),
        (["text", "label"], [], {}, ["no rows"]),
        (["text", "label"], reviews(), {"task": "pairs"}, ["two columns"]),
        (["text", "label"], reviews(), {"task": "tokens"}, ["as long as the text"]),
        (["text", "label"], reviews(), {"text": "label", "label": "label"}, ["both"]),
        (["image", "label"], [[f"{i}.png", "ab"[i % 2]] for i in range(30)], {}, ["Row 1", "'0.png'"]),
    ],
)
def test_bad_input(header: list[str], rows: list[list[Any]], options: dict[str, Any], said: list[str], tmp_path: Path):
    """One line before training, and nothing is written."""
    source = write(tmp_path / "a.csv", header, rows)
    message = refused(source, tmp_path, output=tmp_path / "new" / "out", **options)
    assert all(part in message for part in said), message


WRONG: list[dict[str, Any]] = [
    *({"budget": "soon"}, {"budget": "0m"}, {"test": 0.9}, {"layers": 0}, {"learning_rate": -1.0}, {"seed": -1}),
    *({"learning_rate": float("inf")}, {"epochs": float("nan")}, {"warmup": 2.0}, {"weight_decay": -1.0}),
    *({"dropout": 1.5}, {"label_smoothing": 2.0}, {"vocab_size": 3}, {"vocab_size": 500, "tokenizer": "bytes"}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_options(wrong: dict[str, Any]):
    """They are refused before anything is read."""
    with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        TrainOptions(**wrong)


def test_budget_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the clock: every call of it takes a second."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("modeling_dlr.finetuning.clock.time.perf_counter", lambda: float(next(ticks)))
    report = small(classes(tmp_path)[0], tmp_path, epochs=500.0, budget="100s", patience=500)
    assert report.training["steps"] < 500 * 3
    assert report.training["steps"] < report.training["planned_steps"] or report.training["planned_steps"] < 200


def test_pictures(tmp_path: Path):
    small(classes(tmp_path)[0], tmp_path, pictures=True)
    assert {"confusion.png", "learning_curve.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run ends as usual, and says which pictures are missing."""
    monkeypatch.setattr("modeling_dlr.finetuning.running.can_draw", lambda: False)
    console = Console(record=True, width=200)
    with console.capture() as capture:
        train(classes(tmp_path)[0], TrainOptions(output=tmp_path / "out", **SMALL), console=console)
    assert "confusion matrix" in capture.get()
    assert "learning curve" in capture.get()
    assert "pip install 'modeling-dlr[figures]'" in capture.get()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_printed(terminal: bool, tmp_path: Path):
    """Brackets in names stay, no line is broken, and colours and the bar are for terminals only."""
    rows = [[text, f"[{label}]"] for text, label in reviews()]
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=60, highlight=False, legacy_windows=False)
    source = write(tmp_path / ("long" * 20 + ".csv"), ["[text]", "label"], rows)
    train(source, TrainOptions(output=tmp_path / "out", text="[text]", **SMALL), console=console)
    said = file.getvalue()
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  [")] == ["[bad]", "[good]"]
    assert f"{source}: 60 rows, text from '[text]'" in said
    assert ("\x1b[" in said) == terminal
    assert ("training, step" in said) == terminal


def test_evaluate_refuses_unknown_labels(tmp_path: Path):
    small(classes(tmp_path)[0], tmp_path)
    other = write(tmp_path / "b.csv", ["text", "label"], [["x", "odd"]])
    with pytest.raises(ValueError, match="'odd'"):
        evaluate(tmp_path / "out", other)


@pytest.mark.slow
def test_seed_repeats_a_run(tmp_path: Path):
    """The same seed gives the same weights."""
    source, _ = classes(tmp_path)
    weights = []
    for _ in range(2):
        small(source, tmp_path)
        weights.append(AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
