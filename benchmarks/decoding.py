"""Measure the time per token, in microseconds, of plain complex stepping, our step, and block lookahead.

    python benchmarks/decoding.py --json          # every row; each is printed when it is done
    python benchmarks/decoding.py --save          # also save to benchmarks/results/decoding.json; resumes if stopped

The three take turns in one process, with 256 tokens each. The first token of a block does the work of the whole block,
so the time of the slowest token is reported next to the mean.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import naive
import torch
from measure import RESULTS, paired_ratio, run_benchmark
from torch import Tensor

from modeling_dlr import DLRKernel
from modeling_dlr.cache_dlr import Block, begin_block, lookahead_tables, next_output, state_after
from modeling_dlr.ops_dlr import State, powers_of, step

_TOKENS = 256
_ROUNDS = 7


class Row(NamedTuple):
    """B sequences, H channels, N poles, and the number of tokens in a block."""

    B: int
    H: int
    N: int
    block: int


SIZES = [(1, 128, 64), (1, 128, 256), (1, 128, 1024), (1, 128, 4096), (16, 128, 1024)]
ROWS = [Row(*size, 128) for size in SIZES] + [Row(1, 128, 4096, 32)]


def timed(advance: Callable[[Tensor, Any], tuple[Tensor, Any]], tokens: Tensor, state: Any) -> list[float]:
    """Measure the seconds of every token."""
    seconds = []
    for u in tokens.unbind(0):
        started = time.perf_counter()
        _, state = advance(u, state)
        seconds.append(time.perf_counter() - started)
    return seconds


@torch.no_grad()
def measure(row: Row) -> dict[str, Any]:
    """Measure microseconds per token of each method, the slowest token of a block, and the median paired ratios."""
    torch.manual_seed(0)
    B, H, N, block = row
    modes, skip, u = DLRKernel(1, H, N).modes(1), torch.randn(1, H), torch.randn(_TOKENS, B, H)
    poles = torch.polar(modes.decay.exp(), modes.angle).to(torch.complex64)
    weights = torch.complex(modes.weights_real[0], modes.weights_imag[0])
    tables, factors = lookahead_tables(modes, skip, block), powers_of(modes, 1)
    zero = State(torch.zeros(B, H, N), torch.zeros(B, H, N))

    def look_ahead(u: Tensor, x: tuple[Block, State]) -> tuple[Tensor, tuple[Block, State]]:
        block, start = x
        if not block.is_open:
            start = state_after(block, start)
            block = begin_block(tables, start)
        return next_output(block, u), (block, start)

    ways: dict[str, tuple[Callable[[Tensor, Any], tuple[Tensor, Any]], Any]] = {
        "naive": (lambda u, x: naive.step(x, poles, weights, skip[0], u), torch.zeros(B, H, N, dtype=torch.complex64)),
        "step": (lambda u, x: step(modes, skip, u, x, factors), zero),
        "lookahead": (look_ahead, None),
    }
    runs: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(_ROUNDS + 1):
        for way, (advance, state) in ways.items():
            runs[way].append(timed(advance, u, (begin_block(tables, zero), zero) if way == "lookahead" else state))
    means = {way: [statistics.mean(run) for run in seconds[1:]] for way, seconds in runs.items()}
    slowest = [max(run[i : i + block]) for run in runs["lookahead"][1:] for i in range(0, _TOKENS, block)]
    return {
        **{f"{way}_us": round(1e6 * statistics.median(values), 1) for way, values in means.items()},
        **{f"naive/{way}": paired_ratio(means["naive"], means[way]) for way in ("step", "lookahead")},
        "slowest_token_of_a_block_us": round(1e6 * statistics.median(slowest), 1),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "decoding.json", ROWS, measure)
