"""Measure the memory of a model whose sequences are split over processes, forward and backward.

    python benchmarks/context.py --json
    python benchmarks/context.py --save           # also save to benchmarks/results/context.json

A row starts its processes by torchrun, one thread each. Memory is that of the process that needs most, beyond
parameters, gradients and input; so are the seconds, of its processor, which other programs change less than the clock.
"""

import json
import sys
import time
from typing import Any, NamedTuple

import memory
import torch
from measure import RESULTS, run_benchmark, run_in_processes
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.parallel import context_parallel, shard_batch


class Row(NamedTuple):
    """One sequence of L steps through layers of H channels and N poles, on a number of processes."""

    layers: int
    H: int
    N: int
    L: int
    processes: int
    checkpointing: bool = False


ROWS = [
    *(Row(4, 64, 256, 65536, processes) for processes in (1, 2, 4)),
    *(Row(12, 64, 2048, 262144, processes, checkpointing=True) for processes in (1, 2)),
]


def measure(row: Row) -> dict[str, Any]:
    """Return peak megabytes and seconds of the processor per process, and the loss."""
    output = run_in_processes(row.processes, __file__, "--worker", json.dumps(row))
    return json.loads(output.splitlines()[-1])


def work(row: Row) -> None:
    """Run a short pass, and a whole one, which is measured; the first process prints the findings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (row.processes,))
    config = DLRConfig(
        hidden_size=row.H, num_hidden_layers=row.layers, state_size=row.N, vocab_size=16, bidirectional=True
    )
    model = context_parallel(DLRForMaskedLM(config), mesh)
    if row.checkpointing:
        model.activation_checkpointing_enable()
    losses = []

    def run(length: int) -> None:
        tokens = torch.randint(16, (1, length))
        loss = model(**shard_batch({"input_ids": tokens, "labels": tokens}, mesh)).loss
        loss.backward()
        losses.append(loss.item())

    run(64)
    distributed.barrier()
    started = time.thread_time()
    peak = memory.peak_during(lambda: run(row.L))
    own = torch.tensor([peak, time.thread_time() - started])
    distributed.all_reduce(own, distributed.ReduceOp.MAX)
    if distributed.get_rank() == 0:
        print(json.dumps({"peak_mb": round(own[0].item()), "cpu_seconds": round(own[1].item(), 1), "loss": losses[-1]}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Row(*json.loads(sys.argv[2])))
    else:
        run_benchmark(__doc__, RESULTS / "context.json", ROWS, measure)
