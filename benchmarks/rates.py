"""The learning rates of compared models: the first seed trains with each of two, the others with the better one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

RATES = (1e-3, 3e-3)
# The rate of the other seeds in the settings of a run.
BETTER: Literal["better"] = "better"
# The seeds and rates of the runs of a model on a task: those of the first seed, and those of the others.
FIRST_RUNS = tuple((0, rate) for rate in RATES)
OTHER_RUNS = tuple((seed, BETTER) for seed in (1, 2))

Line = Mapping[str, Any]


def better_rate(lines: Sequence[Line]) -> float:
    """The rate with the best score of the first seed, of the runs of one model on one task.

    Raises:
        ValueError: if the run of a rate is missing.
    """
    scores = {line["rate"]: line["score"] for line in lines if line["seed"] == 0}
    if missing := [rate for rate in RATES if rate not in scores]:
        raise ValueError(f"The better learning rate is not known without seed 0 at {missing}: save these rows first.")
    return max(RATES, key=lambda rate: scores[rate])


def best_runs(lines: Sequence[Line]) -> list[Line]:
    """One run of each seed, of the runs of one model on one task: of the first seed, the one with the best score."""
    first = sorted((line for line in lines if line["seed"] == 0), key=lambda line: line["score"])[-1:]
    return first + [line for line in lines if line["seed"]]
