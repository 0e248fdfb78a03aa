"""Measure how much slower a layer is beside other work on the machine.

    python benchmarks/contended.py --json         # every row; each is printed when it is done
    python benchmarks/contended.py --save         # also save to benchmarks/results/contended.json

Neighbours are processes that compute all the time, each with one thread. In every round our layer and the plain one run
alone, and then beside the neighbours, which are stopped and continued a second before. The slowdown is the median of
the ratios within each round. Threads that wait for one another spin for long by default; after
`modeling_dlr.launch.share_processors` ("share") only while no other program needs their processors.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from layer import WAYS, Layers
from layer import Row as Size
from measure import BOTH, RESULTS, milliseconds, paired_ratio, run_benchmark, take_turns

from modeling_dlr.launch import share_processors

# What a neighbour does: sums of a table that does not fit the cache.
WORK = "import numpy\nx = numpy.ones(2**24)\nwhile True:\n    x.sum()\n"


class Row(NamedTuple):
    """A size of layer, the number of neighbours, and how threads wait."""

    kind: str
    B: int
    H: int
    N: int
    L: int
    mode: str
    neighbours: int
    waiting: str


SIZES = [("dlr", 4, 128, 1024, 4096), ("dss", 8, 128, 64, 1024)]
WAITING = ("default", "share")
SETTLING = 1.0
ROWS = [Row(*size, BOTH, neighbours, waiting) for size in SIZES for neighbours in (1, 2) for waiting in WAITING]


@contextlib.contextmanager
def stopped_neighbours(count: int) -> Iterator[Callable[[signal.Signals], None]]:
    """Processes that are stopped, and a function that sends all of them a signal."""
    processes = [subprocess.Popen([sys.executable, "-c", WORK]) for _ in range(count)]

    def send(what: signal.Signals) -> None:
        for process in processes:
            process.send_signal(what)

    try:
        send(signal.SIGSTOP)
        yield send
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(row: Row) -> dict[str, Any]:
    """Measure milliseconds alone and beside neighbours, and the slowdowns, in a new process."""
    command = [sys.executable, __file__, "--worker", json.dumps(row), str(torch.get_num_threads())]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def work(row: Row) -> dict[str, Any]:
    """Measure in this process."""
    if row.waiting == "share":
        share_processors()
    layers = Layers(Size(*row[:-2]))
    with stopped_neighbours(row.neighbours) as send:

        def timed(way: str, what: signal.Signals) -> float:
            send(what)
            time.sleep(SETTLING)
            return layers.seconds(way)

        alone = {f"{way}_alone": lambda way=way: timed(way, signal.SIGSTOP) for way in WAYS}
        seconds = take_turns(alone | {f"{way}_beside": lambda way=way: timed(way, signal.SIGCONT) for way in WAYS})
    times = {f"{name}_ms": milliseconds(each) for name, each in seconds.items()}
    slower = {f"{way}_slower": paired_ratio(seconds[f"{way}_beside"], seconds[f"{way}_alone"]) for way in WAYS}
    return times | slower


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        torch.set_num_threads(int(sys.argv[3]))
        print(json.dumps(work(Row(*json.loads(sys.argv[2])))))
    else:
        run_benchmark(__doc__, RESULTS / "contended.json", ROWS, measure)
