"""Files for recipes: what is wrong with one is said in one line, and cells are what they say."""

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from modeling_dlr.cli.recipes import main
from modeling_dlr.recipes.files import load_rows, load_tables, without_empty_cells


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# The name of a file, its bytes, and what the message names beside the file: what must be, and what is.
BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "latin-1": ("a.csv", "text,label\nGrüße,x\n".encode("latin-1"), ["UTF-8", "0xfc"]),
    "empty": ("a.csv", b"", ["empty"]),
    "blank": ("a.csv", b"\n\n", ["no rows"]),
    "header only": ("a.csv", b"text,label\n", ["no rows", "header"]),
    "long row": ("a.csv", b"text,label\na,b\nc,d,e\n", ["2 cells", "line 3", "has 3"]),
    "long rows": ("a.csv", b"text,label\n1,a,b\n2,c,d\n", ["2 cells", "line 2", "has 3"]),
    "short row": ("a.csv", b"text,label\na,b\nc\n", ["2 cells", "line 3", "has 1"]),
    "open quote": ("a.csv", b'text,label\n"a,b\nc,d\n', ["2 cells", "line 3", "has 1"]),
    "tabs": ("a.tsv", b"text\tlabel\na\tb\tc\n", ["2 cells", "line 2", "has 3"]),
    "broken JSON": ("a.json", b'{"text": ', []),
    "broken line": ("a.jsonl", b'{"text": "a"}\n{"text" "b"}\n', []),
    "latin-1 JSON": ("a.json", '[{"text": "ü"}]'.encode("latin-1"), []),
    "no JSON": ("a.json", b"", ["empty"]),
    "no rows": ("a.json", b"[]", []),
    "cut parquet": ("a.parquet", b"PAR1PAR1", []),
    "kind": ("a.txt", b"text", [".csv", ".json", ".jsonl", ".parquet", ".tsv"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_files(bad: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """One line, and nothing of what the libraries below log."""
    name, content, named = BAD[bad]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is compared below
        load_rows(str(tmp_path / name))
    assert [word for word in [name, *named] if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)
    assert "rror" not in capfd.readouterr().err


def test_bad_files_of_recipes(tmp_path: Path):
    """The command of recipes ends with such a line, also for files without a header."""
    (tmp_path / "a.csv").write_bytes("text,label\nü,0\n".encode("latin-1"))
    arguments = ["--smoke", "--output_dir", str(tmp_path / "out"), "--dataset"]
    with pytest.raises(SystemExit, match=r"^modeling-dlr recipes: a\.csv .*UTF-8"):
        main(["lra-imdb-dss", *arguments, str(tmp_path / "a.csv")])
    for split in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{split}.tsv").write_bytes(b"1.0\ta\tb\tc\td\n0.0\ta\n")
    with pytest.raises(SystemExit, match=r"5 cells.*line 2 .*2"):
        main(["lra-aan-dss", *arguments, str(tmp_path)])


def test_cells_are_what_they_say(tmp_path: Path):
    """Names that pandas takes for missing values are names; a byte-order mark and quotes are none of the text."""
    text = '\ufefftext,label\nNA,None\n"a,\n""b""",null\nnan,n/a\n"  c",\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    rows = load_rows(str(tmp_path / "a.csv"))["train"]
    assert rows["text"][:] == ["NA", 'a,\n"b"', "nan", "  c"]
    assert rows["label"][:] == ["None", "null", "n/a", None]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_folders_of_tables(kind: str, tmp_path: Path):
    """Tables in a folder are read as those that are named, with their splits, and checked as well."""
    separator = {"csv": ",", "tsv": "\t"}[kind]
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        text = separator.join(["text", "label"]) + "\n" + separator.join(["NA", "None"]) + "\n"
        (folder / f"{split}.{kind}").write_text(text, encoding="utf-8")
    rows = load_rows(str(folder))
    assert sorted(rows) == ["test", "train"]
    assert [part[:] for part in rows.values()] == [{"text": ["NA"], "label": ["None"]}] * 2
    (folder / f"test.{kind}").write_text(separator.join("ab") + "\n" + separator.join("abc") + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"test.{kind} .*2 cells"):
        load_rows(str(folder))


def test_long_cells(tmp_path: Path):
    """Texts may be longer than the limit of Python's reader."""
    (tmp_path / "a.tsv").write_text("x" * 200_000 + "\t1\n", encoding="utf-8")
    rows = load_tables({"train": tmp_path / "a.tsv"}, "\t", ["text", "label"])["train"]
    assert len(rows[0]["text"]) == 200_000


def test_empty_cells(capsys: pytest.CaptureFixture[str]):
    """What is empty: nothing, blanks, a list of nothing, not a number; counted over all splits, by column."""
    columns: dict[str, list[Any]] = {"text": ["a", " \t", None, "b"] * 500, "words": [["x"], ["y"], ["z"], []] * 500}
    columns["number"] = [1.0, 2.0, 3.0, float("nan")] * 500
    rows = Dataset.from_dict(columns)
    data = without_empty_cells(DatasetDict({"train": rows, "test": rows.select([0, 1])}), list(columns))
    assert data["train"][:] == {"text": ["a"] * 500, "words": [["x"]] * 500, "number": [1.0] * 500}
    assert len(data["test"]) == 1
    said = capsys.readouterr().out
    assert re.findall(r"\d+(?: in '\w+')?", said) == [
        "1501",
        "2002",
        "1001 in 'text'",
        "500 in 'words'",
        "500 in 'number'",
    ]
    assert said.count("\n") == 1
    assert without_empty_cells(data, list(columns))["train"][:] == data["train"][:]
    assert capsys.readouterr().out == ""
