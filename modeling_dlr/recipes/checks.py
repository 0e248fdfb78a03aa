"""Check a recipe and its options before any data are drawn or loaded."""

import sys
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from modeling_dlr.launch import check_processes
from modeling_dlr.resuming import newest_of_all, problem_of
from modeling_dlr.training import optimizer_for_trainer, parameter_groups

from .data import DataKind
from .folders import check_place
from .options import DrawnTask, RecipeOptions, Run, state_rate

# Options of recipes on a task only, and of recipes on a data set only.
OF_TASK = ("task", "task_options", "streaming", "data_seed_of_task", "num_proc")
OF_DATA = ("data", "dataset", "data_options")
# The smallest allowed value of each number.
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
# The head of each kind of data set.
HEADS_OF_DATA: dict[DataKind, str] = {
    "texts": "per_sequence",
    "text_pairs": "per_pair",
    "grey_images": "per_image",
    "recordings": "per_recording",
}


def check_options(recipe: str, options: RecipeOptions, training: TrainingArguments, *, on_data: bool) -> None:
    """Check the options of a recipe.

    Raises:
        ValueError: for data set options of a recipe on a task or the reverse, numbers that are too small, a learning
            rate that is neither a number nor JSON, a task without a number of steps or examples, a data set without
            a name, a folder to start from without a model, an output folder that cannot be written, a logger that is
            not installed, or a missing checkpoint.
    """
    check_processes(training)
    kind, others = ("data set", OF_TASK) if on_data else ("task", OF_DATA)
    for each in fields(RecipeOptions):
        value = getattr(options, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in others and value != default:
            raise ValueError(f"Recipe {recipe!r} uses a {kind}, which has no --{each.name}, got {value!r}.")
    for of, numbers in ((options, LEAST), (training, LEAST_IN_TRAINING)):
        for name, least in numbers.items():
            value = getattr(of, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}.")
    if options.start_from and not (Path(options.start_from) / "config.json").is_file():
        raise ValueError(f"--start_from must be a folder with a model, got {options.start_from!r}.")
    check_place("--output_dir", str(training.output_dir))
    if on_data and options.dataset is None and not options.smoke:
        raise ValueError("The Hub has no data for this recipe: give a folder or file with --dataset.")
    if not on_data and training.max_steps <= 0 and not options.num_train:
        raise ValueError(
            f"A recipe on a task needs the number of steps or examples: set --max_steps above 0, got "
            f"{training.max_steps}, or --num_train."
        )
    state_rate(options.state_learning_rate)
    check_loggers(training)
    check_checkpoint(training)


def check_loggers(training: TrainingArguments) -> None:
    """Check that the loggers of --report_to are installed."""
    there_are = get_available_reporting_integrations()
    for name in training.report_to or ():
        if name not in there_are:
            raise ValueError(f"--report_to must be none or an installed logger, {there_are}, got {name!r}.")


def check_best(training: TrainingArguments, metrics: Collection[str]) -> None:
    """Check that the metric which selects the best checkpoint is computed.

    Raises:
        ValueError: if it is not.
    """
    given = training.metric_for_best_model
    if given is not None and given.removeprefix("eval_") not in metrics:
        raise ValueError(f"--metric_for_best_model must be one of {sorted(metrics)}, got {given!r}.")


def check_checkpoint(training: TrainingArguments) -> None:
    """Check that there is a complete checkpoint to resume from; with True or auto, select the newest one.

    With auto, training begins at step 0 if there is none.
    """
    given = training.resume_from_checkpoint
    if not given:
        return
    only_model = training.save_only_model
    if given is not True and given != "auto":
        if not Path(given).is_dir():
            raise ValueError(f"--resume_from_checkpoint must be a folder, got {given}.")
        problem = problem_of(Path(given), training.world_size, only_model=only_model)
        if problem is not None:
            raise ValueError(f"The checkpoint {given} is incomplete, {problem}: resume from another one.")
        return
    folder = Path(str(training.output_dir))
    newest, broken = newest_of_all(folder, training.world_size, only_model=only_model)
    named = "; ".join(f"{path.name} is incomplete, {problem}" for path, problem in broken.items())
    if newest is None and given is True:
        raise ValueError(
            f"There is no complete checkpoint in {folder}{f' ({named})' if named else ''}: name one with "
            "--resume_from_checkpoint, or omit this option to start from step 0."
        )
    if named and training.process_index == 0:
        print(f"Resuming from {'step 0' if newest is None else newest.name}: {named}.", file=sys.stderr)
    training.resume_from_checkpoint = None if newest is None else str(newest)


def check_answers(run: Run) -> None:
    """Check that --head and --answers fit the task or data set.

    Raises:
        ValueError: if one of them does not.
    """
    given, answers = run.options, ["classes", "rare_classes"]
    if isinstance(run.source, DrawnTask):
        labels = run.source.task.features["labels"]
        name, right = run.source.name, "per_sequence" if isinstance(labels, datasets.Value) else "per_step"
        answers = ["values"] if isinstance(labels, datasets.Array2D) else answers
    else:
        name, right = f"data of the kind {given.data}", HEADS_OF_DATA[given.data or "texts"]
    if given.head != right:
        raise ValueError(f"The head of {name} must be {right}, got {given.head}: set --head {right}.")
    if given.answers not in answers:
        raise ValueError(f"The answers of {name} must be {' or '.join(answers)}, got {given.answers}: set --answers.")


def check_model(run: Run, model_class: Callable[..., Any]) -> None:
    """Build the model on the meta device, group its parameters, and run it on a row of the task.

    Raises:
        ValueError: for a learning rate of parameters that do not exist, or rows that are too long for the kernels.
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
