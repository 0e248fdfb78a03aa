"""Accuracy on real data sets: DLR beside attention, an LSTM and a windowed CNN of equal parameters, and simpler models.

    python benchmarks/real_data.py --save --threads 1     # every row; saved rows are skipped
    python benchmarks/real_data.py --save --threads 1 --rows 0 1

The models have about as many parameters, and train for the same seconds of the processor, of one thread: those that
`real_sets.py` gives with the data. The weights with the best score on the validation rows are scored on the test rows.
A model that cannot make 500 steps in 20 minutes is not run, and its seconds per step are reported. Each row is measured
in a process of its own, whose largest memory is that of the row, of the data and the libraries, too.
"""

import math
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import RESULTS, load, run_benchmark
from real_models import MODELS, build, linear, majority, optimizer_of
from real_sets import SETS, RealSet
from torch import Tensor, nn
from torch.nn import functional

from modeling_dlr.markdown import markdown_table

PARAMETERS = 100_000
FEWEST_STEPS, PATIENT_SECONDS = 500, 1200
SIMPLER = ("majority", "linear")
EVALUATIONS, WARMUP, IGNORED = 10, 0.1, -100
# Steps of a batch, and of the validation, of all their rows together.
STEPS_OF_A_BATCH, STEPS_OF_VALIDATION = 32_768, 2**18


class Row(NamedTuple):
    """A run: a data set, a model, and a random seed."""

    data: str
    model: str
    seed: int


ROWS = [
    *(Row(data, model, 0) for data in SETS for model in SIMPLER),
    *(Row(data, model, seed) for seed in range(3) for data in SETS for model in MODELS),
]


class Batches:
    """Batches of the rows of a data set.

    Args:
        data: the rows.
        size: rows of a batch.
    """

    def __init__(self, data: RealSet, size: int):
        self.data, self.size = data, size

    def __call__(self, places: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and mask [B, L], and labels [B] or [B, L]; padding has the label -100."""
        rows = [self.data.inputs[place] for place in places]
        shape = len(rows), max(map(len, rows))
        inputs = torch.zeros(shape, dtype=torch.float32 if self.data.symbols is None else torch.long)
        mask, labels = torch.zeros(shape), torch.full(shape, IGNORED)
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            symbols = row if self.data.symbols is None else row.astype(np.int64) + 1
            inputs[i, : len(row)] = torch.from_numpy(np.array(symbols))
            mask[i, : len(row)] = 1
            if self.data.per_step:
                labels[i, : len(row)] = torch.from_numpy(self.data.labels[place])
        if not self.data.per_step:
            labels = torch.tensor([self.data.labels[place] for place in places])
        return inputs, mask, labels


@torch.no_grad()
def shares_of(model: nn.Module, batches: Batches, places: np.ndarray) -> np.ndarray:
    """The share of the steps of each row, or of its one label, that the model gets right."""
    model.eval()
    shares = []
    for start in range(0, len(places), batches.size):
        inputs, mask, labels = batches(places[start : start + batches.size])
        right = (model(inputs, mask).argmax(-1) == labels).reshape(len(labels), -1).float()
        counts = (labels != IGNORED).reshape(len(labels), -1)
        shares += (right.sum(1) / counts.sum(1)).tolist()
    model.train()
    return np.array(shares)


@torch.no_grad()
def bits_of(model: nn.Module, batches: Batches, places: np.ndarray) -> float:
    """The mean bits of a symbol, where the model gives the probabilities of the next one."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(places), batches.size):
        inputs, mask, labels = batches(places[start : start + batches.size])
        logits = model(inputs, mask).flatten(0, 1)
        total += float(functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    model.train()
    return total / count / math.log(2)


def take_step(optimizer: torch.optim.Optimizer, rates: Sequence[float], spent: float, loss: Tensor) -> None:
    """One step with clipped gradients; rates rise linearly, and fall as a cosine by the share of training ``spent``."""
    factor = min(1.0, spent / WARMUP) * (1 + math.cos(math.pi * spent)) / 2
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], 1.0)
    optimizer.step()


def train(model: nn.Module, name: str, batches: Batches, seconds: float, seed: int) -> dict[str, Any]:
    """Train for so many seconds of the processor, without those of validations, and load the weights that are best."""
    data, generator = batches.data, np.random.default_rng(seed)
    places, validation = data.places("train"), data.places("validation")
    validation = validation[: max(1, STEPS_OF_VALIDATION // max(map(len, data.inputs)))]
    optimizer = optimizer_of(name, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    spent, step, evaluations, best, weights = 0.0, 0, 0, -1.0, dict(model.state_dict())
    order = np.array([], dtype=int)
    while spent < seconds:
        began = time.process_time()
        if len(order) < batches.size:
            order = generator.permutation(places)
        chosen, order = order[: batches.size], order[batches.size :]
        inputs, mask, labels = batches(chosen)
        logits = model(inputs, mask)
        loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
        take_step(optimizer, rates, spent / seconds, loss)
        step += 1
        spent += time.process_time() - began
        if (step == 3 or spent >= seconds) and spent / step * FEWEST_STEPS > PATIENT_SECONDS:
            return {"seconds_per_step": round(spent / step, 2)}
        if spent >= min(1.0, (evaluations + 1) / EVALUATIONS) * seconds:
            evaluations += 1
            score = float(shares_of(model, batches, validation).mean())
            if score > best:
                best, weights = score, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return {"steps": step, "validation": round(best, 4)}


def interval(shares: np.ndarray) -> list[float]:
    """95 % of the means of rows that are drawn again."""
    generator = np.random.default_rng(0)
    means = [shares[generator.integers(0, len(shares), len(shares))].mean() for _ in range(1000)]
    return [round(float(each), 4) for each in np.quantile(means, [0.025, 0.975])]


def measure(row: Row, seconds: float | None = None, data: RealSet | None = None) -> dict[str, Any]:
    """Train and score a model; or, if it is too slow, the seconds of a step."""
    source = SETS[row.data]
    data, seconds = data or source.make(source.length), seconds or source.seconds
    began = time.process_time()
    found: dict[str, Any] = {"L": max(map(len, data.inputs)), "rows": len(data.places("train"))}
    if row.model in SIMPLER:
        shares = (majority if row.model == "majority" else linear)(data)
    else:
        torch.manual_seed(row.seed)
        model = build(row.model, data, PARAMETERS)
        batches = Batches(data, max(1, min(16, STEPS_OF_A_BATCH // found["L"])))
        found |= {"parameters": sum(each.numel() for each in model.parameters())}
        found |= train(model, row.model, batches, seconds, row.seed)
        if "seconds_per_step" in found:
            return found
        shares = shares_of(model, batches, data.places("test"))
        if data.causal and data.per_step:
            found["bits"] = round(bits_of(model, batches, data.places("test")), 4)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | {
        "accuracy": round(float(shares.mean()), 4),
        "interval": interval(shares),
        "cpu_seconds": round(time.process_time() - began),
        "peak_mb": round(memory),
    }


def measure_alone(row: Row) -> dict[str, Any]:
    """Measure a row in a new process."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return pool.submit(measure, row).result()


def table(results: Path) -> str:
    """The scores, and what they took, a line for each data set, for `benchmarks/render.py`: means over seeds."""
    lines = load(results / "real_data.json")
    scores, costs = [], []
    for data in SETS:
        mine = [line for line in lines if line["data"] == data]
        if mine:
            of = {name: [line for line in mine if line["model"] == name] for name in (*SIMPLER, *MODELS)}
            scores.append([data, f"{max(line['L'] for line in mine):,}", *scores_of(of)])
            costs.append([data, str(SETS[data].seconds), *(cost(of[name]) for name in MODELS)])
    if not scores:
        return ""
    first = markdown_table(["data", "steps", *SIMPLER, *MODELS], scores)
    second = markdown_table(["data", "seconds", *MODELS], costs)
    return f"\n{first}\n\nParameters, steps of training, and MB of the process:\n\n{second}\n\n"


def scores_of(lines: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """The mean accuracy of each model with its interval. The best one, and those within its interval, are bold."""
    means = {name: np.mean([line["accuracy"] for line in mine]) for name, mine in lines.items() if scored(mine)}
    best = max(means, key=means.__getitem__)
    cells = []
    for name, mine in lines.items():
        if name not in means:
            cells.append(f"not run: {mine[0]['seconds_per_step']:.1f} s a step" if mine else "")
            continue
        bold = "**" if means[name] >= interval_of(lines[best])[0] else ""
        bits = f", {np.mean([line['bits'] for line in mine]):.3f} bits" if "bits" in mine[0] else ""
        low, high = interval_of(mine)
        cells.append(f"{bold}{means[name]:.3f}{bold} ({low:.3f} … {high:.3f}){bits}")
    return cells


def scored(lines: list[dict[str, Any]]) -> bool:
    """Whether there are runs, and they were not too slow."""
    return bool(lines) and "accuracy" in lines[0]


def interval_of(lines: list[dict[str, Any]]) -> tuple[float, float]:
    """The least and the largest number of the intervals of all seeds."""
    return min(line["interval"][0] for line in lines), max(line["interval"][1] for line in lines)


def cost(lines: list[dict[str, Any]]) -> str:
    """Parameters, steps and megabytes of a model; nothing where it was not run."""
    if not scored(lines):
        return ""
    steps, size = (np.mean([line[name] for line in lines]) for name in ("steps", "peak_mb"))
    return f"{lines[0]['parameters']:,}, {steps:,.0f}, {size:,.0f}"


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "real_data.json", ROWS, measure_alone)
