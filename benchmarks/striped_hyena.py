"""Measure a block of Evo-1 at its full size, with random weights: memory and time of one forward pass.

    python benchmarks/striped_hyena.py --json     # every row; each is printed when it is done
    python benchmarks/striped_hyena.py --save     # also save to benchmarks/results/striped_hyena.json

A block has 4,096 channels with 8 poles each; the filter alone has 512 channels. Each row runs in a new process, which
runs a short pass first, and then passes without a gradient: five, or one if that takes over a minute. Memory is the
growth of the process at its peak in the first, beyond weights and input; time is that of the fastest. The plain
formulation computes all steps at once, and keeps P^t as [H, N, L] complex64. Where that does not fit, it is not run,
and its memory is computed: that of the arrays P^t and R P^t.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import RESULTS, run_benchmark
from memory import peak_during
from torch import Tensor
from torch.nn.functional import conv1d

from modeling_dlr import StripedHyenaConfig, StripedHyenaModel
from modeling_dlr.ops_dlr import Modes, evaluate_kernel

BLOCK_CHANNELS, FILTER_CHANNELS, POLES = 4096, 512, 8
# The longest sequence that a plain block is run on: its powers have 2 GB.
LONGEST_PLAIN = 8192


class Row(NamedTuple):
    """What is measured, the type of the weights, and the length of the sequence."""

    what: str
    dtype: str
    L: int


ROWS = [
    Row("filter", "float32", 8192),
    *(Row("block", dtype, L) for L in (1024, 8192, 131072) for dtype in ("bfloat16", "float32")),
]


def build_model(dtype: str, channels: int = BLOCK_CHANNELS) -> StripedHyenaModel:
    """Build a model with a single convolution block of Evo-1; ``channels`` is its hidden size."""
    config = StripedHyenaConfig(
        vocab_size=8, hidden_size=channels, num_layers=1, num_attention_heads=32, inner_size_multiple_of=16,
        state_size=POLES, mlp_activation="gelu",
    )  # fmt: skip
    return StripedHyenaModel(config).to(getattr(torch, dtype)).eval()


def random_poles(channels: int) -> tuple[Tensor, Tensor]:
    """Poles close to the unit circle, and residues: complex64, [channels, POLES]."""
    poles = torch.polar(1 - 0.01 * torch.rand(channels, POLES), 6.3 * torch.rand(channels, POLES))
    return poles, torch.randn(channels, POLES, dtype=torch.complex64)


def plain_filter(poles: Tensor, residues: Tensor, length: int) -> Tensor:
    """Compute the filters [H, L] as published: with all powers at once."""
    powers = (poles.log().unsqueeze(-1) * torch.arange(length)).exp()
    return (residues.unsqueeze(-1) * powers).real.sum(1)


def plain_block(block: Any, x: Tensor) -> Tensor:
    """Compute a convolution block on x [B, L, H] as published, all steps and channels at once."""
    L, own = x.shape[1], block.filter
    p = block.projections(block.pre_norm(x)).mT
    short, bias = own.short_filter_weight, own.short_filter_bias
    q = conv1d(p, short, bias, padding=short.shape[2] - 1, groups=len(short))[..., :L]
    gate, x1, v = (part.flatten(1, 2) for part in q.unflatten(1, (block.heads, 3, -1)).unbind(2))
    u = x1 * v
    poles, residues = (torch.view_as_complex(values.squeeze(2)) for values in (own.poles, own.residues))
    transformed = torch.fft.rfft(plain_filter(poles, residues, L), n=2 * L)
    y = torch.fft.irfft(torch.fft.rfft(u.float(), n=2 * L) * transformed, n=2 * L)[..., :L]
    gated = (y.to(u.dtype) + own.D.unsqueeze(1) * u) * gate
    mixed = x + block.out_filter_dense(gated.mT)
    return mixed + block.mlp(block.post_norm(mixed))


def our_filter(poles: Tensor, residues: Tensor, length: int) -> Tensor:
    """Compute the filters [H, L] by products of two small tables of powers, for 64 channels at a time as in a block."""
    filters = torch.empty(len(poles), length)
    for few, P, R in zip(filters.split(64), poles.split(64), residues.split(64), strict=True):
        log = P.to(torch.complex128).log()
        few.copy_(evaluate_kernel(Modes(log.real, log.imag, R.real[None], R.imag[None]), length)[0])
    return filters


def runs_of(way: str, row: Row) -> Callable[[int], object]:
    """What is measured, as a function of the length of the sequence; input and weights are made here."""
    if row.what == "filter":
        arguments = random_poles(FILTER_CHANNELS)
        function = our_filter if way == "ours" else plain_filter
        return lambda length: function(*arguments, length)
    block = build_model(row.dtype).blocks[0]
    x = torch.randn(1, row.L, BLOCK_CHANNELS, dtype=getattr(torch, row.dtype))
    return lambda length: block(x[:, :length]) if way == "ours" else plain_block(block, x[:, :length])


def child(way: str, what: str, dtype: str, L: str, threads: str) -> None:
    """Print the peak megabytes of a pass, and the seconds of the fastest."""
    torch.set_num_threads(int(threads))
    row, seconds = Row(what, dtype, int(L)), []
    run = runs_of(way, row)

    def timed() -> None:
        began = time.perf_counter()
        run(row.L)
        seconds.append(time.perf_counter() - began)

    with torch.inference_mode():
        run(64)
        peak = peak_during(timed)
        while len(seconds) < 5 and seconds[0] < 60:
            timed()
        print(peak, min(seconds))


def in_new_process(way: str, row: Row) -> tuple[float, float]:
    """Measure the peak megabytes and the seconds of a pass, "ours" or "plain"."""
    command = [sys.executable, __file__, way, *map(str, row), str(torch.get_num_threads())]
    peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return float(peak), float(seconds)


def measure(row: Row) -> dict[str, Any]:
    """Measure a row: our memory and time, and those of the plain formulation where it fits."""
    peak, seconds = in_new_process("ours", row)
    found = {"peak_mb": round(peak, 1), "seconds": round(seconds, 3)}
    if row.L > LONGEST_PLAIN:
        return found | {"plain_mb": 2 * BLOCK_CHANNELS * POLES * row.L * 8 / 2**20}
    plain_peak, plain_seconds = in_new_process("plain", row)
    return found | {"plain_mb": round(plain_peak, 1), "plain_seconds": round(plain_seconds, 3)}


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["plain"]):
        child(*sys.argv[1:])
    else:
        run_benchmark(__doc__, RESULTS / "striped_hyena.json", ROWS, measure)
