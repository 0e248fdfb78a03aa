"""What of a recipe cannot be followed, said before any data are drawn or loaded."""

import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import datasets
import torch
from common import check_place
from recipe_data import DataKind
from recipe_options import DrawnTask, RecipeOptions, Run, state_rate
from resuming import newest_whole, problem_of
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from modeling_dlr.training import optimizer_for_trainer, parameter_groups

# The options that only a recipe on a task has, or only one on a data set.
OF_TASK = ("task", "task_options", "streaming", "data_seed_of_task", "num_proc")
OF_DATA = ("data", "dataset", "data_options")
# The least of each number.
LEAST = {"num_train": 1, "num_validation": 1, "data_seed_of_task": 0, "num_proc": 1}
LEAST_IN_TRAINING = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0,
    "dataloader_num_workers": 0,
    "logging_steps": 0,
    "eval_steps": 0,
    "save_steps": 0,
}
# What has an answer, by the kind of the data set.
HEADS_OF_DATA: dict[DataKind, str] = {
    "texts": "per_sequence",
    "text_pairs": "per_pair",
    "grey_images": "per_image",
    "recordings": "per_recording",
}


def check_options(recipe: str, options: RecipeOptions, training: TrainingArguments, *, on_data: bool) -> None:
    """See that the options can be followed.

    Raises:
        ValueError: for options of a data set where there is a task or the other way round, numbers that are too small,
            a rate that is neither a number nor JSON, a task without a number of steps or examples, a data set without
            a name, a place where no folder can be, a logger that is not there, and a checkpoint that is not.
    """
    kind, others = ("data set", OF_TASK) if on_data else ("task", OF_DATA)
    for each in fields(RecipeOptions):
        value = getattr(options, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in others and value != default:
            raise ValueError(f"Recipe {recipe!r} is on a {kind}, which has no --{each.name}, got {value!r}.")
    for of, numbers in ((options, LEAST), (training, LEAST_IN_TRAINING)):
        for name, least in numbers.items():
            value = getattr(of, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}.")
    check_place("--output_dir", str(training.output_dir))
    if on_data and options.dataset is None and not options.smoke:
        raise ValueError("The Hub has no data for this recipe: give the folder or file that holds them with --dataset.")
    if not on_data and training.max_steps <= 0 and not options.num_train:
        raise ValueError(
            f"The examples of a task are drawn for all steps: give --max_steps above 0, got {training.max_steps}, "
            "or --num_train."
        )
    state_rate(options.state_learning_rate)
    check_loggers(training)
    check_checkpoint(training)


def check_loggers(training: TrainingArguments) -> None:
    """See that what the run reports to is installed."""
    there_are = get_available_reporting_integrations()
    for name in training.report_to or ():
        if name not in there_are:
            raise ValueError(f"--report_to takes none, or what is installed, {there_are}, got {name!r}.")


def check_best(training: TrainingArguments, metrics: Collection[str]) -> None:
    """See that what decides about the best checkpoint is scored.

    Raises:
        ValueError: if it is not.
    """
    given = training.metric_for_best_model
    if given is not None and given.removeprefix("eval_") not in metrics:
        raise ValueError(f"--metric_for_best_model must be one of {sorted(metrics)}, got {given!r}.")


def check_checkpoint(training: TrainingArguments) -> None:
    """See that there is a whole checkpoint to go on from; where the newest shall be taken, choose that."""
    given = training.resume_from_checkpoint
    if not given:
        return
    only_model = training.save_only_model
    if given is not True:
        if not Path(given).is_dir():
            raise ValueError(f"--resume_from_checkpoint names {given}, which is no folder.")
        problem = problem_of(Path(given), training.world_size, only_model=only_model)
        if problem is not None:
            raise ValueError(f"The checkpoint {given} is not whole, {problem}: go on from another.")
        return
    folder = Path(str(training.output_dir))
    newest, broken = newest_whole(folder, training.world_size, only_model=only_model)
    named = "; ".join(f"{path.name} is not whole, {problem}" for path, problem in broken.items())
    if newest is None:
        raise ValueError(
            f"There is no checkpoint in {folder} to go on from{f' ({named})' if named else ''}: name one with "
            "--resume_from_checkpoint, or leave it out to begin anew."
        )
    if named and training.process_index == 0:
        print(f"Going on from {newest.name}: {named}.", file=sys.stderr)
    training.resume_from_checkpoint = str(newest)


def check_answers(run: Run) -> None:
    """See that head and answers are those of what is learned.

    Raises:
        ValueError: if one is another.
    """
    given, answers = run.options, ["classes", "rare_classes"]
    if isinstance(run.source, DrawnTask):
        labels = run.source.task.features["labels"]
        name, right = run.source.name, "per_sequence" if isinstance(labels, datasets.Value) else "per_step"
        answers = ["values"] if isinstance(labels, datasets.Array2D) else answers
    else:
        name, right = f"data of the kind {given.data}", HEADS_OF_DATA[given.data or "texts"]
    if given.head != right:
        raise ValueError(f"The head of {name} is {right}, got {given.head}: give the former to --head.")
    if given.answers not in answers:
        raise ValueError(
            f"The answers of {name} are {' or '.join(answers)}, got {given.answers}: give that to --answers."
        )


def check_model(run: Run, model_class: Callable[..., Any]) -> None:
    """Build the model without memory, part its parameters by their rates, and let it read a row of a task.

    Raises:
        ValueError: for a rate of parameters that there are not, and rows that are too long for the kernels.
    """
    rate = state_rate(run.options.state_learning_rate)
    _, optimizer = optimizer_for_trainer(run.training, rate, decay_vectors=run.options.decay_vectors)
    with torch.device("meta"):
        model = model_class(run.config).eval()
        parameter_groups(model, **optimizer["groups"])
        if not isinstance(run.source, DrawnTask):
            return
        for name, column in run.source.task.features.items():
            if name == "input_values":
                model(input_values=torch.zeros(1, *column.shape))
            elif name == "input_ids":
                model(input_ids=torch.zeros(1, column.length, dtype=torch.long))
