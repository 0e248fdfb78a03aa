"""Two and four processes: losses, gradients and weights are those of one, and what is wrong is refused by all alike."""

import json
import re
from pathlib import Path

import context_worker
import distributed_worker
import pytest
import shards_worker
import torch
from accelerate.utils import merge_fsdp_weights
from processes import run_in_processes
from safetensors.torch import load_file
from tiny import assert_same_tensors

from modeling_dlr import DLRForCausalLM

TOLERANCE = 1e-12  # float64; the order of sums differs
AFTER_STEPS = 1e-8  # likewise, after steps of Adam, which divides by small numbers
HALF_TOLERANCE = {"loss": 2e-5, "kernel": 0.0, "gradient": 0.02}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of a single launch wrote."""
    folder = tmp_path_factory.mktemp(f"{request.param} processes")
    run_in_processes("processes_worker.py", folder, request.param)
    return folder


def found(folder: Path, worker: str) -> list[dict]:
    """What each process wrote."""
    ranks = sorted(folder.glob(f"{worker} ?.json"))
    assert len(ranks) in (2, 4)
    return [json.loads(path.read_text(encoding="utf-8")) for path in ranks]


@pytest.mark.parametrize("name", [*context_worker.CASES, context_worker.DROPPED])
def test_split_sequences(name: str, folder: Path):
    """The loss, every gradient and every running statistic, on every process."""
    for rank in found(folder, "context"):
        assert {quantity: error for quantity, error in rank["errors"][name].items() if error > TOLERANCE} == {}


@pytest.mark.parametrize("name", [*shards_worker.CASES, *shards_worker.ON_TWO_AXES, shards_worker.LOADED])
def test_shards(name: str, folder: Path):
    """Losses, gradients, clipped steps and statistics, on every process."""
    for rank in found(folder, "shards"):
        assert {quantity: error for quantity, error in rank["errors"][name].items() if error > TOLERANCE} == {}


def test_kernels_are_not_rounded(folder: Path):
    """With parameters in bfloat16 the kernels are those of float32, and their gradients are of all processes."""
    for rank in found(folder, "shards"):
        assert {name: error for name, error in rank["bfloat16"].items() if error > HALF_TOLERANCE[name]} == {}


@pytest.mark.parametrize(("saved", "weights"), [("gathered", "whole"), ("merged", "whole"), ("loaded", "first/model")])
def test_saved_shards(saved: str, weights: str, folder: Path):
    """Shards that were gathered, or saved and merged, are the weights to the bit."""
    if saved == "merged":
        merge_fsdp_weights(str(folder / "shards"), str(folder / "merged"))
    whole = load_file(folder / f"{weights}.safetensors")
    model = DLRForCausalLM.from_pretrained(folder / saved, dtype="auto")
    state = model.state_dict()
    assert state.keys() >= whole.keys()
    assert all(torch.equal(state[name], value) for name, value in whole.items())


@pytest.mark.parametrize("name", distributed_worker.TRAININGS)
def test_training(name: str, folder: Path, tmp_path: Path):
    """Processes that share batches end with the same weights, and with those of one on whole batches."""
    training = distributed_worker.TRAININGS[name]
    alone = dict(training.train(training, tmp_path, 1).state_dict())
    for path in folder.glob(f"{name}, rank *.safetensors"):
        assert_same_tensors(load_file(path), alone, tolerance=AFTER_STEPS)


REFUSALS = [
    *(("context", name, words) for name, (_, words) in context_worker.REFUSALS.items()),
    *(("shards", name, words) for name, (_, words) in shards_worker.REFUSALS.items()),
    *(("trainer", name, words) for name, (_, words) in distributed_worker.REFUSALS.items()),
]


@pytest.mark.parametrize(("worker", "name", "words"), REFUSALS, ids=[f"{each[0]}, {each[1]}" for each in REFUSALS])
def test_refused_alike(worker: str, name: str, words: str, folder: Path):
    """Every process raises, and says the same."""
    ranks = found(folder, worker)
    first, *others = [rank.get("messages", rank)[name] for rank in ranks]
    assert re.search(words, first)
    assert set(others) <= {first}
