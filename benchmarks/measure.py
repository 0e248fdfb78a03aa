"""Shared code of the benchmarks: runs that take turns, medians of paired ratios, the machine's rate, results files.

The speed of a machine varies over time. The compared runs therefore take turns in every round; a ratio is the median
of the ratios within each round.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modeling_dlr import DLRConfig, DLRModel

RESULTS = Path(__file__).parent / "results"
# Settings of matplotlib for a figure on a dark page.
DARK_PAGE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), "#d0d7de"),
    "axes.titlecolor": "#d0d7de",
    "legend.facecolor": "none",
    "savefig.transparent": True,
}
FORWARD, BOTH = MODES = ("forward", "forward+backward")
# Number of measured rounds; the smaller number if a round takes longer than this many seconds.
_ROUNDS, _ROUNDS_IF_SLOW, _SLOW_SECONDS = 7, 3, 20.0


class Row(Protocol):
    """The settings of one line of results: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


def build_mixer(hidden_size: int, state_size: int, **kernel_parameters: Any) -> Any:
    """Build the mixer of one causal layer with the official initialisation: [B, L, H] to [B, L, H]."""
    config = DLRConfig(
        hidden_size=hidden_size, num_hidden_layers=1, state_size=state_size, kernel_parameters=kernel_parameters
    )
    return DLRModel(config).layers[0].mixer


def seconds_of_pass(run: Callable[[], Tensor], leaves: Iterable[Tensor], mode: str) -> float:
    """Measure the seconds of one pass, forward or forward and backward.

    Before the measurement, the leaves (parameters and input) are changed by a factor of 1 + 1e-6. As after an optimizer
    step, values that a module cached in the previous pass are then invalid.
    """
    leaves = list(leaves)
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(1 + 1e-6)
            leaf.grad = None
    with torch.set_grad_enabled(mode == BOTH):
        started = time.perf_counter()
        y = run()
        if mode == BOTH:
            y.backward(torch.ones_like(y))
        return time.perf_counter() - started


def take_turns(runs: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run all in turns for 7 rounds, or 3 if a round takes over 20 s, after a warm-up; return the seconds of each."""
    for run in runs.values():
        run()
    rounds: list[dict[str, float]] = []
    while len(rounds) < (_ROUNDS_IF_SLOW if rounds and sum(rounds[0].values()) > _SLOW_SECONDS else _ROUNDS):
        rounds.append({name: run() for name, run in runs.items()})
    return {name: [each[name] for each in rounds] for name in runs}


def milliseconds(seconds: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return round(1e3 * statistics.median(seconds), 2)


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The time of theirs relative to ours: the median of the ratios within each round."""
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)


def best_rate(flops: float, run: Callable[[], object]) -> float:
    """Flops per second of the fastest of seven runs."""
    run()
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return flops / min(seconds)


def matmul_rate(size: int = 2048) -> float:
    """Measure flops per second of a square float32 product, with `@` or oneDNN, whichever is faster."""
    a = torch.randn(size, size)
    products: list[Callable[[], Tensor]] = [lambda: a @ a]
    if torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""))
    return max(best_rate(2 * size**3, product) for product in products)


def machine() -> dict[str, Any]:
    """The number of threads, the version of torch and the processor, on which the numbers depend."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": name}


def load(results: Path) -> list[dict[str, Any]]:
    """Load the lines of a results file; an empty list if the file does not exist."""
    return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []


def save(results: Path, line: dict[str, Any], key: Sequence[str]) -> None:
    """Write a line into a results file, replacing the line with the same ``key``; the file is replaced atomically."""
    lines = load(results)
    matching = [i for i, old in enumerate(lines) if all(old[name] == line[name] for name in key)]
    index = matching[0] if matching else len(lines)
    lines[index : index + 1] = [line]
    results.parent.mkdir(exist_ok=True)
    unfinished = results.with_suffix(".part")
    text = ",\n".join(json.dumps(each, ensure_ascii=False) for each in lines)
    unfinished.write_text(f"[\n{text}\n]\n", encoding="utf-8")
    unfinished.replace(results)


def draw_for_both_pages(draw: Callable[[Path], None], picture: Path) -> None:
    """Draw a figure for light pages, and its twin for dark ones."""
    import matplotlib as mpl

    draw(picture)
    with mpl.rc_context(DARK_PAGE):
        draw(picture.with_name(f"{picture.stem}-dark.svg"))


def run_in_processes(processes: int, *script: str) -> str:
    """Run a script with its arguments by torchrun, and return what it prints."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--local_addr", "127.0.0.1"]
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]  # port 0 is any that is free
    command = [sys.executable, *launch, *rendezvous, *script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run_benchmark(
    description: str | None,
    results: Path,
    rows: Sequence[Row],
    measure: Callable[[Any], dict[str, Any]],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run the command line of a benchmark: measure the selected rows, and print and save each when it is done.

    Args:
        description: docstring of the benchmark.
        results: file that ``--save`` writes; rows already saved for the same number of threads are skipped.
        rows: all rows of the benchmark.
        measure: function that measures a row.
        arguments: command-line arguments; None reads those of this process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line per row")
    parser.add_argument("--save", action="store_true", help=f"save each row to {results.name}, skip saved rows")
    parser.add_argument("--again", action="store_true", help="measure saved rows again")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(rows)), help="indices of the rows to measure")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for row in (rows[i] for i in options.rows):
        settings = row._asdict() | {"threads": options.threads}
        done = any(settings.items() <= line.items() for line in load(results))
        if options.save and done and not options.again:
            continue
        line = row._asdict() | measure(row) | machine()
        if options.save:
            save(results, line, key=list(settings))
        text = json.dumps(line) if options.json else " ".join(f"{name}={value}" for name, value in line.items())
        print(text, flush=True)
