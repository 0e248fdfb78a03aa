"""Measure the memory of one layer at a million steps, forward and backward, beyond its parameters and input.

python benchmarks/million.py --json
python benchmarks/million.py --save           # also save to benchmarks/results/million.json
"""

from typing import Any

import memory
from layer import Row
from measure import BOTH, RESULTS, run_benchmark

ROWS = [Row("dlr", 1, 32, 4096, 2**20, BOTH)]


def measure(row: Row) -> dict[str, Any]:
    """Measure peak megabytes; also compute the size of all powers (every pole, every step) in complex64."""
    return {"peak_mb": round(memory.peak_megabytes(row, "ours")), "powers_mb": round(8 * row.N * row.L / 2**20)}


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "million.json", ROWS, measure)
