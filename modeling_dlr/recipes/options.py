"""Command-line options of recipes, in addition to the fields of `TrainingArguments`."""

import contextlib
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from transformers import HfArgumentParser, TrainingArguments

from modeling_dlr import DLRConfig
from modeling_dlr.tasks import TaskName

from .data import ClassifiedData, DataKind


@dataclass
class RecipeOptions:
    """Options of a recipe in addition to the fields of `TrainingArguments`; the recipe gives the defaults."""

    answers: Literal["values", "classes", "rare_classes"] = field(metadata={"help": "selects the loss and the metrics"})
    head: Literal["per_step", "per_sequence", "per_pair", "per_image", "per_recording"] = field(
        metadata={"help": "what the model predicts a value or class for"}
    )
    task: TaskName | None = field(default=None, metadata={"help": "the task, for a recipe on a task"})
    data: DataKind | None = field(default=None, metadata={"help": "the kind of data, for a recipe on a data set"})
    dataset: str | None = field(default=None, metadata={"help": "folder, file, or name on the Hub of the data set"})
    num_validation: int | None = field(
        default=None, metadata={"help": "number of validation examples; default for a data set: all"}
    )
    num_train: int | None = field(
        default=None, metadata={"help": "number of training examples; default: enough for all steps, or the data set"}
    )
    streaming: bool = field(default=False, metadata={"help": "draw the training examples when they are needed"})
    decay_vectors: bool = field(default=False, metadata={"help": "apply weight decay to biases, norms and D, too"})
    state_learning_rate: str = field(
        default="null",
        metadata={"help": "learning rate of the kernels: a number, or JSON such as '{\"weights\": 1e-4}'"},
    )
    task_options: list[str] = field(default_factory=list, metadata={"help": "such as length=512"})
    data_options: list[str] = field(default_factory=list, metadata={"help": "such as label=category"})
    model_options: list[str] = field(
        default_factory=list, metadata={"help": "such as num_hidden_layers=6 kernel_parameters.read_out=prod"}
    )
    data_seed_of_task: int = field(default=0, metadata={"help": "random seed of the task's examples"})
    num_proc: int = field(default=1, metadata={"help": "number of processes that draw examples"})
    objective: Literal["labels", "masked"] = field(
        default="labels", metadata={"help": "what is learned: the labels, or hidden spans of the inputs"}
    )
    start_from: str | None = field(
        default=None, metadata={"help": "folder of a run whose layers training starts from, such as one of masked"}
    )
    smoke: bool = field(default=False, metadata={"help": "two steps of a tiny model, to check that everything runs"})


class DrawnTask(NamedTuple):
    """A task with its options, from which examples are drawn."""

    name: TaskName
    options: dict[str, Any]
    task: Any


class Run(NamedTuple):
    """A run: the recipe, the command-line arguments, and everything built from them."""

    recipe: str
    arguments: list[str]
    config: DLRConfig
    source: DrawnTask | ClassifiedData
    options: RecipeOptions
    training: TrainingArguments


def options_parser() -> HfArgumentParser:
    """Build the parser of all options; none is required."""
    parser = HfArgumentParser([RecipeOptions, TrainingArguments])
    for action in parser._actions:
        action.required = False
    return parser


def asks_for(arguments: Sequence[str]) -> Namespace:
    """What is set of ``smoke`` and ``objective``, in any spelling; they change the defaults of other options."""
    return options_parser().parse_known_args(list(arguments))[0]


def state_rate(written: str) -> float | dict[str, float] | None:
    """Parse the learning rate of the kernels: one number, or one for each kind of kernel parameter.

    Raises:
        ValueError: if it is neither.
    """
    with contextlib.suppress(json.JSONDecodeError):
        rate = json.loads(written)
        rates = rate.values() if isinstance(rate, dict) else [] if rate is None else [rate]
        if all(type(each) in (int, float) for each in rates):
            return rate
    raise ValueError(
        f"--state_learning_rate must be a number, or JSON such as '{{\"weights\": 1e-4}}', got {written!r}."
    )


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs; a value is JSON, or a text if it is not valid JSON."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} must be name=value pairs, got {pair!r}.")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply changes to fields; ``kernel_parameters.name`` changes one key of that dictionary.

    Raises:
        ValueError: for a dot after a field that is not a dictionary.
    """
    changed = dict(fields)
    for name, value in changes.items():
        outer, dot, inner = name.partition(".")
        if dot and not isinstance(changed.get(outer, {}), Mapping):
            raise ValueError(f"--model_options: {outer} is not a dictionary, so it has no {name}.")
        changed[outer] = {**changed.get(outer, {}), inner: value} if dot else value
    return changed


def examples_to_draw(options: RecipeOptions, training: TrainingArguments) -> int:
    """Number of training examples of a task: ``num_train``, or enough for all steps."""
    examples_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return options.num_train or training.max_steps * examples_per_step
