"""Runs of two processes that are killed go on, to the same end; a process that fails ends the others with its error."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from surviving_worker import ENDED, KILLS, STEPS
from transformers.trainer_pt_utils import safe_globals

pytestmark = pytest.mark.slow
INTERRUPTED = [f"{what}, {which} killed" for what in ("trainer", "recipe") for which in ("one", "all")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all trainings wrote."""
    folder = tmp_path_factory.mktemp("runs")
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("surviving_worker.py")), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


def last_checkpoint(out: Path) -> dict[str, Any]:
    """All that its files hold, but times."""
    checkpoint = out / f"checkpoint-{STEPS}"
    with safe_globals():
        states = {path.name: torch.load(path, weights_only=True) for path in sorted(checkpoint.glob("*.pt*"))}
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    logs = [{key: value for key, value in row.items() if "_per_second" not in key} for row in state["log_history"]]
    for row in logs:
        row.pop("eval_runtime", None)
    return states | {"weights": (checkpoint / "model.safetensors").read_bytes(), "logs": logs}


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return bool((one == other).all())
    return one == other


@pytest.mark.parametrize("name", INTERRUPTED)
def test_same_end(name: str, folder: Path):
    """Weights, optimizer, schedule, losses and random states are those of a run that nothing interrupted."""
    whole = last_checkpoint(folder / name.split(",", maxsplit=1)[0] / "out")
    assert len([key for key in whole if key.startswith("rng_state")]) == 2
    found = last_checkpoint(folder / name / "out")
    assert found.keys() == whole.keys()
    assert {key for key in whole if not same(found[key], whole[key])} == set()


@pytest.mark.parametrize("name", INTERRUPTED)
def test_goes_on_by_itself(name: str, folder: Path):
    """The agent starts killed processes again, and the same command the killed run; nothing is deleted by hand."""
    assert len(list((folder / name).glob("killed *"))) == KILLS
    ends = json.loads((folder / name / "ends.json").read_text(encoding="utf-8"))["ends"]
    assert ends == ([0] if "one" in name else [-9] * KILLS + [0])


@pytest.mark.parametrize("name", ENDED)
def test_cause(name: str, folder: Path):
    """Within 30 seconds all processes end, and none with a lost connection."""
    place = folder / name
    killed = float((place / "killed 0").read_text(encoding="utf-8"))
    told = json.loads((place / "ends.json").read_text(encoding="utf-8"))
    assert told["ends"] == [1]
    assert told["at"] - killed < 30
    said = {path.name: path.read_text(encoding="utf-8") for path in place.glob("said *")}
    assert not any("peer" in text for text in said.values())
    if "killed" not in name:
        failed = int("second" in name)
        assert said[f"said {failed}"] == "The row is broken."
