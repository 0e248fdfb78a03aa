"""What the benchmarks share: turns within one process, medians of paired ratios, the machine's rate, results files.

A machine is slow at times. Those who are compared therefore take turns, round by round, and the ratio of two is the
median of their ratios within a round.
"""

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modeling_dlr import DLRConfig, DLRModel

RESULTS = Path(__file__).parent / "results"
FORWARD, BOTH = MODES = ("forward", "forward+backward")
# Rounds that are measured, and how many when one takes longer than this.
_ROUNDS, _ROUNDS_IF_SLOW, _SLOW_SECONDS = 7, 3, 20.0


class Row(Protocol):
    """What one line of results is about: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


def build_mixer(hidden_size: int, state_size: int, **kernel_parameters: Any) -> Any:
    """The mixer of one causal layer, in its official initialisation: [B, L, H] to [B, L, H]."""
    config = DLRConfig(
        hidden_size=hidden_size, num_hidden_layers=1, state_size=state_size, kernel_parameters=kernel_parameters
    )
    return DLRModel(config).layers[0].mixer


def seconds_of_pass(run: Callable[[], Tensor], leaves: Iterable[Tensor], mode: str) -> float:
    """Seconds of one pass, forward or forward and backward.

    The leaves (parameters, and the input) are first moved by a millionth, outside the time: as after an optimizer step,
    nothing that a module remembers of the pass before is of use.
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
    """What every run returns, its seconds, in 7 rounds after one that does not count; 3 if a round takes over 20 s."""
    for run in runs.values():
        run()
    rounds: list[dict[str, float]] = []
    while len(rounds) < (_ROUNDS_IF_SLOW if rounds and sum(rounds[0].values()) > _SLOW_SECONDS else _ROUNDS):
        rounds.append({name: run() for name, run in runs.items()})
    return {name: [each[name] for each in rounds] for name in runs}


def milliseconds(seconds: Sequence[float]) -> float:
    """The median."""
    return round(1e3 * statistics.median(seconds), 2)


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long they take: the median of the ratios within a round."""
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)


def best_rate(flops: float, run: Callable[[], object]) -> float:
    """Flops per second of the fastest of several runs."""
    run()
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return flops / min(seconds)


def matmul_rate(size: int = 2048) -> float:
    """Flops per second, now, of a square float32 product, by torch's own `@` or by oneDNN, whichever is faster."""
    a = torch.randn(size, size)
    products: list[Callable[[], Tensor]] = [lambda: a @ a]
    if torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""))
    return max(best_rate(2 * size**3, product) for product in products)


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": name}


def load(results: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none if there is no such file."""
    return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []


def save(results: Path, line: dict[str, Any], key: Sequence[str]) -> None:
    """Put a line into a results file, in the place of the one of the same ``key``; the file is never half written."""
    lines = load(results)
    places = [i for i, old in enumerate(lines) if all(old[name] == line[name] for name in key)]
    place = places[0] if places else len(lines)
    lines[place : place + 1] = [line]
    results.parent.mkdir(exist_ok=True)
    unfinished = results.with_suffix(".part")
    text = ",\n".join(json.dumps(each, ensure_ascii=False) for each in lines)
    unfinished.write_text(f"[\n{text}\n]\n", encoding="utf-8")
    unfinished.replace(results)


def run_benchmark(
    description: str | None,
    results: Path,
    rows: Sequence[Row],
    measure: Callable[[Any], dict[str, Any]],
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of a benchmark: measure the rows asked for, print each when it is done, and save it.

    Args:
        description: the benchmark's docstring.
        results: where ``--save`` writes; rows that are already there, for as many threads, are left alone.
        rows: all there are.
        measure: what is found for a row.
        arguments: of the command line; None reads those of this process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line per row")
    parser.add_argument("--save", action="store_true", help=f"write {results.name} as rows get done, skip those in it")
    parser.add_argument("--again", action="store_true", help="measure rows that are already saved, too")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(rows)), help="indices into the table of rows")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for row in (rows[i] for i in options.rows):
        asked = row._asdict() | {"threads": options.threads}
        done = any(asked.items() <= line.items() for line in load(results))
        if options.save and done and not options.again:
            continue
        line = row._asdict() | measure(row) | machine()
        if options.save:
            save(results, line, key=list(asked))
        text = json.dumps(line) if options.json else " ".join(f"{name}={value}" for name, value in line.items())
        print(text, flush=True)
