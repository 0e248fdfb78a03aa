"""Sequences of which each process has a part: losses and gradients are those of one process; all raise alike."""

import json
import re

import pytest
from context_worker import CASES, DROPPED, REFUSALS
from processes import run_in_processes

TOLERANCE = 1e-12  # float64; the order of sums differs


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    """What the processes of a single launch wrote."""
    folder = tmp_path_factory.mktemp(f"{request.param} processes")
    run_in_processes("context_worker.py", folder, request.param)
    return [json.loads((folder / f"rank {rank}.json").read_text(encoding="utf-8")) for rank in range(request.param)]


@pytest.mark.parametrize("name", [*CASES, DROPPED])
def test_like_one_process(name: str, found: list[dict[str, dict]]):
    """The loss, every gradient and every running statistic, on every process."""
    for rank in found:
        assert {quantity: error for quantity, error in rank["errors"][name].items() if error > TOLERANCE} == {}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_alike(name: str, found: list[dict[str, dict]]):
    """Every process raises, and says the same."""
    first, *others = [rank["messages"][name] for rank in found]
    assert re.search(REFUSALS[name][1], first)
    assert set(others) <= {first}
