"""How fast is one layer, and how much memory does it take, against the plain formulation and the machine's limit?

    python benchmarks/layer.py --json                     # every row; each is printed when it is done
    python benchmarks/layer.py --rows 0 1 --json          # some of them
    python benchmarks/layer.py --save                     # also into benchmarks/results/layer.json, row by row

Both layers run in one process, one after the other, pair by pair, so that a slow moment of the machine hits both; the
ratio is the median of the paired ratios. Peak memory is measured in a process of its own for each.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import naive
import psutil
import torch
from torch import Tensor

from modeling_dlr import DLRConfig
from modeling_dlr.modeling_dlr import DLRMixer

RESULTS = Path(__file__).parent / "results" / "layer.json"
MODES = ("forward", "forward+backward")


class Row(NamedTuple):
    """One size of layer."""

    kind: str
    B: int
    H: int
    N: int
    L: int


ROWS = [
    Row("dlr", 16, 128, 1024, 4096),
    Row("dlr", 4, 128, 4096, 4096),
    Row("dlr", 4, 128, 1024, 16384),
    Row("dlr", 1, 128, 1024, 65536),
    Row("dlr", 1, 64, 2048, 262144),
    Row("dss", 8, 256, 64, 16384),
]


class Layers:
    """Our mixer and the plain layer with the same parameters, in the official initialisation."""

    def __init__(self, row: Row):
        torch.manual_seed(0)
        kernel = {"kernel_type": row.kind} | ({"pole_init": "lin", "time_step_max": 1e-2} if row.kind == "dss" else {})
        config = DLRConfig(hidden_size=row.H, num_hidden_layers=1, state_size=row.N, kernel_parameters=kernel)
        self.row, self.mixer = row, DLRMixer(config)
        with torch.no_grad():
            spectrum = self.mixer.kernel.spectrum(row.L)  # pyrefly: ignore[missing-attribute,not-callable]
        weights = torch.stack([spectrum.weights_real[0], spectrum.weights_imag[0]], dim=-1)
        plain = [spectrum.decay, spectrum.angle, weights, self.mixer.D[0], *self.mixer.out_proj.parameters()]
        self.plain = [part.detach().float().clone().requires_grad_() for part in plain]
        self.u = torch.randn(row.B, row.L, row.H)

    def ours(self) -> Tensor:
        """[B, L, H]."""
        return self.mixer(self.u)

    def naive(self) -> Tensor:
        """[B, H, L]."""
        decay, angle, weights, *rest = self.plain
        kernel = {"dlr": naive.dlr_kernel, "dss": naive.dss_kernel}[self.row.kind]
        return naive.layer(self.u.mT.contiguous(), kernel(decay, angle, weights, self.row.L), *rest)

    def run(self, who: str, mode: str) -> float:
        """Seconds of one pass; the input of the plain layer is laid out for it beforehand."""
        if who == "naive" and self.u.stride(1) != 1:
            self.u = self.u.mT.contiguous().mT
        if who == "ours" and self.u.stride(2) != 1:
            self.u = self.u.contiguous()
        self.u.requires_grad_(mode == "forward+backward")
        with torch.no_grad():  # as after an optimizer step: else the kernel of the pass before would be used again
            for parameter in self.mixer.parameters():
                parameter.mul_(1 + 1e-6)
        layer: Callable[[], Tensor] = getattr(self, who)
        started = time.perf_counter()
        if mode == "forward":
            with torch.no_grad():
                layer()
            return time.perf_counter() - started
        y = layer()
        y.backward(torch.ones_like(y))
        seconds = time.perf_counter() - started
        self.u = self.u.detach()
        self.mixer.zero_grad()
        for part in self.plain:
            part.grad = None
        return seconds


def best_rate(flops: float, run: Callable[[], object]) -> float:
    """Flops per second of the fastest of several runs."""
    run()
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return flops / min(seconds)


def limit_seconds(row: Row, mode: str) -> float:
    """What the layer's matrix products and transforms would take alone, at the best rates measured here and now."""
    n = 2 * row.L
    transforms = max(1, 2**22 // n)
    x = torch.randn(transforms, n)
    X = torch.fft.rfft(x)
    fft_flops = 2.5 * n * math.log2(n)
    forward = fft_flops / best_rate(transforms * fft_flops, lambda: torch.fft.rfft(x))
    inverse = fft_flops / best_rate(transforms * fft_flops, lambda: torch.fft.irfft(X, n=n))
    a = torch.randn(2048, 2048)
    multiply = 1 / best_rate(2 * 2048**3, lambda: a @ a)
    B, H, N, L = row[1:]
    passes = 1 if mode == "forward" else 3
    products = passes * (4 * H * N * L + 2 * B * L * H * H) * multiply
    transformed = {"forward": ((B + 1) * H, B * H), "forward+backward": (3 * B * H + 2 * H, 2 * B * H + H)}[mode]
    return products + transformed[0] * forward + transformed[1] * inverse


def peak_megabytes(row: Row, who: str, mode: str) -> float:
    """The most a pass adds to the resident memory of a new process."""
    command = [sys.executable, __file__, "--peak", who, mode, json.dumps(row)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(row: Row, who: str, mode: str) -> None:
    """What the new process does: a small pass first, so that only what grows with the size is counted."""
    Layers(row._replace(L=64)).run(who, mode)
    layers = Layers(row)
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    layers.run(who, mode)
    done.set()
    watcher.join()
    print((peak - before) / 2**20)


def measure(row: Row) -> Iterator[dict[str, Any]]:
    """A line per mode."""
    layers = Layers(row)
    for mode in MODES:
        pairs: list[tuple[float, float]] = []
        layers.run("naive", mode), layers.run("ours", mode)
        while len(pairs) < (3 if pairs and sum(pairs[0]) > 20 else 7):
            pairs.append((layers.run("naive", mode), layers.run("ours", mode)))
        ours = statistics.median(ours for _, ours in pairs)
        memory = {who: peak_megabytes(row, who, mode) for who in ("naive", "ours")}
        yield {
            **row._asdict(),
            "mode": mode,
            "naive_ms": round(1e3 * statistics.median(naive for naive, _ in pairs), 1),
            "ours_ms": round(1e3 * ours, 1),
            "ratio": round(statistics.median(naive / ours for naive, ours in pairs), 2),
            "pairs": len(pairs),
            "naive_peak_mb": round(memory["naive"]),
            "ours_peak_mb": round(memory["ours"]),
            "fraction_of_limit": round(limit_seconds(row, mode) / min(ours for _, ours in pairs), 2),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }


def save(line: dict[str, Any]) -> None:
    """Put a line into the results file, in the place of the older one of the same row and mode."""
    lines = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    key = ("kind", "B", "H", "N", "L", "mode", "threads")
    lines = [old for old in lines if any(old[name] != line[name] for name in key)] + [line]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line per row and mode")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} as rows get done")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)), help="indices into the table of sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=3, metavar=("WHO", "MODE", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        who, mode, row = options.peak
        print_peak(Row(*json.loads(row)), who, mode)
        return
    for i in options.rows:
        for line in measure(ROWS[i]):
            if options.save:
                save(line)
            if options.json:
                print(json.dumps(line), flush=True)
            else:
                print(*(f"{name}={value}" for name, value in line.items()), flush=True)


if __name__ == "__main__":
    main()
