"""Which checkpoint is gone on from: everything that the Trainer writes is looked at, and nothing in it is run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from modeling_dlr.finetuning import train
from modeling_dlr.resuming import newest_whole, problem_of
from modeling_dlr.training import newest_checkpoint


def write_checkpoint(folder: Path, processes: int = 1) -> Path:
    """The files of the Trainer's, with little in them."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(63.0)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "dlr"}', encoding="utf-8")
    (folder / "trainer_state.json").write_text('{"global_step": 2}', encoding="utf-8")
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    for name in ["optimizer.pt", "scheduler.pt", *states]:
        torch.save({"state": torch.arange(100)}, folder / name)
    return folder


def cut(path: Path) -> None:
    """What a process that is killed leaves of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100).numpy().tobytes()) + 8] ^= 1
    path.write_bytes(content)


FILES = ["model.safetensors", "config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
DAMAGES: dict[str, Callable[[Path], Any]] = {"empty": lambda path: path.write_bytes(b""), "cut": cut}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_broken_files(name: str, damage: str, tmp_path: Path):
    """A checkpoint with a file that is empty or cut is not whole; that of before is taken."""
    write_checkpoint(tmp_path / "checkpoint-9")
    broken = write_checkpoint(tmp_path / "checkpoint-10")
    assert newest_whole(tmp_path) == (broken, {})
    DAMAGES[damage](broken / name)
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-9", {broken: f"{name} is damaged"})


def test_changed_bytes(tmp_path: Path):
    flip(write_checkpoint(tmp_path / "checkpoint-1") / "optimizer.pt")
    assert problem_of(tmp_path / "checkpoint-1") == "optimizer.pt is damaged"


@pytest.mark.parametrize("name", [name for name in FILES if name != "config.json"])
def test_missing_files(name: str, tmp_path: Path):
    """Nothing that training goes on with may be missing; of a model alone, only what there is of it."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint-1")
    (checkpoint / name).unlink()
    assert (problem_of(checkpoint) or "").startswith(f"{name} is missing")
    whole = problem_of(checkpoint, only_model=True) is None
    assert whole == (name in {"optimizer.pt", "scheduler.pt", "rng_state.pth"})


def test_random_states_of_several_processes(tmp_path: Path):
    """All of them are needed by as many processes; one process goes on from those that are there."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint-1", processes=2)
    assert [problem_of(checkpoint, processes) for processes in (1, 2)] == [None, None]
    assert re.match(r"rng_state_2.pth is missing, .* fewer processes", problem_of(checkpoint, 3) or "")
    cut(checkpoint / "rng_state_1.pth")
    assert [problem_of(checkpoint, processes) for processes in (1, 2)] == ["rng_state_1.pth is damaged"] * 2
    (checkpoint / "rng_state_1.pth").unlink()
    assert re.match(r"rng_state_1.pth is missing, .* fewer processes", problem_of(checkpoint, 2) or "")
    assert problem_of(write_checkpoint(tmp_path / "of-one"), processes=2) is None


def test_sharded_weights(tmp_path: Path):
    """Every file that the index names is looked at."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint-1")
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    places = {"weight": "model-00001-of-00002.safetensors", "bias": "model-00002-of-00002.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert problem_of(checkpoint) == "model-00002-of-00002.safetensors is missing"
    save_file({"bias": torch.zeros(1)}, checkpoint / "model-00002-of-00002.safetensors")
    assert problem_of(checkpoint) is None


def test_unfinished_checkpoint_of_the_trainer(tmp_path: Path):
    """The Trainer's own mark of one that it writes on a signal."""
    (write_checkpoint(tmp_path / "checkpoint-1") / "checkpoint-is-incomplete.txt").touch()
    assert "did not finish" in (problem_of(tmp_path / "checkpoint-1") or "")


def test_folders_without_checkpoints(tmp_path: Path):
    (tmp_path / "checkpoint-x").mkdir()
    assert newest_whole(tmp_path) == newest_whole(tmp_path / "nothing") == (None, {})


def test_later_steps_are_left_out(tmp_path: Path):
    """What other processes do not see whole is not looked at again."""
    first, *_ = (write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (8, 9, 10))
    assert newest_whole(tmp_path, last=8) == (first, {})


def test_stock_trainer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A run begins where there is nothing, and otherwise goes on from what is whole, and says what is not."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert newest_checkpoint(args) is None
    whole = write_checkpoint(tmp_path / "checkpoint-9")
    cut(write_checkpoint(tmp_path / "checkpoint-10") / "optimizer.pt")
    with caplog.at_level("WARNING", logger="modeling_dlr.training"):
        assert newest_checkpoint(args) == str(whole)
    assert "checkpoint-10 is incomplete, optimizer.pt is damaged" in caplog.text


def test_processes_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Several processes that would train by themselves into one folder are refused."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched.*use_cpu"):
        newest_checkpoint(args)
    with pytest.raises(ValueError, match="in one process, but 2 were launched"):
        train(tmp_path / "table.csv")
