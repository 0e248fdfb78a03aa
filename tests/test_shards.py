"""Parameters in shards: losses, gradients and saved weights are those of one process."""

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.utils import merge_fsdp_weights
from processes import run_in_processes
from safetensors.torch import load_file
from shards_worker import CASES, ON_TWO_AXES, REFUSALS

from modeling_dlr import DLRForCausalLM

TOLERANCE = 1e-12  # float64; the order of sums differs
HALF_TOLERANCE = {"loss": 2e-5, "kernel": 0.0, "gradient": 0.02}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of a single launch wrote."""
    folder = tmp_path_factory.mktemp(f"{request.param} processes")
    run_in_processes("shards_worker.py", folder, request.param)
    return folder


def found(folder: Path, key: str) -> list[dict]:
    """What each process wrote."""
    ranks = sorted(folder.glob("rank *.json"))
    assert len(ranks) in (2, 4)
    return [json.loads(path.read_text(encoding="utf-8"))[key] for path in ranks]


@pytest.mark.parametrize("name", [*CASES, *ON_TWO_AXES])
def test_like_one_process(name: str, folder: Path):
    """Losses, gradients, clipped steps and statistics, on every process."""
    for errors in found(folder, "errors"):
        assert {quantity: error for quantity, error in errors[name].items() if error > TOLERANCE} == {}


def test_kernels_are_not_rounded(folder: Path):
    """With parameters in bfloat16 the kernels are those of float32, and their gradients are of all processes."""
    for errors in found(folder, "bfloat16"):
        assert {name: error for name, error in errors.items() if error > HALF_TOLERANCE[name]} == {}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_alike(name: str, folder: Path):
    """Every process raises, and says the same."""
    for messages in found(folder, "messages"):
        assert re.search(REFUSALS[name][1], messages[name])


def test_merged(folder: Path):
    """Shards that were saved and merged are the trained weights, to the bit."""
    merge_fsdp_weights(str(folder / "shards"), str(folder / "merged"))
    model = DLRForCausalLM.from_pretrained(folder / "merged")
    whole = load_file(folder / "whole.safetensors")
    assert model.state_dict().keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
