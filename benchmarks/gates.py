"""Whether mixers with gates are worth having: hybrids of DLR and a gated layer beside DLR with local attention.

    python benchmarks/gates.py --save --threads 1            # every row; saved rows are skipped
    python benchmarks/gates.py --save --threads 1 --rows 0 1

All models have two layers and about as many parameters, and train on the same examples. Each model first trains with
two rates and one seed; the other seeds use the better rate. Two layers exist only in this file: a gated
linear layer, with the recurrence of HGRN2 (arXiv 2404.07904), and a gated delta layer (arXiv 2412.06464).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple, cast

import torch
from measure import RESULTS, load, run_benchmark
from rates import BETTER, FIRST_RUNS, OTHER_RUNS, best_runs, better_rate
from tasks_page import cell
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from modeling_dlr import DLRConfig, DLRForTokenClassification
from modeling_dlr.markdown import markdown_table
from modeling_dlr.metrics import R2
from modeling_dlr.tasks import TaskName, load_task
from modeling_dlr.training import parameter_groups

# Steps that are computed at once. In float32, LEAST ** -CHUNK must be finite.
CHUNK = 16
# The smallest forget gate of the gated linear layer, and the steps over which gates remember at first.
LEAST, MEMORY = 1 / 64, (8.0, 512.0)


def chunks(x: Tensor) -> Tensor:
    """Cut [B, h, L, ...] into [B, h, chunks, CHUNK, ...], padded by zeros at the end."""
    L, rest = x.shape[2], x.dim() - 3
    return functional.pad(x, (0, 0) * rest + (0, -L % CHUNK)).unflatten(2, (-1, CHUNK))


def gated_linear(q: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ and y_t = S_tᵀ q_t, from S = 0.

    Args:
        q: [B, h, L, D].
        v: [B, h, L, E].
        log_f: [B, h, L, D], the logarithms of f, at least log LEAST.

    Returns:
        [B, h, L, E].
    """
    L, k = q.shape[2], -torch.expm1(log_f)
    q, k, v, log_f = (chunks(x) for x in (q, k, v, log_f))
    total = log_f.cumsum(3)  # [B, h, chunks, CHUNK, D]
    q, end = q * total.exp(), total[:, :, :, -1:]
    y = (q @ (k * (-total).exp()).transpose(-1, -2)).tril() @ v
    added = (k * (end - total).exp()).transpose(-1, -2) @ v  # [B, h, chunks, D, E]
    kept, S, states = end.exp().transpose(-1, -2), torch.zeros_like(added[:, :, 0]), []
    for i in range(added.shape[2]):
        states.append(S)
        S = kept[:, :, i] * S + added[:, :, i]
    return (y + q @ torch.stack(states, dim=2)).flatten(2, 3)[:, :, :L]


def gated_delta(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, beta: Tensor) -> Tensor:
    """S_t = f_t (1 - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ and y_t = S_tᵀ q_t, from S = 0.

    With u_t = β_t (v_t - f_t S_{t-1}ᵀ k_t) this is S_t = f_t S_{t-1} + k_t u_tᵀ. The u of a chunk solve a triangular
    system.

    Args:
        q: [B, h, L, D].
        k: [B, h, L, D].
        v: [B, h, L, E].
        log_f: [B, h, L], the logarithms of f.
        beta: [B, h, L].

    Returns:
        [B, h, L, E].
    """
    L = q.shape[2]
    q, k, v, log_f, beta = (chunks(x) for x in (q, k, v, log_f, beta))
    total, beta = log_f.cumsum(3), beta.unsqueeze(-1)  # [B, h, chunks, CHUNK] and [B, h, chunks, CHUNK, 1]
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    kept = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()  # from s to t, [t, s]
    from_start, to_end = total.exp().unsqueeze(-1), kept[..., -1, :].unsqueeze(-1)
    system = (beta * kept * (k @ k.transpose(-1, -2))).tril(-1)  # the ones of its diagonal are not read
    solved = torch.linalg.solve_triangular(
        system, beta * torch.cat([v, from_start * k], dim=-1), upper=False, unitriangular=True
    )
    u, w = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    reads, q, k = (q @ k.transpose(-1, -2)) * kept, from_start * q, to_end * k
    S, outputs = torch.zeros_like(k[:, :, 0].transpose(-1, -2) @ v[:, :, 0]), []
    for i in range(u.shape[2]):
        corrected = u[:, :, i] - w[:, :, i] @ S
        outputs.append(q[:, :, i] @ S + reads[:, :, i] @ corrected)
        S = from_start[:, :, i, -1:] * S + k[:, :, i].transpose(-1, -2) @ corrected
    return torch.cat(outputs, dim=2)[:, :, :L]


class GatedMixer(nn.Module):
    """A mixer with heads and an output gate, with the skip and the projection of the layers of attention.

    Args:
        config: of the model; gives the width and the number of heads.
        gates: forget gates, [features] of the projection.
    """

    def __init__(self, config: DLRConfig, gates: int):
        super().__init__()
        H, self.heads = config.hidden_size, config.num_attention_heads
        self.out_proj = nn.Linear(H, 2 * H)
        self.q_proj, self.v_proj, self.g_proj = (nn.Linear(H, H) for _ in range(3))
        self.f_proj, self.norm = nn.Linear(H, gates), nn.RMSNorm(H // self.heads)
        with torch.no_grad():  # f = 1 - 1 / T for T log-uniform in MEMORY
            low, high = (math.log(steps) for steps in MEMORY)
            self.f_proj.bias.copy_(torch.expm1(torch.linspace(low, high, gates)).log())
            self.f_proj.weight.mul_(0.1)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, h D] to [B, h, L, D]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def read(self, x: Tensor) -> Tensor:
        """[B, L, H] to [B, h, L, H / h]."""
        raise NotImplementedError

    def forward(self, hidden_states: Tensor, *_: object) -> Tensor:
        """[B, L, H] to [B, L, H], of sequences without padding and without a cache."""
        y = self.norm(self.read(hidden_states)).transpose(1, 2).flatten(2)
        y = hidden_states + y * functional.silu(self.g_proj(hidden_states))
        return functional.glu(self.out_proj(y))


class GatedLinear(GatedMixer):
    """The gated linear layer: a forget gate for each channel of the keys, which are 1 - f."""

    def __init__(self, config: DLRConfig):
        super().__init__(config, config.hidden_size)

    def read(self, x: Tensor) -> Tensor:
        """[B, L, H] to [B, h, L, H / h]."""
        q, f = functional.silu(self.q_proj(x)), LEAST + (1 - LEAST) * self.f_proj(x).sigmoid()
        return gated_linear(self.split(q), self.split(self.v_proj(x)), self.split(f.log()))


class GatedDelta(GatedMixer):
    """The gated delta layer: a forget gate and a rate of writing for each head, and keys of norm 1."""

    def __init__(self, config: DLRConfig):
        super().__init__(config, config.num_attention_heads)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.beta_proj = nn.Linear(config.hidden_size, self.heads)

    def read(self, x: Tensor) -> Tensor:
        """[B, L, H] to [B, h, L, H / h]."""
        q, k = (functional.normalize(self.split(functional.silu(p(x))), dim=-1) for p in (self.q_proj, self.k_proj))
        log_f, beta = functional.logsigmoid(self.f_proj(x)), self.beta_proj(x).sigmoid()
        return gated_delta(q, k, self.split(self.v_proj(x)), log_f.transpose(1, 2), beta.transpose(1, 2))


class Problem(NamedTuple):
    """A task, its options, and the training steps."""

    task: TaskName
    options: Mapping[str, Any]
    steps: int


PROBLEMS = {
    "mips": Problem("mips", {"length": 128}, 1500),
    "context_shift, L = 32": Problem("context_shift", {"length": 32}, 3000),
    "masked_select": Problem("masked_select", {"length": 32, "num_marked": 8}, 3000),
    "context_shift, L = 64": Problem("context_shift", {"length": 64}, 2500),
}
# By name: the types of the two layers, and what takes the place of the second one's mixer.
MODELS: dict[str, tuple[list[str], Callable[[DLRConfig], GatedMixer] | None]] = {
    "DLR + gated linear": (["dlr", "dlr"], GatedLinear),
    "DLR + gated delta": (["dlr", "dlr"], GatedDelta),
    "DLR + local attention": (["dlr", "local_attention"], None),
    "DLR": (["dlr", "dlr"], None),
    "DLR + attention": (["dlr", "full_attention"], None),
    "attention": (["full_attention", "full_attention"], None),
}
HYBRIDS, PEER = ("DLR + gated linear", "DLR + gated delta"), "DLR + local attention"
HIDDEN_SIZE, STATE_SIZE, BATCH_SIZE, VALIDATION = 64, 128, 16, 512
STATE_RATE, WARMUP = 1e-3, 0.1
# The gain over DLR with local attention that a hybrid needs, and on how many tasks.
GAIN, TASKS = 0.2, 2


class Row(NamedTuple):
    """A run: a problem, a model, a seed, and its learning rate, or "better" for the better one of seed 0."""

    problem: str
    model: str
    seed: int
    rate: float | Literal["better"]


ROWS = [
    Row(problem, model, seed, rate)
    for runs in (FIRST_RUNS, OTHER_RUNS)
    for problem in PROBLEMS
    for model in MODELS
    for seed, rate in runs
]


def build(model: str, examples: Mapping[str, Tensor]) -> DLRForTokenClassification:
    """The model for inputs and labels of these sizes. Local attention has eight chunks."""
    kinds, gated = MODELS[model]
    steps, features = examples["input_values"].shape[1:]
    fields: dict[str, Any] = {
        "input_size": features,
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": len(kinds),
        "state_size": STATE_SIZE,
        "output_gate": "glu",
        "layer_types": kinds,
        "attention_window": max(1, steps // 8),
        "num_labels": examples["labels"].shape[-1],
        "problem_type": "regression",
    }
    config = DLRConfig(**fields)
    network = DLRForTokenClassification(config)
    if gated is not None:
        network.model.layers[-1].set_submodule("mixer", gated(config))
    return network


def examples_of(problem: Problem, split: Literal["train", "validation"], count: int, seed: int) -> dict[str, Tensor]:
    """Inputs [count, L, features] and labels [count, L, values], from the cache of 🤗 Datasets if they are there."""
    return load_task(problem.task, split=split, num_examples=count, seed=seed, **problem.options)[:]


@torch.no_grad()
def score_of(network: nn.Module, examples: Mapping[str, Tensor]) -> float:
    """R² of all values."""
    outputs = [network(input_values=x, use_cache=False).logits for x in examples["input_values"].split(64)]
    found = R2().compute(predictions=torch.cat(outputs).flatten(), references=examples["labels"].flatten())
    return cast("dict[str, float]", found)["r2"]


def measure(row: Row, steps: int | None = None, lines: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Train and score a model.

    Args:
        row: of `ROWS`.
        steps: instead of those of the problem.
        lines: results so far, which give the better rate; None reads the file.
    """
    problem, steps = PROBLEMS[row.problem], steps or PROBLEMS[row.problem].steps
    lines = load(RESULTS / "gates.json") if lines is None else lines
    rate = better_rate(runs_of(lines, row.problem, row.model)) if row.rate == BETTER else row.rate
    training = examples_of(problem, "train", BATCH_SIZE * steps, row.seed)
    validation = examples_of(problem, "validation", VALIDATION, row.seed)
    torch.manual_seed(row.seed)
    network = build(row.model, training)
    optimizer = torch.optim.AdamW(parameter_groups(network, rate, 0.0, STATE_RATE), lr=rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    curve, began = [], time.process_time()
    batches = zip(*(training[name].split(BATCH_SIZE) for name in ("input_values", "labels")), strict=True)
    for step, (inputs, labels) in enumerate(batches, start=1):
        optimizer.zero_grad()
        network(input_values=inputs, labels=labels, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % (steps // 5) == 0:
            curve.append((step, round(score_of(network.eval(), validation), 4)))
            network.train()
    return {
        "learning_rate": rate,
        "steps": steps,
        "parameters": sum(each.numel() for each in network.parameters()),
        "score": curve[-1][1],
        "curve": curve,
        "cpu_seconds": round(time.process_time() - began),
    }


def runs_of(lines: Sequence[Mapping[str, Any]], problem: str, model: str) -> list[Mapping[str, Any]]:
    """The runs of a model on a problem."""
    return [line for line in lines if (line["problem"], line["model"]) == (problem, model)]


def gains(lines: Sequence[Mapping[str, Any]], hybrid: str) -> list[str]:
    """The tasks on which a hybrid has a mean score higher than DLR with local attention by more than `GAIN`.

    A task that has several lengths counts if that is so at each of them.
    """

    def score(problem: str, model: str) -> float:
        return mean(run["score"] for run in best_runs(runs_of(lines, problem, model)))

    lost = {each.task for name, each in PROBLEMS.items() if score(name, hybrid) - score(name, PEER) <= GAIN}
    return sorted({each.task for each in PROBLEMS.values()} - lost)


def verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """Whether to build a mixer with gates, in one sentence; or that rows are missing."""
    done = {(line["problem"], line["model"], line["seed"], line["rate"]) for line in lines}
    needed = {tuple(row) for row in ROWS if row.model in (*HYBRIDS, PEER)}
    if missing := needed - done:
        return f"Undecided: {len(missing)} of the {len(needed)} runs that decide are not done."
    won = {hybrid: gains(lines, hybrid) for hybrid in HYBRIDS}
    words = "; ".join(f"{name}: {', '.join(f'`{task}`' for task in tasks) or 'none'}" for name, tasks in won.items())
    worth = any(len(tasks) >= TASKS for tasks in won.values())
    return (
        f"Tasks with a gain of more than {GAIN} over {PEER}: {words}. A mixer with gates "
        f"{'is worth building' if worth else 'is not worth building'}."
    )


def table(results: Path) -> str:
    """A line for each problem, for `benchmarks/render.py`: means over seeds; and the verdict."""
    lines = load(results / "gates.json")
    rows = []
    for problem, settings in PROBLEMS.items():
        by_model = [best_runs(runs_of(lines, problem, model)) for model in MODELS]
        seconds = [run["cpu_seconds"] for runs in by_model for run in runs]
        if seconds:
            span = f"{min(seconds)}-{max(seconds)}"
            rows.append([problem, *(cell(runs) for runs in by_model), f"{settings.steps:,}", span])
    header = ["task", *MODELS, "steps", "seconds of the processor"]
    return f"\n{markdown_table(header, rows)}\n\n{verdict(lines)}\n\n" if rows else ""


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "gates.json", ROWS, measure)
