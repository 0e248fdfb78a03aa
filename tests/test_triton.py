"""The Triton programs agree with the definition, compile for devices, and are used only if they are asked for."""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from test_launches import build_layer
from tolerances import RELATIVE_ERRORS

from modeling_dlr import vandermonde_dlr

triton_kernels = pytest.importorskip("modeling_dlr.triton_kernels", reason="Triton is not installed")
WORKER = str(Path(__file__).with_name("triton_worker.py"))


def work(folder: Path, *arguments: str, interpret: bool) -> list:
    """What the worker prints."""
    env = os.environ | {
        "TRITON_INTERPRET": str(int(interpret)),
        "TRITON_CACHE_DIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, WORKER, *arguments]
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=400)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


FEW = ["1,1,1,1", "2,5,3,7", "1,1,65,100"]
MANY = ["3,1,3,1000", "1,5,65,1000", "2,70,65,300", "1,3,33,20000"]


@pytest.mark.parametrize("sizes", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_values_and_gradients(sizes: list[str], tmp_path: Path):
    """Triton's interpreter against plain loops in float64, for groups, rows, poles and steps that fill no tile."""
    for size, errors in zip(sizes, work(tmp_path, "values", *sizes, interpret=True), strict=True):
        assert {name: error for name, error in errors.items() if not error <= RELATIVE_ERRORS[torch.float32]} == {}, (
            size
        )


@pytest.mark.slow
def test_programs_compile(tmp_path: Path):
    """For devices of NVIDIA and AMD that are not here; factors are never rounded to TF32."""
    texts = work(tmp_path, "compile", interpret=False)
    assert len(texts) == 8
    assert not [text for text in texts if "tf32" in text or "fma" not in text]


def test_phases_are_exact():
    """Integer phases are off by less than 1e-9 radians after a million steps; those of float32 by 0.1."""
    full = 2 * Fraction("3.14159265358979323846264338327950288419716939937510")
    angles, steps = [*(6.3 * torch.rand(50, dtype=torch.float64)).tolist(), 0.0, math.pi, -math.pi, 300.0], 2**20 - 1
    phases = triton_kernels.turns(torch.tensor(angles, dtype=torch.float64)) * steps
    for angle, phase in zip(angles, phases.tolist(), strict=True):
        off = Fraction(phase, 2**64) - Fraction(angle) * steps / full
        assert abs(off - round(off)) * full < 1e-9 * max(1.0, angle)
    assert max(abs(float(torch.tensor(angle) * torch.tensor(float(steps))) - angle * steps) for angle in angles) > 0.1


def test_it_is_used_only_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """In the context, for kernels in float32 of that type of device, until the context ends."""
    u, calls = torch.empty(1, 50, 128, device="meta", requires_grad=True), []
    layer = build_layer(state_size=4)

    def product(*arguments: object) -> torch.Tensor:
        calls.append("product")
        return torch.empty(1, 128, 50, device="meta")

    def moments(*arguments: object) -> torch.Tensor:
        calls.append("moments")
        return torch.empty(2, 2, 1, 128, 4, device="meta")

    monkeypatch.setattr(triton_kernels, "product", product)
    monkeypatch.setattr(triton_kernels, "moments", moments)
    with triton_kernels.use_triton("meta"):
        layer(u).sum().backward()
        assert calls == ["product", "moments"]
        layer.double()(u.double()).sum().backward()
    layer.float()(u).sum().backward()
    assert calls == ["product", "moments"]


def fail() -> None:
    with triton_kernels.use_triton():
        raise InterruptedError


def test_an_error_ends_its_use():
    """Nothing is left of a context that ends by an exception."""
    usual = vandermonde_dlr._product, vandermonde_dlr._moments
    with pytest.raises(InterruptedError):
        fail()
    assert (vandermonde_dlr._product, vandermonde_dlr._moments) == usual
