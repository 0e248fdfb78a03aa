"""Measure the peak memory of one pass of a layer, in a separate process.

    python benchmarks/memory.py ours dlr 1 32 4096 1048576 forward+backward

It prints the megabytes by which the resident memory grows at its peak, beyond parameters and input.
"""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch


def peak_megabytes(row: Sequence[Any], way: str) -> float:
    """Measure the peak megabytes of a pass of "ours" or "naive", at a size of layer.py, in a new process."""
    command = [sys.executable, __file__, way, *map(str, row)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_during(run: Callable[[], object]) -> float:
    """Measure by how many megabytes this process grows while ``run`` runs, sampled every millisecond."""
    process, done, sizes = psutil.Process(), threading.Event(), [0]
    gc.collect()  # otherwise old garbage could be freed during the run and hide growth
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.001):
            sizes.append(process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(sizes) / 2**20


def main(way: str, kind: str, B: str, H: str, N: str, L: str, mode: str) -> None:
    """Run a small pass first, so that only memory that depends on the size is counted."""
    import layer

    torch.set_num_threads(2)
    row = layer.Row(kind, int(B), int(H), int(N), int(L), mode)
    layer.Layers(row._replace(L=64)).seconds(way)
    layers = layer.Layers(row)
    print(peak_during(lambda: layers.seconds(way)))


if __name__ == "__main__":
    main(*sys.argv[1:])
