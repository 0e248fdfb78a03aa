"""Files of the reader's own: what is wrong with one is said in one line, and cells are what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour_code
import fill_code
import pytest
import quickstart
from common import load_columns
from datasets import Dataset, DatasetDict

from modeling_dlr.cli.recipes import main
from modeling_dlr.recipes.files import load_rows, load_tables, without_empty_cells


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# The name of a file, its bytes, and what is said.
BAD: dict[str, tuple[str, bytes, str]] = {
    "latin-1": ("a.csv", "text,label\nGrüße,x\n".encode("latin-1"), "a.csv must be UTF-8, but it has the byte 0xfc"),
    "empty": ("a.csv", b"", "a.csv is empty"),
    "blank": ("a.csv", b"\n\n", "a.csv has no rows"),
    "header only": ("a.csv", b"text,label\n", "a.csv has no rows below its header"),
    "long row": ("a.csv", b"text,label\na,b\nc,d,e\n", "must have 2 cells, but the one that ends in line 3 has 3"),
    "long rows": ("a.csv", b"text,label\n1,a,b\n2,c,d\n", "must have 2 cells, but the one that ends in line 2 has 3"),
    "short row": ("a.csv", b"text,label\na,b\nc\n", "must have 2 cells, but the one that ends in line 3 has 1"),
    "open quote": ("a.csv", b'text,label\n"a,b\nc,d\n', "must have 2 cells, but the one that ends in line 3 has 1"),
    "tabs": ("a.tsv", b"text\tlabel\na\tb\tc\n", "must have 2 cells, but the one that ends in line 2 has 3"),
    "broken JSON": ("a.json", b'{"text": ', "a.json could not be read: "),
    "broken line": ("a.jsonl", b'{"text": "a"}\n{"text" "b"}\n', "a.jsonl could not be read: "),
    "latin-1 JSON": ("a.json", '[{"text": "ü"}]'.encode("latin-1"), "a.json could not be read: "),
    "no JSON": ("a.json", b"", "a.json is empty"),
    "no rows": ("a.json", b"[]", "a.json could not be read: "),
    "cut parquet": ("a.parquet", b"PAR1PAR1", "a.parquet could not be read: "),
    "kind": ("a.txt", b"text", "['.csv', '.json', '.jsonl', '.parquet', '.tsv'] file, got a.txt"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_files(bad: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """One line, and nothing of what the libraries below log."""
    name, content, says = BAD[bad]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is compared below
        load_rows(str(tmp_path / name))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "rror" not in capfd.readouterr().err


@pytest.mark.parametrize("main", [quickstart.main, colour_code.main, fill_code.main], ids=lambda main: main.__module__)
def test_bad_files_on_command_lines(main: Callable[..., Any], tmp_path: Path):
    """Every example ends with this line, and leaves nothing."""
    (tmp_path / "a.csv").write_bytes(b"text,label\n")
    with pytest.raises(SystemExit, match=r"^\w+\.py: a\.csv has no rows below its header\.$"):
        main(["--dataset", str(tmp_path / "a.csv"), "--output-dir", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_bad_files_of_recipes(tmp_path: Path):
    """So do recipes, also for the files without a header."""
    (tmp_path / "a.csv").write_bytes("text,label\nü,0\n".encode("latin-1"))
    arguments = ["--smoke", "--output_dir", str(tmp_path / "out"), "--dataset"]
    with pytest.raises(SystemExit, match=r"^modeling-dlr recipes: a\.csv must be UTF-8"):
        main(["lra-imdb-dss", *arguments, str(tmp_path / "a.csv")])
    for split in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{split}.tsv").write_bytes(b"1.0\ta\tb\tc\td\n0.0\ta\n")
    with pytest.raises(SystemExit, match=r"must have 5 cells, but the one that ends in line 2 has 2"):
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
    with pytest.raises(ValueError, match=f"Every row of test.{kind} must have 2 cells"):
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
    said = "Dropped 1501 of 2002 rows with empty cells: 1001 in 'text', 500 in 'words', 500 in 'number'."
    assert capsys.readouterr().out == f"{said}\n"
    assert without_empty_cells(data, list(columns))["train"][:] == data["train"][:]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("copied", [True, False], ids=["copies", "no copies"])
def test_copies_stay_on_one_side(copied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What is held out has not been trained on, also where a text is there twice, with another label, too."""
    texts = [f"text {i % 10 if copied else i}" for i in range(50)]
    Dataset.from_dict({"text": texts, "label": [i % 3 for i in range(50)]}).to_csv(tmp_path / "a.csv")
    data = load_columns(str(tmp_path / "a.csv"), ["text", "label"])
    assert sorted([*data["train"]["text"], *data["test"]["text"]]) == sorted(texts)
    assert len(data["test"]) == 10
    assert not set(data["train"]["text"]) & set(data["test"]["text"])
    said = "40 of 50 rows repeat the 'text' of another: all rows of a text are trained on, or all are held out.\n"
    assert capsys.readouterr().out == (said if copied else "")


def test_copies_between_given_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A data set's own split stays as it is."""
    for split, texts in {"train": ["a", "b", "c"], "test": ["c", "d", "c"]}.items():
        Dataset.from_dict({"text": texts}).to_csv(tmp_path / f"{split}.csv")
    assert len(load_columns(str(tmp_path), ["text"])["test"]) == 3
    assert capsys.readouterr().out == "2 of 3 held-out rows have a 'text' that is also in the training rows.\n"
