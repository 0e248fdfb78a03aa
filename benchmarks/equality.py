"""Compare models over several processes with the same models in one: the largest error of all cases of the tests.

    python benchmarks/equality.py --save          # also save to benchmarks/results/equality.json

The cases are those of tests/test_processes.py, in float64: losses, every gradient, statistics of batch norm and weights
after steps. A row is a single launch by torchrun.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from measure import RESULTS, run_benchmark, run_in_processes

WORKER = Path(__file__).resolve().parent.parent / "tests" / "processes_worker.py"


class Row(NamedTuple):
    """A number of processes."""

    processes: int


ROWS = [Row(2), Row(4)]


def measure(row: Row) -> dict[str, Any]:
    """Return the number of cases and the largest error, for split sequences and for shards."""
    with tempfile.TemporaryDirectory() as folder:
        run_in_processes(row.processes, str(WORKER), folder)
        return {
            f"{name}_{quantity}": value
            for name in ("context", "shards")
            for quantity, value in summary(sorted(Path(folder).glob(f"{name} ?.json"))).items()
        }


def summary(ranks: list[Path]) -> dict[str, float]:
    """The number of cases, and the largest error over cases, quantities and processes."""
    found = [json.loads(path.read_text(encoding="utf-8"))["errors"] for path in ranks]
    errors = [error for rank in found for case in rank.values() for error in case.values()]
    return {"cases": len(found[0]), "error": max(errors)}


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "equality.json", ROWS, measure)
