"""DeepSpeed's ZeRO trains to the weights of one process; it is no dependency, so the test may be skipped."""

from pathlib import Path

import pytest
from deepspeed_worker import STAGES, train
from processes import run_in_processes
from safetensors.torch import load_file
from tiny import assert_same_tensors

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5  # float32, after five steps


def test_like_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stages 2 and 3, on CPUs."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    run_in_processes("deepspeed_worker.py", tmp_path, 2)
    alone = dict(train(tmp_path, 1).model.state_dict())
    for stage in STAGES:
        assert_same_tensors(load_file(tmp_path / str(stage) / "model.safetensors"), alone, tolerance=TOLERANCE)
