"""Measure how time and memory grow with the length of a sequence, from 1,024 to 1,048,576 bytes.

    python benchmarks/growth.py --json            # every row; each is printed when it is done
    python benchmarks/growth.py --save            # also save to benchmarks/results/growth.json; resumes if stopped
    python benchmarks/growth.py --draw            # draw docs/growth.svg and docs/growth-dark.svg from the results

One sequence, 128 channels, both directions. A training step is forward, backward and AdamW; inference is forward, with
the kernels computed anew. Memory is the peak growth of a process of its own that does one pass.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import RESULTS, draw_for_both_pages, load, milliseconds, run_benchmark, take_turns
from memory import peak_during
from step import DSS, INFERENCE, TRAINING, H, ours, passes_of
from step import Row as Pass

from modeling_dlr import DLRKernel, DSSKernel
from modeling_dlr.launch import keep_memory

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "growth.svg"
KINDS: dict[str, dict[str, Any]] = {"dlr": {"poles": 256}, "dss": {"poles": 64, **DSS}}
COLOURS = {"dlr": "#1a73e8", "dss": "#188038"}


class Row(NamedTuple):
    """A model of some layers, and the length of its one sequence."""

    kind: str
    layers: int
    L: int
    mode: str


ROWS = [Row(kind, 2, 4**power, TRAINING) for power in range(5, 11) for kind in KINDS]
ROWS.append(Row("dlr", 6, 2**20, INFERENCE))


def passes(row: Row, hidden_size: int = H) -> Callable[[], float]:
    """A function that does one pass and returns its seconds. Kernels are forgotten before each."""
    torch.manual_seed(0)
    model = ours(hidden_size, layers=row.layers, **KINDS[row.kind])
    run = passes_of(model, Pass(1, row.L, row.mode))
    kernels = [module for module in model.modules() if isinstance(module, (DLRKernel, DSSKernel))]

    def anew() -> float:
        for kernel in kernels:
            kernel.memo = type(kernel.memo)()
        return run()

    return anew


def peak_megabytes(row: Row) -> float:
    """The peak megabytes of one pass in a new process."""
    command = [sys.executable, __file__, "--memory", *map(str, row)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(row: Row, hidden_size: int = H) -> dict[str, Any]:
    """Measure milliseconds and megabytes."""
    seconds = take_turns({"ours": passes(row, hidden_size)})["ours"]
    return {"ours_ms": milliseconds(seconds), "ours_mb": round(peak_megabytes(row), 1), "rounds": len(seconds)}


def main(kind: str, layers: str, L: str, mode: str) -> None:
    """Print the peak megabytes of one pass, after a small one."""
    torch.set_num_threads(2)
    row = Row(kind, int(layers), int(L), mode)
    passes(row._replace(L=64))()
    run = passes(row)
    print(peak_during(run))


def draw(path: Path) -> None:
    """Draw nanoseconds per step and log2 of the length, and bytes per step and channel, for one layer."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = [line for line in load(RESULTS / "growth.json") if line["mode"] == TRAINING]
    lengths = sorted({line["L"] for line in lines})
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, colour in COLOURS.items():
        rows = sorted((line for line in lines if line["kind"] == kind), key=lambda line: line["L"])
        times = [1e6 * line["ours_ms"] / line["layers"] / line["L"] / (line["L"].bit_length() - 1) for line in rows]
        sizes = [2**20 * line["ours_mb"] / line["layers"] / line["L"] / H for line in rows]
        for axes, values in ((left, times), (right, sizes)):
            axes.plot(lengths, values, color=colour, linewidth=2, marker="o", markersize=4, label=kind.upper())
    left.set_title("ns per step and log₂ of the length", fontsize=10)
    right.set_title("bytes per step and channel", fontsize=10)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length // 1024:,}K" for length in lengths])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps of a sequence")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    keep_memory()
    if sys.argv[1:2] == ["--memory"]:
        main(*sys.argv[2:])
    elif sys.argv[1:] == ["--draw"]:
        draw_for_both_pages(draw, PICTURE)
    else:
        run_benchmark(__doc__, RESULTS / "growth.json", ROWS, measure)
