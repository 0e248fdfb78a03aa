"""Train one layer on the atomic tasks, to test the findings of the DLR paper (arXiv 2212.00768) on a laptop.

    python benchmarks/table.py --json                       # every run; each is printed when it is done
    python benchmarks/table.py --json --save --rows 0 1 2   # save to results/; saved runs are skipped

A run trains a twin recipe of configuration/recipes/ with `modeling-dlr recipes`, in a separate process. To add
other seeds, models, lengths or recipes, add rows.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from measure import RESULTS, run_benchmark

from modeling_dlr.tasks import TASKS

ATOMIC = [name for name in TASKS if not name.startswith(("listops", "pathfinder"))]
CHEAP = ("shift", "cumsum")


class Row(NamedTuple):
    """One run: a recipe on a task, with a random seed and a number of steps."""

    task: str
    recipe: str
    seed: int
    steps: int


MODELS = ("dlr", "attention")
ROWS = [
    *(Row(task, f"twin-atomic-{model}", 0, 1500) for task in ATOMIC for model in MODELS),
    *(Row("listops_subtrees", f"twin-listops-subtrees-{model}", 0, 800) for model in MODELS),
    *(Row("pathfinder_segmentation", f"twin-pathfinder-segmentation-{model}", 0, 500) for model in MODELS),
    *(Row(task, f"twin-atomic-{model}", seed, 1500) for seed in (1, 2) for task in CHEAP for model in MODELS),
    *(Row(task, "twin-atomic-dss", 0, 1500) for task in ATOMIC),
]
# The score of a task is the first of these metrics that it has.
SCORES = ("eval_r2", "eval_f1_macro", "eval_accuracy")


def measure(row: Row) -> dict[str, Any]:
    """Run the recipe; return the score after the last step, the earlier scores, seconds, and the command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("recipes", "run", row.recipe, "--task", row.task, "--max_steps", str(row.steps)),
            *("--eval_steps", str(row.steps // 5), "--num_validation", "160", "--save_strategy", "no"),
            *("--load_best_model_at_end", "False", "--seed", str(row.seed), "--data_seed_of_task", str(row.seed)),
        ]
        run = [sys.executable, "-m", "modeling_dlr.cli", *command, "--output_dir", folder, "--disable_tqdm", "True"]
        started = time.perf_counter()
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
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
    run_benchmark(__doc__, RESULTS / "atomic_tasks.json", ROWS, measure)
