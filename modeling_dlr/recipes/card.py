"""The model card of a recipe: what was run, on which data, and the scores."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset

from .data import Prepared
from .folders import last_part
from .options import DrawnTask, Run, examples_to_draw

# Makes the callback that writes the card, of the name of the data, whether to draw the kernels, and what was run.
MakeCard = Callable[[str | None, bool, dict[str, Any]], Any]


def card_of(run: Run, prepared: Prepared, make_card: MakeCard) -> Any:
    """The callback that writes the card after training and after each later evaluation."""
    return make_card(name_of_data(run), not run.options.smoke, what_was_run(run, prepared))


def what_was_run(run: Run, prepared: Prepared) -> dict[str, Any]:
    """The content of results.json except the scores.

    The file is published, so absolute paths are reduced to their last part, and the token is left out.
    """
    train = prepared.train.data
    rows = {"train": len(train) if isinstance(train, Dataset) else examples_to_draw(run.options, run.training)}
    rows["validation"] = len(prepared.validation.data)
    if "test" in prepared.at_the_end:
        rows["test"] = len(prepared.at_the_end["test"].data)
    said = ["=".join(map(last_part, argument.split("="))) for argument in run.arguments]
    command = shlex.join(["modeling-dlr", "recipes", "run", run.recipe, *said])
    return {
        "recipe": asdict(run.options) | {"name": run.recipe, "dataset": name_of_data(run)},
        "data": {"rows": rows},
        "command": command.replace(run.training.hub_token or "\n", "…"),
        "seed": run.training.seed,
    }


def name_of_data(run: Run) -> str | None:
    """The name of the task or of the Hub data set, or the last part of a local path."""
    if isinstance(run.source, DrawnTask):
        return run.source.name
    dataset = run.options.dataset
    return Path(dataset).resolve().name if dataset and Path(dataset).exists() else dataset
