"""A command that is stopped ends cleanly, keeps what was trained, and goes on from it; other ends are one line."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling_dlr.cli.recipes import main
from modeling_dlr.finetuning import stopping
from modeling_dlr.finetuning.stopping import StopCallback, Stopped, command_line
from modeling_dlr.recipes import running as train


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def stops_at(step: int, number: int, times: int = 1) -> type[StopCallback]:
    """One that is sent the signal while a step is computed."""

    class Sent(StopCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
            self.send(state)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any):
            self.send(state)

        def send(self, state: Any) -> None:
            if state.global_step == step - 1:
                for _ in range(times):
                    signal.raise_signal(number)

    Sent.__name__ = StopCallback.__name__
    return Sent


def test_a_recipe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A recipe keeps its checkpoint in its folder, makes no model of half a training, and names the command."""
    said = ["--smoke", "--disable_tqdm", "True", "--dataloader_pin_memory", "False", "--max_steps", "4"]
    said += ["--save_steps", "4", "--eval_steps", "4", "--hub_token", "secret", "--output_dir"]
    recipe = "twin-atomic-dlr"
    main([recipe, *said, str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopCallback", stops_at(3, signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            main([recipe, *said, str(tmp_path / "out")])
    assert ended.value.code == 143
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-3"]
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"modeling-dlr recipes: stopped. To resume from checkpoint-3: modeling-dlr recipes run {recipe} --smoke"
    )
    assert line.endswith("--resume_from_checkpoint True")
    assert "secret" not in line
    main([recipe, *said, str(tmp_path / "out"), "--resume_from_checkpoint", "True"])
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "out")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0)


def test_an_evaluation_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Inside training, an evaluation is left at its next batch; earlier checkpoints stay."""

    class Sent(StopCallback):
        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any):
            if state.global_step == 2:
                signal.raise_signal(signal.SIGTERM)
            super().on_prediction_step(args, state, control, **kwargs)

    Sent.__name__ = StopCallback.__name__
    monkeypatch.setattr(train, "StopCallback", Sent)
    said = ["--smoke", "--disable_tqdm", "True", "--dataloader_pin_memory", "False", "--eval_steps", "1"]
    with pytest.raises(SystemExit):
        main(["twin-atomic-dlr", *said, "--save_steps", "1", "--output_dir", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]


def test_processes_that_load_data_end_as_ever():
    """A copy of the process does not ask training to stop: it ends."""
    with stopping.handled(lambda number: None):
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_one_of_several_processes_ends_as_ever(monkeypatch: pytest.MonkeyPatch):
    """It may wait for the others in an operation that only the default action of the signal ends."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stopping.handled(lambda number: None):
        assert signal.getsignal(signal.SIGTERM) == before


# What goes wrong, and the line.
ENDS: dict[str, tuple[BaseException, Any]] = {
    "value": (ValueError("two\n  lines"), "name.py: two lines"),
    "file": (PermissionError(13, "Permission denied", "a"), "name.py: [Errno 13] Permission denied: 'a'"),
    "nothing said": (MemoryError(), "name.py: there is not enough memory: use a smaller batch, .*"),
    "device": (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "name.py: there is not enough memory: .*"),
    "no device": (
        RuntimeError("Found no NVIDIA driver on your system.\n"),
        "name.py: Found no NVIDIA driver .*",
    ),
    "no kernel": (
        NotImplementedError("Could not run 'aten::x'\nwith MPS"),
        "name.py: Could not run 'aten::x' with MPS",
    ),
    "long": (ValueError("x" * 2000), f"name.py: {'x' * 1000}…"),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "signal": (Stopped(signal.SIGTERM), 143),
}


@pytest.mark.parametrize("end", ENDS)
def test_ends(end: str):
    error, code = ENDS[end]
    with pytest.raises(SystemExit) as ended, command_line("name.py"):
        raise error
    if isinstance(code, str) and ".*" in code:
        assert str(ended.value.code).startswith(code.removesuffix(".*"))
    else:
        assert ended.value.code == code


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(KeyError), command_line("name.py"):
        raise KeyError("a")


PLACES: dict[str, tuple[Callable[[Path], str], str]] = {
    "long": (lambda folder: str(folder / ("x" * 300)), "File name too long"),
    "NUL": (lambda folder: f"{folder}/a\0b", "embedded null byte"),
    "loop": (lambda folder: str(folder / "loop" / "out"), "Too many levels of symbolic links"),
    "loop itself": (lambda folder: str(folder / "loop"), "Too many levels of symbolic links"),
    "file": (lambda folder: str(folder / "file"), "it is a file"),
    "in a file": (lambda folder: str(folder / "file" / "out"), "Not a directory"),
}


@pytest.mark.parametrize("place", PLACES)
def test_odd_places(place: str, tmp_path: Path):
    """Refused before any work, in one short line."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    path, says = PLACES[place][0](tmp_path), PLACES[place][1]
    with pytest.raises(SystemExit) as ended:
        main(["twin-atomic-dlr", "--output_dir", path])
    line = str(ended.value.code)
    assert line.startswith("modeling-dlr recipes: --output_dir ")
    assert says in line
    assert len(line) < 400
    assert "\n" not in line
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "loop"]
