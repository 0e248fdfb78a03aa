"""Measure the speed of the DLR kernel alone, against the plain formulation and this machine's matrix product.

    python benchmarks/kernel.py --json            # every row; each is printed when it is done
    python benchmarks/kernel.py --save            # also save to benchmarks/results/kernel.json; resumes if stopped

The kernel is a matrix product of 4 H N L floating-point operations, and 8 H N L more in the backward pass. Its rate and
its share of the rate of a 2048 × 2048 product, are from the fastest round; times and ratios are medians.
"""

from typing import Any, NamedTuple

import naive
import torch
from measure import (
    BOTH,
    MODES,
    RESULTS,
    matmul_rate,
    milliseconds,
    paired_ratio,
    run_benchmark,
    seconds_of_pass,
    take_turns,
)

from modeling_dlr import DLRKernel


class Row(NamedTuple):
    """H kernels of L steps from N shared poles, forward or forward and backward."""

    H: int
    N: int
    L: int
    mode: str


SIZES = [(64, 1024), (1024, 4096), (4096, 4096), (1024, 16384), (1024, 65536)]
ROWS = [Row(128, N, L, mode) for N, L in SIZES for mode in MODES]


def measure(row: Row) -> dict[str, Any]:
    """Measure milliseconds of both, their ratio, and the rate of ours."""
    torch.manual_seed(0)
    H, N, L, mode = row
    kernel = DLRKernel(num_channels=1, hidden_size=H, state_size=N)
    with torch.no_grad():
        modes = kernel.modes(L)
        weights = torch.stack([modes.weights_real[0], modes.weights_imag[0]], dim=-1)
    decay, angle = (part.float().requires_grad_() for part in (modes.decay, modes.angle))
    plain = [decay, angle, weights.requires_grad_()]
    seconds = take_turns(
        {
            "naive": lambda: seconds_of_pass(lambda: naive.dlr_kernel(decay, angle, weights, L), plain, mode),
            "ours": lambda: seconds_of_pass(lambda: kernel(L), kernel.parameters(), mode),
        }
    )
    matmul, rate = matmul_rate(), (12 if mode == BOTH else 4) * H * N * L / min(seconds["ours"])
    return {
        "naive_ms": milliseconds(seconds["naive"]),
        "ours_ms": milliseconds(seconds["ours"]),
        "ratio": paired_ratio(seconds["naive"], seconds["ours"]),
        "rounds": len(seconds["ours"]),
        "gflops": round(rate / 1e9, 1),
        "matmul_gflops": round(matmul / 1e9, 1),
        "fraction_of_matmul": round(rate / matmul, 3),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "kernel.json", ROWS, measure)
