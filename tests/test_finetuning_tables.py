"""modeling_dlr.finetuning reads tables, folders and FASTA row by row, and says in one line what it cannot read."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modeling_dlr.finetuning import Task, iter_rows
from modeling_dlr.finetuning.signals import read_sound
from modeling_dlr.finetuning.tables import find_source

ROWS = [{"text": "a, b", "label": "x"}, {"text": 'the "c"\nd', "label": "y"}]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(path: Path, **options: Any) -> Path:
    pd.DataFrame(ROWS).to_csv(path, index=False, **options)
    return path


WRITERS = {
    "rows.csv": as_csv,
    "semicolons.csv": lambda path: as_csv(path, sep=";"),
    "with a mark.csv": lambda path: as_csv(path, encoding="utf-8-sig"),
    "UTF-16.csv": lambda path: as_csv(path, encoding="utf-16"),
    "rows.csv.gz": as_csv,
    "rows.jsonl.gz": lambda path: write(path, gzip.compress("\n".join(map(json.dumps, ROWS)).encode())),
    "rows.tsv": lambda path: as_csv(path, sep="\t"),
    "rows.jsonl": lambda path: write(path, "\n".join(map(json.dumps, ROWS)) + "\n\n"),
    "rows.json": lambda path: write(path, json.dumps(ROWS)),
    "rows.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path) or path,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_gives_its_rows(name: str, tmp_path: Path):
    """Every format gives the same rows, those with separators, quotes and line breaks too."""
    assert list(iter_rows(WRITERS[name](tmp_path / name))) == ROWS


def test_a_folder_by_class(tmp_path: Path):
    """The text of every file, with the name of its folder; images and sounds as paths."""
    write(tmp_path / "texts" / "good" / "1.txt", "fine")
    write(tmp_path / "texts" / "bad" / "2.txt", "poor")
    assert [(row["label"], row["text"]) for row in iter_rows(tmp_path / "texts")] == [("bad", "poor"), ("good", "fine")]
    path = write(tmp_path / "pictures" / "train" / "cat" / "1.png", b"")
    write(tmp_path / "pictures" / "test" / "dog" / "2.png", b"")
    assert list(iter_rows(tmp_path / "pictures", "train")) == [{"file": "1.png", "image": str(path), "label": "cat"}]


def test_files_of_splits(tmp_path: Path):
    """Files that are called train, dev and test are these splits; others are one."""
    for name in ("train-1.csv", "train-2.csv", "dev.csv", "test.csv"):
        as_csv(tmp_path / name)
    assert {name: len(files) for name, files in find_source(tmp_path).splits.items()} == {
        "validation": 1,
        "test": 1,
        "train": 2,
    }
    assert len(list(iter_rows(tmp_path, "train"))) == 4
    as_csv(tmp_path / "more.csv")
    assert list(find_source(tmp_path).splits) == ["all"]


def test_fasta(tmp_path: Path):
    """Records over several lines, pairs of the description as columns, and a class for each of several files."""
    path = write(tmp_path / "one.fa", ">r1 of a yeast label=exon\nACGT\nAC\n>r2\nTT\n")
    one, two = iter_rows(path)
    assert one == {"name": "r1", "description": "of a yeast label=exon", "sequence": "ACGTAC", "label": "exon"}
    assert two == {"name": "r2", "description": "", "sequence": "TT"}
    write(tmp_path / "two.fasta.gz", gzip.compress(b">s\nGG\n"))
    assert [row["label"] for row in iter_rows(tmp_path)] == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\nx,y\nz\n", ["line 3", "2 cells"]),
        ("a.csv", "text,text\nx,y\n", ["every column once"]),
        ("a.csv", b"text,label\nx,y\ncaf\xe9,y\n", ["line 3", "0xe9", "--encoding"]),
        ("a.jsonl", '{"text": 1}\n{"text"\n', ["Line 2"]),
        ("a.jsonl", "[]x", ["a.jsonl"]),
        ("a.jsonl", "5\n", ["Line 1", "object"]),
        ("a.parquet", "no parquet", ["a.parquet"]),
        ("a.fa", "ACGT\n", ["'>name'"]),
        ("a.docx", "", ["a.docx", ".csv"]),
    ],
)
def test_what_cannot_be_read(name: str, content: str | bytes, said: list[str], tmp_path: Path):
    """One line that names the place."""
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - what it says is checked below
        list(iter_rows(path))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in said)


def test_sound_other_than_wav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It has the samples of the WAV file; without soundfile, its extra is named."""
    soundfile = pytest.importorskip("soundfile")
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (1600, 2), dtype=np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, samples, 8000, subtype="PCM_16")
    wav, flac = (read_sound(str(tmp_path / name)) for name in ("a.wav", "a.flac"))
    assert wav.shape == (3200,)
    np.testing.assert_array_equal(flac, wav)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"modeling-dlr\[tasks\]"):
        read_sound(str(tmp_path / "a.flac"))


def test_other_encodings(tmp_path: Path):
    """Lines that are not UTF-8 can be read as what is named second."""
    path = write(tmp_path / "a.csv", "text\né\n".encode() + "è\n".encode("cp1252"))
    assert [row["text"] for row in iter_rows(path, encoding="utf-8,cp1252")] == ["é", "è"]


def test_a_data_set_of_the_hub_without_network(hub: Any, monkeypatch: pytest.MonkeyPatch):
    """It is refused at once, in one line, without trying again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pytest.fail)
    with pytest.raises(ValueError, match="'me/rows'") as error:
        find_source("me/rows")
    assert "\n" not in str(error.value)


def test_a_name_that_is_nothing(tmp_path: Path):
    """The nearest file is named."""
    as_csv(tmp_path / "reviews.csv")
    with pytest.raises(ValueError, match="review"):
        find_source(tmp_path / "review.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder"):
        find_source(tmp_path / "empty")
    write(tmp_path / "model" / "config.json", "{}")
    write(tmp_path / "model" / "model.safetensors", "")
    with pytest.raises(ValueError, match="model"):
        find_source(tmp_path / "model")


def test_task_is_saved_and_loaded(tmp_path: Path):
    """As it was; a folder without one, a damaged one and a task of two columns that has one are refused."""
    task = Task("several labels", "text", ["text"], "tags", ["a", "b"], {"a": 0.4, "b": 0.5}, 512)
    task.save(tmp_path)
    assert Task.load(tmp_path) == task
    with pytest.raises(ValueError, match=r"task\.json"):
        Task.load(tmp_path / "other")
    write(tmp_path / "task.json", '{"task": 5}')
    with pytest.raises(ValueError, match=r"task\.json"):
        Task.load(tmp_path)
    with pytest.raises(ValueError, match="two"):
        Task("pairs", "text", ["text"])
