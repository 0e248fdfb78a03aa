"""Compare what `modeling-dlr plan` says with the memory that training and inference take.

    python benchmarks/plan.py --json
    python benchmarks/plan.py --save           # also save to benchmarks/results/plan.json

Every row runs in a process of its own, with one thread: a model, its gradients and the state of AdamW, and a pass while
all of these are there. Memory is the most that the process has beyond what a tiny model leaves. glibc is told to return
what is freed (MALLOC_MMAP_THRESHOLD_): otherwise a process may keep up to a quarter more.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import RESULTS, run_benchmark

from modeling_dlr import DLRConfig
from modeling_dlr.memory import Head, Pass
from modeling_dlr.plans import model_class, plans


class Row(NamedTuple):
    """A model, what it reads, and other fields of its configuration."""

    layers: int
    H: int
    N: int
    B: int
    L: int
    mode: str = "training"
    dtype: str = "float32"
    head: Head = "language"
    fields: str = "{}"


CAUSAL, WORDS = '{"bidirectional": false}', '{"vocab_size": 8192}'
ROWS = [
    Row(4, 64, 64, 4, 4096),
    Row(4, 64, 64, 4, 4096, "checkpointing"),
    Row(4, 64, 64, 4, 4096, "inference"),
    Row(12, 32, 64, 1, 32768, "checkpointing"),
    Row(4, 64, 256, 1, 65536),
    Row(2, 64, 64, 1, 262144, "checkpointing"),
    Row(2, 64, 64, 1, 131072, "inference", fields=CAUSAL),
    Row(2, 128, 1024, 16, 1024),
    Row(3, 64, 64, 16, 2048, fields=CAUSAL),
    Row(3, 64, 64, 8, 4096, dtype="bfloat16"),
    Row(3, 64, 64, 8, 4096, "inference", "bfloat16"),
    Row(2, 64, 64, 2, 2048, fields=WORDS),
    Row(2, 64, 64, 2, 2048, "inference", fields=WORDS),
    Row(2, 512, 64, 1, 256, fields='{"vocab_size": 32000}'),
    Row(4, 64, 64, 8, 4096, head="pooled"),
    Row(4, 64, 64, 8, 4096, "checkpointing", head="pooled"),
    Row(3, 64, 64, 8, 4096, head="steps", fields='{"output_gate": "glu", "hidden_dropout_prob": 0.1}'),
    Row(3, 64, 64, 4, 4096, fields='{"norm_type": "scalar_layer"}'),
    Row(3, 64, 64, 4, 4096, fields='{"norm_type": "batch", "num_kernel_channels": 2, "channel_gate_act": "sigmoid"}'),
    Row(3, 128, 64, 4, 4096, fields='{"kernel_parameters": {"kernel_type": "dss"}}'),
    Row(3, 128, 64, 4, 4096, fields='{"kernel_parameters": {"kernel_type": "sgconv"}}'),
    Row(3, 64, 64, 4, 4096, fields='{"layer_types": ["dlr", "local_attention", "dlr"], "attention_window": 128}'),
    Row(3, 64, 64, 8, 2048, fields='{"layer_types": ["full_attention", "full_attention", "full_attention"]}'),
]


def config_of(row: Row) -> DLRConfig:
    """The configuration of a row: bidirectional, with 16 tokens, unless it says otherwise."""
    sizes = {"hidden_size": row.H, "num_hidden_layers": row.layers, "state_size": row.N}
    return DLRConfig(**{"vocab_size": 16, "bidirectional": True} | sizes | json.loads(row.fields))


def computed(row: Row) -> float:
    """Bytes, as `modeling-dlr plan` says."""
    work = Pass(row.B, row.L, training=row.mode != "inference", dtype=row.dtype, head=row.head)
    alone = plans(config_of(row), work)
    return alone[-1 if row.mode == "checkpointing" else 0].total


def measure(row: Row) -> dict[str, Any]:
    """Return megabytes that were measured and computed, and their ratio."""
    returned = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, __file__, "--worker", json.dumps(row)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | returned).stdout
    measured = float(output.splitlines()[-1])
    said = computed(row) / 2**20
    return {"peak_mb": round(measured, 1), "computed_mb": round(said, 1), "ratio": round(said / measured, 3)}


def steps(row: Row, model: Any, length: int) -> None:
    """A pass through the model, forward, and backward if it is trained."""
    tokens = torch.randint(5, 16, (row.B, length))
    if row.mode == "inference":
        with torch.inference_mode():
            model(input_ids=tokens)
    else:
        labels = torch.zeros(row.B, dtype=torch.long) if row.head == "pooled" else tokens % model.config.num_labels
        model(input_ids=tokens, labels=tokens if row.head == "language" else labels).loss.backward()


def build(row: Row) -> Any:
    """The model, with gradients and the state of an optimizer if it is trained."""
    config = config_of(row)
    model = model_class(config, row.head)(config).to(getattr(torch, row.dtype)).train(row.mode != "inference")
    if row.mode == "checkpointing":
        model.activation_checkpointing_enable()
    steps(row, model, 64)
    if row.mode != "inference":
        model.optimizer = torch.optim.AdamW(model.parameters())
        model.optimizer.step()
    return model


def resident(name: str) -> float:
    """Megabytes of this process: "VmRSS" now, "VmHWM" at its most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def work(row: Row) -> None:
    """Print the megabytes of a pass, with the model and what belongs to it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build(row._replace(H=8, N=64, B=1))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    model = build(row)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets what was the most so far
    steps(row, model, row.L)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Row(*json.loads(sys.argv[2])))
    else:
        run_benchmark(__doc__, RESULTS / "plan.json", ROWS, measure)
