"""Train a recipe of configuration/recipes/ on its task with the stock Trainer.

    python examples/train.py twin-atomic-dlr --output_dir outputs/shift
    python examples/train.py twin-atomic-dlr --task cumsum --task_options length=256 --learning_rate 1e-3
    python examples/train.py listops-subtrees-dlr --report_to tensorboard --push_to_hub

Whatever the recipe says may be said otherwise: `--model_options` and `--task_options` take `name=value` pairs, and
every field of `TrainingArguments` is an option, so the best checkpoint is kept, `--resume_from_checkpoint` goes on from
one, and `--push_to_hub` uploads.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from common import RECIPES, load_recipe
from transformers import EvalPrediction, HfArgumentParser, Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.metrics import (
    R2,
    BalancedAccuracy,
    BatchBalancedAccuracy,
    BatchMacroF1,
    BatchMaskedAccuracy,
    BatchR2,
    MacroF1,
    MaskedAccuracy,
)
from modeling_dlr.tasks import Task, TaskName, build_task, load_task
from modeling_dlr.training import optimizer_for_trainer
from modeling_dlr.weighted_loss import class_weighted_loss

HEADS = {"per_step": DLRForTokenClassification, "per_sequence": DLRForSequenceClassification}
# One row per kind of answer: the problem type, and the metrics over all examples and as the paper averages them.
METRICS: dict[str, tuple[str, list[Any], list[Any]]] = {
    "values": ("regression", [R2], [BatchR2]),
    "classes": ("single_label_classification", [MaskedAccuracy], [BatchMaskedAccuracy]),
    "rare_classes": (
        "single_label_classification",
        [MacroF1, BalancedAccuracy],
        [BatchMacroF1, BatchBalancedAccuracy],
    ),
}
LOSSES: dict[str, Callable[..., Any] | None] = {"values": None, "classes": None, "rare_classes": class_weighted_loss}
# The keys of a training.json of a task, and what --smoke makes of the recipe.
KEYS = {
    *("task", "task_options", "head", "answers", "num_train", "num_validation", "streaming", "state_learning_rate"),
    *("decay_vectors", "training_arguments"),
}
SMOKE_MODEL = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 8}
SMOKE_LISTOPS = {"min_length": 4, "max_length": 48, "max_depth": 5, "max_args": 4}
SMOKE_TASK: dict[str, dict[str, Any]] = {
    "listops": SMOKE_LISTOPS,
    "listops_subtrees": SMOKE_LISTOPS,
    "pathfinder": {"resolution": 32},
    "pathfinder_segmentation": {"resolution": 32},
}
SMOKE_TRAINING = {
    "max_steps": 2,
    "eval_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 1,
}


@dataclass
class RecipeOptions:
    """What is said of a recipe beside the fields of `TrainingArguments`; the defaults are the recipe's."""

    task: TaskName = field(metadata={"help": "what is learned"})
    num_validation: int = field(metadata={"help": "examples to be scored"})
    answers: Literal["values", "classes", "rare_classes"] = field(metadata={"help": "which loss and metrics"})
    head: Literal["per_step", "per_sequence"] = field(metadata={"help": "an answer per step or per sequence"})
    num_train: int | None = field(
        default=None, metadata={"help": "examples to train on; default: as many as all steps need, each seen once"}
    )
    streaming: bool = field(default=False, metadata={"help": "draw the training examples as they are needed"})
    decay_vectors: bool = field(default=False, metadata={"help": "biases, norms and D decay, too"})
    state_learning_rate: str = field(
        default="null", metadata={"help": "of the kernels: a number, or JSON such as '{\"weights\": 1e-4}'"}
    )
    task_options: list[str] = field(default_factory=list, metadata={"help": "such as length=512"})
    model_options: list[str] = field(
        default_factory=list, metadata={"help": "such as num_hidden_layers=6 kernel_parameters.read_out=prod"}
    )
    data_seed_of_task: int = field(default=0, metadata={"help": "of the examples"})
    num_proc: int = field(default=1, metadata={"help": "processes that draw examples"})
    smoke: bool = field(default=False, metadata={"help": "two steps of a tiny model, to see that everything runs"})


class Run(NamedTuple):
    """All that a run is made of."""

    config: DLRConfig
    task: Task
    options: RecipeOptions
    training: TrainingArguments
    task_options: dict[str, Any]


def read_run(recipe: str, arguments: Sequence[str]) -> Run:
    """A recipe with the options of a command line.

    Raises:
        ValueError: for an unknown recipe, or a key of its training.json that nothing reads.
    """
    known = sorted(path.parent.name for path in RECIPES.glob("*/training.json"))
    if recipe not in known:
        raise ValueError(f"There is no recipe {recipe!r} in {RECIPES.name}/; there are {known}.")
    fields, written = load_recipe(recipe)
    unknown = sorted(written.keys() - KEYS)
    if unknown:
        raise ValueError(f"Recipe {recipe!r}: nothing reads {unknown} of its training.json; known are {sorted(KEYS)}.")
    training_defaults = written["training_arguments"]
    if "--smoke" in arguments:
        training_defaults = training_defaults | SMOKE_TRAINING
    plain = {key: value for key, value in written.items() if key not in ("training_arguments", "task_options")}
    plain["state_learning_rate"] = json.dumps(written.get("state_learning_rate"))
    parser = HfArgumentParser([RecipeOptions, TrainingArguments])
    for action in parser._actions:
        action.required = False
    parser.set_defaults(**{"output_dir": f"outputs/{recipe}", "report_to": "none"} | training_defaults | plain)
    options, training = parser.parse_args_into_dataclasses(args=list(arguments))

    same = options.task == written["task"]
    task_options = {name: value for name, value in written["task_options"].items() if same or name == "length"}
    if options.smoke:
        task_options = SMOKE_TASK.get(options.task, {"length": 32})
        options.num_train, options.num_validation, options.streaming = 4, 2, False
        kinds = {"layer_types": fields["layer_types"][:1]} if "layer_types" in fields else {}
        fields = fields | SMOKE_MODEL | kinds
    task_options = task_options | parse_pairs("--task_options", options.task_options)
    task: Any = build_task(options.task, task_options)
    sizes: dict[str, Any] = {"num_labels": task.num_labels, "problem_type": METRICS[options.answers][0]}
    if "input_size" in fields:
        sizes["input_size"] = task.input_size
    config_fields: dict[str, Any] = merged(fields, parse_pairs("--model_options", options.model_options)) | sizes
    config = DLRConfig(**config_fields)
    return Run(config, task, options, training, task_options)


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
    """Fields with changes; ``kernel_parameters.name`` is one of that dictionary."""
    changed = dict(fields)
    for name, value in changes.items():
        outer, dot, inner = name.partition(".")
        changed[outer] = {**changed.get(outer, {}), inner: value} if dot else value
    return changed


def scores(answers: str, labels_per_batch: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """What the Trainer calls to score all predictions."""
    _, overall, batched = METRICS[answers]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predictions, references = np.asarray(prediction.predictions).ravel(), np.asarray(prediction.label_ids).ravel()
        found: dict[str, float] = {}
        for metric in overall:
            found |= metric().compute(predictions=predictions, references=references)
        for metric in batched:
            batch = min(labels_per_batch, len(references))
            found |= metric().compute(predictions=predictions, references=references, batch_size=batch)
        return found

    return compute


def train(run: Run) -> dict[str, float]:
    """Train, score the best checkpoint, and save it; the metrics of the validation examples."""
    options, training = run.options, run.training
    examples_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    data: dict[str, Any] = {"seed": options.data_seed_of_task, "num_proc": options.num_proc, **run.task_options}
    train_data = load_task(
        options.task,
        split="train",
        num_examples=options.num_train or training.max_steps * examples_per_step,
        streaming=options.streaming,
        **data,
    )
    validation = load_task(options.task, split="validation", num_examples=options.num_validation, **data)
    set_seed(training.seed)
    model = HEADS[options.head](run.config)
    labels_per_batch = validation[0]["labels"].numel() * training.eval_batch_size
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=train_data,
        eval_dataset=validation,
        compute_metrics=scores(options.answers, labels_per_batch),
        preprocess_logits_for_metrics=None if options.answers == "values" else lambda logits, labels: logits.argmax(-1),
        compute_loss_func=LOSSES[options.answers],
        optimizer_cls_and_kwargs=optimizer_for_trainer(
            training, json.loads(options.state_learning_rate), decay_vectors=options.decay_vectors
        ),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if training.push_to_hub:
        trainer.push_to_hub()
    return metrics


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run a recipe; returns the metrics."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(f"{__doc__}\nRecipes are the folders of {RECIPES}.")
    run = read_run(arguments[0], arguments[1:])
    metrics = train(run)
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    print(f"The model is in {Path(str(run.training.output_dir))}")
    return metrics


if __name__ == "__main__":
    main()
