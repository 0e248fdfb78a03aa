"""What may be said of a recipe on the command line, beside the fields of `TrainingArguments`."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from recipe_data import ClassifiedData, DataKind
from transformers import HfArgumentParser, TrainingArguments

from modeling_dlr import DLRConfig
from modeling_dlr.tasks import TaskName


@dataclass
class RecipeOptions:
    """What is said of a recipe beside the fields of `TrainingArguments`; the defaults are the recipe's."""

    answers: Literal["values", "classes", "rare_classes"] = field(metadata={"help": "which loss and metrics"})
    head: Literal["per_step", "per_sequence", "per_pair", "per_image", "per_recording"] = field(
        metadata={"help": "what has an answer"}
    )
    task: TaskName | None = field(default=None, metadata={"help": "what is learned, if it is a task"})
    data: DataKind | None = field(default=None, metadata={"help": "the kind of the data set, if it is one"})
    dataset: str | None = field(default=None, metadata={"help": "its folder, file, or name on the Hub"})
    num_validation: int | None = field(default=None, metadata={"help": "examples to be scored; of a data set, all"})
    num_train: int | None = field(
        default=None, metadata={"help": "examples to train on; of a task as many as all steps need, of a data set all"}
    )
    streaming: bool = field(default=False, metadata={"help": "draw the training examples as they are needed"})
    decay_vectors: bool = field(default=False, metadata={"help": "biases, norms and D decay, too"})
    state_learning_rate: str = field(
        default="null", metadata={"help": "of the kernels: a number, or JSON such as '{\"weights\": 1e-4}'"}
    )
    task_options: list[str] = field(default_factory=list, metadata={"help": "such as length=512"})
    data_options: list[str] = field(default_factory=list, metadata={"help": "such as label=category"})
    model_options: list[str] = field(
        default_factory=list, metadata={"help": "such as num_hidden_layers=6 kernel_parameters.read_out=prod"}
    )
    data_seed_of_task: int = field(default=0, metadata={"help": "of the examples"})
    num_proc: int = field(default=1, metadata={"help": "processes that draw examples"})
    smoke: bool = field(default=False, metadata={"help": "two steps of a tiny model, to see that everything runs"})


class DrawnTask(NamedTuple):
    """A task that examples are drawn of, with its options."""

    name: TaskName
    options: dict[str, Any]
    task: Any


class Run(NamedTuple):
    """All that a run is made of: the recipe, what else was said on the command line, and what follows from these."""

    recipe: str
    arguments: list[str]
    config: DLRConfig
    source: DrawnTask | ClassifiedData
    options: RecipeOptions
    training: TrainingArguments


def options_parser() -> HfArgumentParser:
    """Of all that may be said; nothing must be."""
    parser = HfArgumentParser([RecipeOptions, TrainingArguments])
    for action in parser._actions:
        action.required = False
    return parser


def asks_for_smoke(arguments: Sequence[str]) -> bool:
    """Whether ``--smoke`` is there, however it is written; it changes the defaults of other options."""
    return bool(options_parser().parse_known_args(list(arguments))[0].smoke)


def state_rate(written: str) -> float | dict[str, float] | None:
    """The learning rate of the kernels, or of each kind of their parameters.

    Raises:
        ValueError: if it is anything else.
    """
    with contextlib.suppress(json.JSONDecodeError):
        rate = json.loads(written)
        rates = rate.values() if isinstance(rate, dict) else [] if rate is None else [rate]
        if all(type(each) in (int, float) for each in rates):
            return rate
    raise ValueError(f"--state_learning_rate takes a number, or JSON such as '{{\"weights\": 1e-4}}', got {written!r}.")


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs; a value is JSON, or else text."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} takes name=value pairs, got {pair!r}.")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with changes; ``kernel_parameters.name`` is one of that dictionary.

    Raises:
        ValueError: for a dot after the name of anything else.
    """
    changed = dict(fields)
    for name, value in changes.items():
        outer, dot, inner = name.partition(".")
        if dot and not isinstance(changed.get(outer, {}), Mapping):
            raise ValueError(f"--model_options: {outer} is no dictionary, so there is no {name}.")
        changed[outer] = {**changed.get(outer, {}), inner: value} if dot else value
    return changed


def examples_to_draw(options: RecipeOptions, training: TrainingArguments) -> int:
    """Training examples of a task: as many as all steps need, unless another number is asked for."""
    examples_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return options.num_train or training.max_steps * examples_per_step
