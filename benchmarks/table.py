"""Train one layer on the atomic tasks, to test the findings of the DLR paper (arXiv 2212.00768) on a laptop.

    python benchmarks/table.py --json --save --threads 1                # every run; saved runs are skipped
    python benchmarks/table.py --json --save --threads 1 --rows 0 1 2

A run trains a twin recipe of configuration/recipes/ with `modeling-dlr recipes`, in a separate process. The short runs
have the learning rate of their recipe. The long ones, `LONG`, have each rate of `rates.py` and one seed, and then the
better rate and other seeds; they begin with the claims of docs/tasks.md that short runs leave undecided. To add other
seeds, models, lengths or recipes, add rows.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from measure import RESULTS, load, run_benchmark
from rates import BETTER, FIRST_RUNS, OTHER_RUNS, better_rate

from modeling_dlr.tasks import TASKS

ATOMIC = [name for name in TASKS if not name.startswith(("listops", "pathfinder"))]
CHEAP = ("shift", "cumsum")
LINES = RESULTS / "atomic_tasks.json"


class Row(NamedTuple):
    """One run: a recipe on a task, with a random seed, a number of steps, and a learning rate.

    The rate is that of the recipe, a number, or the better one of the runs with seed 0 and as many steps.
    """

    task: str
    recipe: str
    seed: int
    steps: int
    rate: float | Literal["recipe", "better"] = "recipe"


MODELS = ("dlr", "attention")
SHORT = [
    *(Row(task, f"twin-atomic-{model}", 0, 1500) for task in ATOMIC for model in MODELS),
    *(Row("listops_subtrees", f"twin-listops-subtrees-{model}", 0, 800) for model in MODELS),
    *(Row("pathfinder_segmentation", f"twin-pathfinder-segmentation-{model}", 0, 500) for model in MODELS),
    *(Row(task, f"twin-atomic-{model}", seed, 1500) for seed in (1, 2) for task in CHEAP for model in MODELS),
    *(Row(task, "twin-atomic-dss", 0, 1500) for task in ATOMIC),
]
# The tasks of the claims: those that no layer learned in the short runs, the one that disagrees, and the others.
BY_DOUBT = ("context_shift", "masked_select", "reverse", "solve", "sort", "solve_fixed")
BY_DOUBT += tuple(task for task in ATOMIC if task not in BY_DOUBT)
LONG_STEPS = 6000
# Attention comes first: where it learns nothing, a claim stays undecided whatever the others do.
LONG = [
    Row(task, f"twin-atomic-{model}", seed, LONG_STEPS, rate)
    for runs in (FIRST_RUNS, OTHER_RUNS)
    for models in (("attention", "dlr"), ("hybrid", "dss"))
    for task in BY_DOUBT
    for model in models
    for seed, rate in runs
]
ROWS = [*SHORT, *LONG]
# The score of a task is the first of these metrics that it has.
SCORES = ("eval_r2", "eval_f1_macro", "eval_accuracy")


def runs_like(lines: Sequence[Mapping[str, Any]], row: Row) -> list[Mapping[str, Any]]:
    """The runs of this recipe on this task with as many steps."""
    same = (row.task, row.recipe, row.steps)
    return [line for line in lines if (line["task"], line["recipe"], line["steps"]) == same]


def options_of(row: Row, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command line of a run after `modeling-dlr`; ``lines`` are the results so far."""
    rate = better_rate(runs_like(lines, row)) if row.rate == BETTER else row.rate
    return [
        *("recipes", "run", row.recipe, "--task", row.task, "--max_steps", str(row.steps)),
        *("--eval_steps", str(min(row.steps // 5, 300)), "--num_validation", "160", "--save_strategy", "no"),
        *("--load_best_model_at_end", "False", "--seed", str(row.seed), "--data_seed_of_task", str(row.seed)),
        *(() if rate == "recipe" else ("--learning_rate", str(rate))),
    ]


def measure(row: Row) -> dict[str, Any]:
    """Run the recipe; return the score after the last step, the earlier scores, seconds, and the command."""
    command = options_of(row, load(LINES))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "modeling_dlr.cli", *command, "--output_dir", folder, "--disable_tqdm", "True"]
        started = time.perf_counter()
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, env=os.environ | threads)
        seconds = time.perf_counter() - started
        state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    scored = [entry for entry in state["log_history"] if "eval_loss" in entry]
    name = next(score for score in SCORES if score in scored[0])
    curve = {entry["step"]: round(entry[name], 4) for entry in scored}
    return {
        "metric": name.removeprefix("eval_"),
        "score": curve[row.steps],
        "batch_mean": round(scored[-1][f"{name}_batch_mean"], 4),
        "curve": list(curve.items()),
        "seconds": round(seconds),
        "command": " ".join(["modeling-dlr", *command]),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, LINES, ROWS, measure)
