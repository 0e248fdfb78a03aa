"""Measure the time and memory of one layer, against the plain formulation and the machine's limit.

    python benchmarks/layer.py --json                     # every row; each is printed when it is done
    python benchmarks/layer.py --rows 0 1 --json          # some rows
    python benchmarks/layer.py --save                     # also save to benchmarks/results/layer.json, row by row

A layer consists of kernel, convolution, D skip, GELU and output projection. Both layers take turns in one process; the
ratio is the median of the paired ratios. memory.py measures the peak memory of each in a separate process.
"""

import math
from typing import Any, NamedTuple

import memory
import naive
import torch
from measure import (
    BOTH,
    FORWARD,
    MODES,
    RESULTS,
    best_rate,
    build_mixer,
    matmul_rate,
    milliseconds,
    paired_ratio,
    run_benchmark,
    seconds_of_pass,
    take_turns,
)
from torch import Tensor

from modeling_dlr.launch import keep_memory


class Row(NamedTuple):
    """One size of layer, forward or forward and backward."""

    kind: str
    B: int
    H: int
    N: int
    L: int
    mode: str


SIZES = [
    ("dlr", 16, 128, 1024, 4096),
    ("dlr", 4, 128, 4096, 4096),
    ("dlr", 4, 128, 1024, 16384),
    ("dlr", 1, 128, 1024, 65536),
    ("dlr", 1, 64, 2048, 262144),
    ("dss", 8, 256, 64, 16384),
]
ROWS = [Row(*size, mode) for size in SIZES for mode in MODES]
WAYS = ("naive", "ours")

# Initialisation of the kernels, as in the official DLR repository.
KERNELS: dict[str, dict[str, Any]] = {
    "dlr": {},
    "dss": {"kernel_type": "dss", "pole_init": "lin", "time_step_min": 1e-4, "time_step_max": 1e-2},
}


class Layers:
    """Our mixer and the plain layer with the same parameters, each with the input in its own layout."""

    def __init__(self, row: Row):
        torch.manual_seed(0)
        self.row, self.mixer = row, build_mixer(row.H, row.N, **KERNELS[row.kind])
        with torch.no_grad():
            modes = self.mixer.kernel.modes(row.L)
        weights = torch.stack([modes.weights_real[0], modes.weights_imag[0]], dim=-1)
        plain = [modes.decay, modes.angle, weights, self.mixer.D[0], *self.mixer.out_proj.parameters()]
        self.plain = [part.detach().float().clone().requires_grad_() for part in plain]
        self.u = torch.randn(row.B, row.L, row.H)
        self.plain_u = self.u.mT.contiguous()
        for u in (self.u, self.plain_u):
            u.requires_grad_(row.mode == BOTH)

    def ours(self) -> Tensor:
        """Run our mixer: [B, L, H]."""
        return self.mixer(self.u)

    def naive(self) -> Tensor:
        """Run the plain layer: [B, H, L]."""
        decay, angle, weights, *rest = self.plain
        kernel = {"dlr": naive.dlr_kernel, "dss": naive.dss_kernel}[self.row.kind]
        return naive.layer(self.plain_u, kernel(decay, angle, weights, self.row.L), *rest)

    def seconds(self, way: str) -> float:
        """Measure the seconds of one pass of "ours" or "naive"."""
        run, u = {"ours": (self.ours, self.u), "naive": (self.naive, self.plain_u)}[way]
        parameters = list(self.mixer.parameters()) if way == "ours" else self.plain
        return seconds_of_pass(run, [*parameters, u], self.row.mode)


def limit_seconds(row: Row) -> float:
    """Estimate the seconds of the layer's matrix products and FFTs alone, at the best rates measured now."""
    n = 2 * row.L
    x = torch.randn(max(1, 2**22 // n), n)
    X = torch.fft.rfft(x)
    flops = 2.5 * n * math.log2(n)
    forward = flops / best_rate(len(x) * flops, lambda: torch.fft.rfft(x))
    inverse = flops / best_rate(len(x) * flops, lambda: torch.fft.irfft(X, n=n))
    _, B, H, N, L, mode = row
    products = (1 if mode == FORWARD else 3) * (4 * H * N * L + 2 * B * L * H * H) / matmul_rate()
    transforms = {FORWARD: ((B + 1) * H, B * H), BOTH: (3 * B * H + 2 * H, 2 * B * H + H)}[mode]
    return products + transforms[0] * forward + transforms[1] * inverse


def measure(row: Row) -> dict[str, Any]:
    """Measure milliseconds and megabytes of both, their ratio, and our fraction of the limit."""
    layers = Layers(row)
    seconds = take_turns({way: lambda way=way: layers.seconds(way) for way in WAYS})
    return {
        "naive_ms": milliseconds(seconds["naive"]),
        "ours_ms": milliseconds(seconds["ours"]),
        "ratio": paired_ratio(seconds["naive"], seconds["ours"]),
        "rounds": len(seconds["ours"]),
        "naive_peak_mb": round(memory.peak_megabytes(row, "naive")),
        "ours_peak_mb": round(memory.peak_megabytes(row, "ours")),
        "fraction_of_limit": round(limit_seconds(row) / min(seconds["ours"]), 2),
    }


if __name__ == "__main__":
    keep_memory()
    run_benchmark(__doc__, RESULTS / "layer.json", ROWS, measure)
