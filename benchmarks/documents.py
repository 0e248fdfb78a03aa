"""Measure `modeling-dlr predict` on many short and some very long documents, in one process and by Ray.

    python benchmarks/documents.py --json
    python benchmarks/documents.py --save           # also save to benchmarks/results/documents.json

Every run is the command in a process of its own. The plain loop has as many threads as Ray has actors, of one thread
each. Memory is that of all its processes together, where shared pages count once.
"""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import torch
from measure import RESULTS, run_benchmark
from pyarrow import parquet

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer


class Row(NamedTuple):
    """The engine, with so many threads or actors, on short documents, and on long ones of so many letters."""

    engine: str
    workers: int
    short: int
    long: int
    letters: int


SIZES = [(10_000, 20), (100_000, 200)]
ROWS = [
    Row(engine, workers, short, long, 2**16)
    for short, long in SIZES
    for workers in (1, 2)
    for engine in ("local", "ray")
]


def write_inputs(folder: Path, row: Row) -> None:
    """Write a model of random weights, and the documents, of which the long ones lie between the short ones."""
    torch.manual_seed(0)
    config = DLRConfig(
        hidden_size=32, num_hidden_layers=2, state_size=64, vocab_size=261, pad_token_id=0, bidirectional=True
    )
    DLRForSequenceClassification(config).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    draws = random.Random(0)
    every = max(1, row.short // max(1, row.long))
    schema = pa.schema({"id": pa.int64(), "text": pa.string()})
    with parquet.ParquetWriter(folder / "in.parquet", schema) as writer:
        for first in range(0, row.short, every):
            texts = ["".join(draws.choices("abcdefgh ", k=draws.randint(20, 200))) for _ in range(every)]
            if first // every < row.long:
                texts.append("".join(draws.choices("abcdefgh ", k=row.letters)))
            ids = [first * 2 + i for i in range(len(texts))]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema=schema))


class Sampler:
    """A process with all that it starts.

    Attributes:
        seconds: of the processor, of each process that was seen.
    """

    def __init__(self, process: psutil.Process):
        self.process = process
        self.seconds: dict[int, float] = {}

    def memory(self) -> float:
        """Megabytes now; pages that several processes share are divided among them."""
        total = 0
        for each in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += each.memory_full_info().pss
                self.seconds[each.pid] = sum(each.cpu_times()[:2])
        return total / 2**20


def measure(row: Row) -> dict[str, Any]:
    """Run the command; return the time before the first part, rows per second after it, and the most memory.

    Seconds of the processor are those of all processes; on a busy machine they say more than those that pass.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, row)
        command = [
            sys.executable,
            "-m",
            "modeling_dlr.cli",
            "predict",
            "model",
            "in.parquet",
            "--output",
            "out.parquet",
        ]
        if row.engine == "ray":
            command += ["--engine", "ray", "--workers", str(row.workers)]
        environment = os.environ | {"OMP_NUM_THREADS": str(row.workers)}
        started, first, samples = time.perf_counter(), None, []
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as run:
            sampler, before = Sampler(psutil.Process(run.pid)), 0.0
            while run.poll() is None:
                time.sleep(0.2)
                if first is None and any((folder / "out.parquet.parts").glob("0*.parquet")):
                    first = time.perf_counter() - started
                    sampler.memory()
                    before = sum(sampler.seconds.values())
                if first is not None:
                    with contextlib.suppress(psutil.Error):
                        samples.append(sampler.memory())
        seconds = time.perf_counter() - started
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {run.returncode}.")
        table = parquet.read_table(folder / "out.parquet")
    first, half = first or seconds, samples[: max(1, len(samples) // 2)]
    return {
        "seconds": round(seconds, 1),
        "start_seconds": round(first, 1),
        "rows_per_second": round(table.num_rows / max(seconds - first, 0.1)),
        "rows_per_cpu_second": round(table.num_rows / max(sum(sampler.seconds.values()) - before, 0.1)),
        "peak_mb_of_first_half": round(max(half, default=0)),
        "peak_mb": round(max(samples, default=0)),
        "rows": table.num_rows,
        "answers": hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()[:12],
    }


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "documents.json", ROWS, measure)
