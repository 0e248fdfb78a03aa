"""`modeling-dlr train` and `evaluate`: the options of the dataclass, one line for mistakes, scores as a file."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from finetuning_runs import classes
from typer.testing import CliRunner, Result

from modeling_dlr.cli import app, main
from modeling_dlr.finetuning import TrainOptions

SMALL = ["--layers", "1", "--hidden-size", "8", "--state-size", "4", "--epochs", "1", "--evaluations", "2"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_option_is_shown():
    """Those of `TrainOptions`, on one screen each way."""
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(f"--{field.name.replace('_', '-')}" in shown for field in fields(TrainOptions))


def test_train_and_evaluate(tmp_path: Path):
    """A folder, and the scores of it in a file."""
    source, _ = classes(tmp_path)
    result = run("train", source, "--output", tmp_path / "out", "--no-pictures", *SMALL)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    scores = tmp_path / "sub" / "scores.json"
    result = run("evaluate", tmp_path / "out", source, "--output", scores)
    assert result.exit_code == 0, result.output
    assert "accuracy" in json.loads(scores.read_text())["metrics"]
    assert list(scores.parent.iterdir()) == [scores]
    for wrong, named in ((scores, "is there already"), (scores.with_suffix(".txt"), ".json")):
        assert named in str(run("evaluate", tmp_path / "out", source, "--output", wrong).exception)


@pytest.mark.parametrize(
    "wrong", [["--label", "lable"], ["--budget", "soon"], ["--task", "several-labels", "--text", "none"]]
)
def test_mistakes_are_one_line(wrong: list[str], tmp_path: Path):
    """The rule, what was given and the cure; the status says that it failed."""
    result = run("train", classes(tmp_path)[0], "--output", tmp_path / "out", *wrong)
    assert result.exit_code != 0
    assert str(result.exception).startswith("modeling-dlr train: ")
    assert "\n" not in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trian"], "train"),
        (["train", "x.csv", "--tsk", "classes"], "--task"),
        (["train", "x.csv", "--task", "klasses"], "several-labels"),
        (["plan", "dlr-small", "--length", "0"], "--length"),
        (["predict"], "folder"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Commands, options and values that do not exist: what is right, and where to read more."""
    monkeypatch.setattr("sys.argv", ["modeling-dlr", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("modeling-dlr")
    assert named in line
    assert "--help" in line


def test_commands_end_as_they_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A command that works has the status 0, one that refuses its input 1, and no command shows the help."""
    for words, status in (
        (["plan", "dlr-small", "--length", "64"], 0),
        (["plan", "none", "--length", "64"], 1),
        ([], 2),
    ):
        monkeypatch.setattr("sys.argv", ["modeling-dlr", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == status
    assert "train" in capsys.readouterr().out
