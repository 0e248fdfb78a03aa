"""Runs of `train` that are stopped or killed, or whose disk fills up, leave whole folders and go on."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetuning_runs import classes, refused, small, write

import modeling_dlr.finetuning.loop as training_loop
from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.finetuning import Report


@pytest.mark.slow
def test_a_folder_of_others_is_left_alone(tmp_path: Path):
    """An output folder with files of somebody is refused; one of an earlier run is replaced."""
    source, _ = classes(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    assert "diary.txt" in refused(source, tmp_path)
    (tmp_path / "out" / "diary.txt").unlink()
    small(source, tmp_path)
    small(source, tmp_path, seed=1)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["options"]["seed"] == 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("modeling_dlr.finetuning.workplace.shutil.disk_usage", lambda path: usage)
    assert "make room" in refused(classes(tmp_path)[0], tmp_path)


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What could not be written is not there as half a folder; the same call goes on from the last checkpoint."""
    source, _ = classes(tmp_path)

    def full(self: Report, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Report, "write", full)
        with pytest.raises(OSError, match="No space left"):
            small(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out-unfinished"]
    assert [path.name for path in (tmp_path / "out-unfinished").iterdir()] == ["checkpoints"]
    monkeypatch.setattr(training_loop.RunCallback, "on_step_begin", lambda *_, **__: pytest.fail("trained again"))
    assert small(source, tmp_path).training["steps"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from modeling_dlr.finetuning import Report, TrainOptions, train

moment, source, output = sys.argv[1:]
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "writing":
    Report.write = kill
else:  # when the earlier folder has left its place, and the new one is not there yet
    put = Path.replace
    Path.replace = lambda self, to: kill() if self.parent.name == "result" else put(self, to)
small = {"layers": 1, "hidden_size": 8, "state_size": 4, "epochs": 1.0, "evaluations": 2, "pictures": False}
train(source, TrainOptions(output=Path(output), **small))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["writing", "putting"])
def test_killed_while_writing(moment: str, tmp_path: Path):
    """The earlier folder is whole at every moment, or is again when the next run begins; that one goes on."""
    source, _ = classes(tmp_path)
    small(source, tmp_path, seed=1)
    command = [sys.executable, "-c", KILLED, moment, str(source), str(tmp_path / "out")]
    finished = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert (tmp_path / "out").exists() == (moment == "writing")
    with pytest.raises(ValueError, match="--label"):
        small(source, tmp_path, label="none")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["options"]["seed"] == 1
    small(source, tmp_path)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["options"]["seed"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out"]


def test_stopped_run_keeps_the_best_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C leaves a folder with scores; the same call goes on from the last step, not the best, to the end."""
    source, _ = classes(tmp_path)

    def press(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    falling = iter(np.linspace(1, 0, 50))
    monkeypatch.setattr(training_loop.Evaluation, "__call__", lambda *_: {"accuracy": float(next(falling))})
    monkeypatch.setattr(training_loop.RunCallback, "on_step_begin", press)
    report = small(source, tmp_path, epochs=4.0, patience=50, evaluations=6)
    assert report.stopped
    assert report.training["steps"] == 4 < report.training["planned_steps"]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    monkeypatch.setattr(training_loop.RunCallback, "on_step_begin", lambda *args, **kwargs: None)
    seen: list[str | None] = []
    whole = training_loop.Trainer.train
    monkeypatch.setattr(
        training_loop.Trainer,
        "train",
        lambda self, resume_from_checkpoint=None: (
            seen.append(resume_from_checkpoint),
            whole(self, resume_from_checkpoint=resume_from_checkpoint),
        ),
    )
    report = small(source, tmp_path, epochs=4.0, patience=50, evaluations=6)
    assert seen[0] is not None
    assert seen[0].endswith("checkpoint-4")
    assert not report.stopped
    assert report.training["steps"] == report.training["planned_steps"]
    assert not (tmp_path / "out-unfinished").exists()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of a tiny model of bytes."""
    config = DLRConfig(vocab_size=261, bidirectional=True, hidden_size=16, num_hidden_layers=1, state_size=4)
    DLRForMaskedLM(config).save_pretrained(tmp_path / "installed")
    return tmp_path / "installed"


class BrokenError(Exception):
    """Ends a run at a step, as a power cut would."""


def run(source: Path, folder: Path, patch: Any, model: Path | None, breaks: int | None = None, **options: Any) -> Any:
    """A run where a model is installed, or none; it breaks at a step, or gives the report."""
    steps: list[int] = []

    def step(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        if state.global_step == breaks:
            raise BrokenError

    with patch.context() as within:
        within.setattr("modeling_dlr.finetuning.models.installed_model", lambda: model)
        within.setattr(training_loop.RunCallback, "on_step_begin", step)
        given = {"layers": None, "hidden_size": None, "state_size": None, "batch_size": 8, "epochs": 2.0} | options
        report = small(source, folder, **given)
    return steps[0], report.training["hidden_size"]


def tagged(folder: Path) -> Path:
    """Texts in which every character has a label."""
    rows = [[f"number {i}", "a" * 7 + "b" * len(str(i))] for i in range(40)]
    return write(folder / "tagged.csv", ["text", "label"], rows)


def test_going_on_from_what_the_run_started_from(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model that was installed or removed after the run broke changes nothing."""
    source, fresh = tagged(tmp_path), 64
    for before, after, size in ((None, installed, fresh), (installed, None, 16)):
        with pytest.raises(BrokenError):
            run(source, tmp_path, monkeypatch, before, breaks=6)
        first, hidden = run(source, tmp_path, monkeypatch, after)
        assert first > 0
        assert hidden == size


def test_going_on_without_the_model(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where its weights are gone, one line says so, and the checkpoints stay; random weights begin anew."""
    source = tagged(tmp_path)
    with pytest.raises(BrokenError):
        run(source, tmp_path, monkeypatch, installed, breaks=6)
    (installed / "config.json").unlink()
    with pytest.raises(ValueError, match="installed, which holds no model any more: install it again, or remove"):
        run(source, tmp_path, monkeypatch, None)
    assert list((tmp_path / "out-unfinished").glob("checkpoints/*/checkpoint-*"))
    assert run(source, tmp_path, monkeypatch, None, from_scratch=True)[0] == 0


def test_going_on_beside_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Later checkpoints of a run with other options do not hide those of this one."""
    source = tagged(tmp_path)
    for seed, step in ((0, 4), (1, 6)):
        with pytest.raises(BrokenError):
            run(source, tmp_path, monkeypatch, None, breaks=step, seed=seed)
    assert run(source, tmp_path, monkeypatch, None, seed=0)[0] == 4
