"""The card of a recipe's model: what was run, on what, and what it scored."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import RESULTS, last_part
from datasets import Dataset
from recipe_data import Prepared
from recipe_options import DrawnTask, Run, examples_to_draw
from transformers import Trainer

from hub_upload.callback import CardCallback
from hub_upload.card import CardOptions, write_card


def attach_card(trainer: Trainer, run: Run, prepared: Prepared) -> None:
    """Let the trainer's `create_model_card`, which a push calls, too, write results.json and the card of this run."""
    options = CardOptions(dataset=name_of_data(run), picture=not run.options.smoke)
    write_scores = CardCallback(options).attach(trainer).create_model_card

    def create_model_card(*_given: Any, **_named: Any) -> None:
        write_scores()
        if trainer.is_world_process_zero():
            results = Path(str(run.training.output_dir), RESULTS)
            said = json.loads(results.read_text(encoding="utf-8")) | what_was_run(run, prepared)
            results.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
            write_card(results.parent, options)

    trainer.create_model_card = create_model_card


def what_was_run(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What results.json holds beside the scores; of paths only the last part, and no token, for it is published."""
    train = prepared.train.data
    rows = {"train": len(train) if isinstance(train, Dataset) else examples_to_draw(run.options, run.training)}
    rows["validation"] = len(prepared.validation.data)
    if "test" in prepared.at_the_end:
        rows["test"] = len(prepared.at_the_end["test"].data)
    said = ["=".join(map(last_part, argument.split("="))) for argument in run.arguments]
    command = shlex.join(["python", "examples/train.py", run.recipe, *said])
    return {
        "recipe": asdict(run.options) | {"name": run.recipe, "dataset": name_of_data(run)},
        "data": {"rows": rows},
        "command": command.replace(run.training.hub_token or "\n", "…"),
        "seed": run.training.seed,
    }


def name_of_data(run: Run) -> str | None:
    """The task, the data set of the Hub, or the last part of the path of one that is here."""
    if isinstance(run.source, DrawnTask):
        return run.source.name
    dataset = run.options.dataset
    return Path(dataset).resolve().name if dataset and Path(dataset).exists() else dataset
