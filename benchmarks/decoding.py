"""How long does a token take: plain complex stepping, our step, and block lookahead, in microseconds?

    python benchmarks/decoding.py --json
    python benchmarks/decoding.py --save          # also into benchmarks/results/decoding.json

The three take turns, 256 tokens each, in one process. A block's work falls on its last token, so the slowest token of a
block is reported beside the mean.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import torch
from measure import machine
from torch import Tensor

from modeling_dlr import DLRKernel
from modeling_dlr.decoding import BLOCK_LENGTH, lookahead_start, lookahead_step, lookahead_tables
from modeling_dlr.ops_dlr import State, step

RESULTS = Path(__file__).parent / "results" / "decoding.json"
SIZES = [(1, 128, 64), (1, 128, 256), (1, 128, 1024), (1, 128, 4096), (16, 128, 1024)]


def timed(decode: Callable[[Tensor, Any], tuple[Tensor, Any]], tokens: Tensor, state: Any) -> list[float]:
    """Seconds of every token."""
    seconds = []
    for u in tokens.unbind(0):
        started = time.perf_counter()
        _, state = decode(u, state)
        seconds.append(time.perf_counter() - started)
    return seconds


@torch.no_grad()
def measure(B: int, H: int, N: int, *, tokens: int = 256, rounds: int = 7) -> dict[str, Any]:
    """One line: microseconds per token of each way, the slowest token of a block, and the median paired ratios."""
    torch.manual_seed(0)
    spectrum, skip, u = DLRKernel(1, H, N).spectrum(1), torch.randn(1, H), torch.randn(tokens, B, H)
    poles = torch.polar(spectrum.decay.exp(), spectrum.angle).to(torch.complex64)
    weights = torch.complex(spectrum.weights_real[0], spectrum.weights_imag[0])
    tables = lookahead_tables(spectrum, BLOCK_LENGTH)
    zero = State(torch.zeros(B, H, N), torch.zeros(B, H, N))
    ways: dict[str, tuple[Callable[[Tensor, Any], tuple[Tensor, Any]], Any]] = {
        "naive": (lambda u, x: naive.step(x, poles, weights, skip[0], u), torch.zeros(B, H, N, dtype=torch.complex64)),
        "step": (lambda u, x: step(spectrum, skip, u, x), zero),
        "lookahead": (lambda u, x: lookahead_step(tables, skip, u, x), lookahead_start(tables, zero)),
    }
    runs: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, (decode, state) in ways.items():
            runs[way].append(timed(decode, u, state))
    means = {way: [statistics.mean(run) for run in seconds[1:]] for way, seconds in runs.items()}
    blocks = [max(run[i : i + BLOCK_LENGTH]) for run in runs["lookahead"][1:] for i in range(0, tokens, BLOCK_LENGTH)]
    ratios = {
        f"naive/{way}": statistics.median(a / b for a, b in zip(means["naive"], means[way], strict=True))
        for way in ("step", "lookahead")
    }
    return {
        "B": B,
        "H": H,
        "N": N,
        **{f"{way}_us": round(1e6 * statistics.median(values), 1) for way, values in means.items()},
        **{name: round(value, 2) for name, value in ratios.items()},
        "slowest_token_of_a_block_us": round(1e6 * statistics.median(blocks), 1),
        "block": BLOCK_LENGTH,
        **machine(),
    }


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line per size")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = []
    for size in SIZES:
        lines.append(measure(*size))
        print(json.dumps(lines[-1]) if options.json else lines[-1], flush=True)
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
