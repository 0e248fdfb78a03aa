"""What self-pretraining brings: a model first fills in hidden spans of the inputs that it then learns the labels of.

    python benchmarks/self_pretraining.py --save --threads 1     # every row; saved rows are skipped
    python benchmarks/self_pretraining.py --save --threads 1 --rows 0 1

All runs of a data set have the same model and the same seconds of the processor. One that starts from "random" weights
spends them on the labels; one that starts from "masked" inputs (arXiv 2310.02980) spends the first half on hidden spans
of the training rows, and the other half on their labels.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from few_labels import cell
from measure import RESULTS, load, run_benchmark
from real_data import PARAMETERS, Batches, interval, shares_of, take_step, train
from real_models import Ours, build, optimizer_of
from real_sets import SETS, RealSet, Split

from modeling_dlr.markdown import markdown_table
from modeling_dlr.recipes import masked_batch, masked_head
from modeling_dlr.tasks import TaskName, load_task

BATCH_SIZE = 16
# Stands for a hidden symbol; symbols begin at 1.
HIDDEN = 0
COUNTS: dict[Split, int] = {"train": 8000, "validation": 200, "test": 1000}
STARTS = ("random", "masked")


def of_task(name: TaskName, symbols: int | None, **options: Any) -> RealSet:
    """Examples of a task with one class each, as rows of symbols or of numbers."""
    inputs, labels, splits = [], [], list[Split]()
    for split, count in COUNTS.items():
        for row in load_task(name, split=split, num_examples=count, seed=0, **options).with_format("numpy"):
            given: Any = row
            steps = given["input_values"].ravel() if symbols is None else given["input_ids"].astype(np.uint8)
            inputs.append(steps)
            labels.append(int(given["labels"]))
            splits.append(split)
    return RealSet(inputs, labels, splits, [str(label) for label in range(max(labels) + 1)], symbols)


class Problem(NamedTuple):
    """What makes a data set, and the seconds of a run."""

    make: Callable[[], RealSet]
    seconds: int


PROBLEMS = {
    "ListOps": Problem(lambda: of_task("listops", 18, min_length=50, max_length=200, max_depth=6, max_args=5), 240),
    "Pathfinder-32": Problem(lambda: of_task("pathfinder", None, resolution=32), 240),
    "digits": Problem(lambda: SETS["digits"].make(784), 240),
    "news": Problem(lambda: SETS["news"].make(2048), 240),
}


class Row(NamedTuple):
    """A run: a data set, what it starts from, and a random seed."""

    data: str
    start: str
    seed: int


ROWS = [Row(data, start, seed) for seed in range(3) for data in PROBLEMS for start in STARTS]


def pretrain(model: Ours, batches: Batches, seconds: float, seed: int) -> dict[str, Any]:
    """Give the model the layers of one that has filled in hidden spans of the training rows for so many seconds."""
    network = masked_head(model.model.config)
    optimizer = optimizer_of("DLR", network)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator, places = np.random.default_rng(seed), batches.data.places("train")
    began, steps, losses = time.process_time(), 0, list[float]()
    while (spent := (time.process_time() - began) / seconds) < 1:
        inputs, mask, _ = batches(generator.choice(places, batches.size))
        name = "input_values" if inputs.is_floating_point() else "input_ids"
        hidden = masked_batch({name: inputs, "attention_mask": mask.long()}, HIDDEN, 1, fixed=False)
        loss = network(**hidden, use_cache=False).loss
        take_step(optimizer, rates, spent, loss)
        steps += 1
        losses.append(float(loss.detach()))
    model.model.model.load_state_dict(network.model.state_dict())
    return {"masked_steps": steps, "masked_loss": round(mean(losses[-max(1, steps // 10) :]), 4)}


def measure(row: Row, seconds: float | None = None, data: RealSet | None = None) -> dict[str, Any]:
    """Train and score a model."""
    problem = PROBLEMS[row.data]
    data, seconds = data or problem.make(), seconds or problem.seconds
    torch.manual_seed(row.seed)
    model: Any = build("DLR", data, PARAMETERS)
    batches = Batches(data, BATCH_SIZE)
    found: dict[str, Any] = {"parameters": sum(each.numel() for each in model.parameters())}
    if row.start == "masked":
        seconds = seconds / 2
        found |= pretrain(model, batches, seconds, row.seed)
    found |= train(model, "DLR", batches, seconds, row.seed)
    shares = shares_of(model, batches, data.places("test"))
    return found | {"accuracy": round(float(shares.mean()), 4), "interval": interval(shares)}


def table(results: Path) -> str:
    """A line for each data set, for `benchmarks/render.py`: means over seeds, with the least and the largest."""
    lines = load(results / "self_pretraining.json")
    rows = []
    for data in PROBLEMS:
        by_start = [[line["accuracy"] for line in lines if (line["data"], line["start"]) == (data, s)] for s in STARTS]
        if any(by_start):
            rows.append([data, *map(cell, by_start)])
    return f"\n{markdown_table(['data', 'random weights', 'self-pretrained'], rows)}\n\n" if rows else ""


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "self_pretraining.json", ROWS, measure)
