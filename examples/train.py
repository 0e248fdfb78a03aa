"""Train a recipe of configuration/recipes/ on its task or data set with the stock Trainer.

    python examples/train.py twin-atomic-dlr --output_dir outputs/shift
    python examples/train.py twin-atomic-dlr --task cumsum --task_options length=256 --learning_rate 1e-3
    python examples/train.py listops-subtrees-dlr --report_to trackio --push_to_hub
    python examples/train.py lra-cifar-dss --dataset folder/of/images --data_options image=image

Whatever the recipe says may be said otherwise: `--model_options`, `--task_options` and `--data_options` take
`name=value` pairs, and every field of `TrainingArguments` is an option, so the best checkpoint is kept,
`--resume_from_checkpoint` goes on from one, and `--push_to_hub` uploads. Data sets that cannot be drawn come from the
Hub, or from the folder or file that `--dataset` names.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from common import RECIPES, load_recipe
from recipe_data import ClassifiedData, DataKind, Prepared, View, build_kind
from recipe_sources import load_splits
from transformers import EvalPrediction, HfArgumentParser, Trainer, TrainingArguments, set_seed

from modeling_dlr import (
    DLRConfig,
    DLRForAudioClassification,
    DLRForImageClassification,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
)
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
from modeling_dlr.tasks import TASKS, TaskName, build_task, load_task
from modeling_dlr.training import optimizer_for_trainer
from modeling_dlr.weighted_loss import class_weighted_loss

HEADS: dict[str, Any] = {
    "per_step": DLRForTokenClassification,
    "per_sequence": DLRForSequenceClassification,
    "per_pair": DLRForSequencePairClassification,
    "per_image": DLRForImageClassification,
    "per_recording": DLRForAudioClassification,
}
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
# The keys of a training.json: those of every recipe, and those of one on a task or on a data set.
KEYS = {"head", "answers", "num_train", "num_validation", "state_learning_rate", "decay_vectors", "training_arguments"}
KEYS_OF_TASK, KEYS_OF_DATA = {"task", "task_options", "streaming"}, {"data", "dataset", "data_options"}
# Recipes that have an example of their own.
OTHER_EXAMPLES = {"bbc-news": "quickstart.py", "python-colours": "colour_code.py", "python-masked-lm": "fill_code.py"}
# What --smoke makes of a recipe.
SMOKE_MODEL = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 8}
SMOKE_LISTOPS = {"min_length": 4, "max_length": 48, "max_depth": 5, "max_args": 4}
SMOKE_TASK: dict[str, dict[str, Any]] = {
    "listops": SMOKE_LISTOPS,
    "listops_subtrees": SMOKE_LISTOPS,
    "pathfinder": {"resolution": 32},
    "pathfinder_segmentation": {"resolution": 32},
}
SMOKE_DATA: dict[str, dict[str, Any]] = {
    "texts": {"max_length": 8, "min_count": 1},
    "text_pairs": {"max_length": 8, "min_count": 1},
    "grey_images": {},
    "recordings": {"max_samples": 42},
}
SMOKE_TRAINING = {
    "max_steps": 2,
    "eval_strategy": "steps",
    "save_strategy": "steps",
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
    """All that a run is made of."""

    config: DLRConfig
    source: DrawnTask | ClassifiedData
    options: RecipeOptions
    training: TrainingArguments


def read_run(recipe: str, arguments: Sequence[str]) -> Run:
    """A recipe with the options of a command line.

    Raises:
        ValueError: for an unknown recipe, or a key of its training.json that nothing reads, naming the nearest.
    """
    fields, written = read_recipe(recipe)
    training_defaults = written["training_arguments"]
    plain = {key: value for key, value in written.items() if not key.endswith(("_arguments", "_options"))}
    if asks_for_smoke(arguments):
        training_defaults, plain = training_defaults | SMOKE_TRAINING, plain | {"dataset": None}
    plain["state_learning_rate"] = json.dumps(written.get("state_learning_rate"))
    parser = HfArgumentParser([RecipeOptions, TrainingArguments])
    for action in parser._actions:
        action.required = False
    named = {"output_dir": f"outputs/{recipe}", "run_name": recipe, "project": "modeling-dlr", "report_to": "none"}
    parser.set_defaults(**named | training_defaults | plain)
    options, training = parser.parse_args_into_dataclasses(args=list(arguments))
    check_options(recipe, options, training, on_data="data" in written)
    if training.resume_from_checkpoint in ("True", "true"):
        training.resume_from_checkpoint = True
    if options.smoke:
        kinds = {"layer_types": fields["layer_types"][:1]} if "layer_types" in fields else {}
        fields = fields | SMOKE_MODEL | kinds
        options.num_train, options.num_validation, options.streaming = 4, 2, False

    source = read_data(options, written) if options.data else read_task(options, written)
    sizes = {"problem_type": METRICS[options.answers][0]}
    if isinstance(source, DrawnTask):
        reads, has = ("input_size" in fields, "input_values" in source.task.features)
        if reads != has:
            kinds = {True: "real values", False: "tokens"}
            raise ValueError(
                f"Recipe {recipe!r} reads {kinds[reads]}, but {source.name} has {kinds[has]}: take a recipe of such."
            )
        values = {"input_size": source.task.input_size} if reads else {}
        sizes |= {"num_labels": source.task.num_labels} | values
    config_fields: Any = merged(fields, parse_pairs("--model_options", options.model_options)) | sizes
    return Run(DLRConfig(**config_fields), source, options, training)


def check_options(recipe: str, options: RecipeOptions, training: TrainingArguments, *, on_data: bool) -> None:
    """See that the options can be followed.

    Raises:
        ValueError: for a task in place of a data set or the other way round, options of the other, a rate that is
            neither a number nor JSON, and a task without a number of steps or examples.
    """
    kind, other, useless = (
        ("data set", "task_options", options.task_options)
        if on_data
        else ("task", "data_options", options.data_options)
    )
    if (options.data is not None) != on_data:
        raise ValueError(f"Recipe {recipe!r} is on a {kind}, and stays so.")
    if useless:
        raise ValueError(f"Recipe {recipe!r} is on a {kind}, which has no --{other}, got {useless}.")
    if not on_data and training.max_steps <= 0 and not options.num_train:
        raise ValueError(
            f"The examples of a task are drawn for all steps: give --max_steps above 0, got {training.max_steps}, "
            "or --num_train."
        )
    state_rate(options.state_learning_rate)


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


def asks_for_smoke(arguments: Sequence[str]) -> bool:
    """Whether ``--smoke`` is there, however it is written; it changes the defaults of other options."""
    parser = HfArgumentParser([RecipeOptions, TrainingArguments])
    for action in parser._actions:
        action.required = False
    return bool(parser.parse_known_args(list(arguments))[0].smoke)


def read_recipe(recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of its model, and its training.json.

    Raises:
        ValueError: as above.
    """
    known = sorted(path.parent.name for path in RECIPES.glob("*/training.json"))
    if recipe not in known:
        mine = [name for name in known if name not in OTHER_EXAMPLES]
        raise ValueError(f"There is no recipe {recipe!r} in {RECIPES.name}/; there are {mine}.")
    fields, written = load_recipe(recipe)
    if recipe in OTHER_EXAMPLES:
        raise ValueError(f"Recipe {recipe!r} is that of another example: python examples/{OTHER_EXAMPLES[recipe]}.")
    keys = KEYS | (KEYS_OF_DATA if "data" in written else KEYS_OF_TASK)
    arguments = {each.name for each in dataclasses.fields(TrainingArguments)}
    for what, given, read in (
        ("training.json", written, keys),
        ("training_arguments", written["training_arguments"], arguments),
    ):
        for key in given.keys() - read:
            near = difflib.get_close_matches(key, read, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {sorted(read)}."
            raise ValueError(f"Recipe {recipe!r}: nothing reads {key!r} of its {what}; {hint}")
    return fields, written


def read_data(options: RecipeOptions, written: Mapping[str, Any]) -> ClassifiedData:
    """The kind of a data set, with its options."""
    kind: Any = options.data
    smoke = SMOKE_DATA[kind] if options.smoke else {}
    return build_kind(kind, written["data_options"] | smoke | parse_pairs("--data_options", options.data_options))


def read_task(options: RecipeOptions, written: Mapping[str, Any]) -> DrawnTask:
    """A task; if it is another than the recipe's, of the recipe's options only the length holds."""
    name: Any = options.task
    kept = {each.name for each in dataclasses.fields(TASKS[name])} & {"length"}
    task_options = {
        key: value for key, value in written["task_options"].items() if name == written["task"] or key in kept
    }
    if options.smoke:
        task_options = SMOKE_TASK.get(name, {"length": 32})
    task_options = task_options | parse_pairs("--task_options", options.task_options)
    return DrawnTask(name, task_options, build_task(name, task_options))


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


def prepare(run: Run) -> Prepared:
    """Draw the examples of a task, or load a data set.

    Raises:
        ValueError: if a data set is needed and none is named.
    """
    options = run.options
    if isinstance(run.source, DrawnTask):
        return draw(run.source, options, run.training)
    if options.dataset is None and not options.smoke:
        raise ValueError("The Hub has no data for this recipe: give the folder or file that holds them with --dataset.")
    kind = run.source
    rows = load_splits(options.dataset, kind.files, kind.columns) if options.dataset else kind.stand_in()
    return kind.prepare(rows, options.num_train, options.num_validation)


def draw(source: DrawnTask, options: RecipeOptions, training: TrainingArguments) -> Prepared:
    """The examples of a task: of the training split as many as all steps need, unless another number is asked for."""
    examples_per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    given: Any = {"seed": options.data_seed_of_task, "num_proc": options.num_proc, **source.options}
    train_data = load_task(
        source.name,
        split="train",
        num_examples=options.num_train or training.max_steps * examples_per_step,
        streaming=options.streaming,
        **given,
    )
    count = options.num_validation or 0
    return Prepared(View(train_data), View(load_task(source.name, split="validation", num_examples=count, **given)))


def time_steps(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The logarithms of the time steps of all kernels that have such."""
    return [value for name, value in model.named_parameters() if name.endswith(".log_time_step")]


@contextlib.contextmanager
def longer(steps: Sequence[torch.Tensor], factor: int) -> Iterator[None]:
    """Time steps as many times as long, for a model that sees only every so many samples."""
    before = [step.detach().clone() for step in steps]
    with torch.no_grad():
        for step in steps:
            step.add_(math.log(factor))
        yield
        for step, value in zip(steps, before, strict=True):
            step.copy_(value)


def scores(answers: str, batch_size: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """What the Trainer calls to score all predictions, [examples, ...]."""
    _, overall, batched = METRICS[answers]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predictions, references = prediction.predictions, prediction.label_ids
        found: dict[str, float] = {}
        for metric in overall:
            found |= metric().compute(predictions=predictions, references=references)
        labels_per_batch = min(batch_size, len(references)) * references[0].size
        for metric in batched:
            found |= metric().compute(predictions=predictions, references=references, batch_size=labels_per_batch)
        return found

    return compute


def train(run: Run) -> dict[str, float]:
    """Train, score the best checkpoint, and save it; the metrics of the validation examples, and of the test's."""
    options, training = run.options, run.training
    prepared = prepare(run)
    run.config.update(dict(prepared.sizes))
    training.remove_unused_columns = prepared.train.collate is None
    set_seed(training.seed)
    model = HEADS[options.head](run.config)
    trainer: Any = Trainer(
        model=model,
        args=training,
        data_collator=prepared.train.collate,
        train_dataset=prepared.train.data,
        eval_dataset=prepared.validation.data,
        processing_class=prepared.processor,
        compute_metrics=scores(options.answers, training.eval_batch_size),
        preprocess_logits_for_metrics=None if options.answers == "values" else lambda logits, labels: logits.argmax(-1),
        compute_loss_func=LOSSES[options.answers],
        optimizer_cls_and_kwargs=optimizer_for_trainer(
            training, state_rate(options.state_learning_rate), decay_vectors=options.decay_vectors
        ),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = trainer.evaluate()
    for name, view in prepared.at_the_end.items():
        trainer.data_collator = view.collate
        if view.step == 1 or time_steps(model):
            with longer(time_steps(model), view.step):
                metrics |= trainer.evaluate(view.data, metric_key_prefix=name)
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
    try:
        run = read_run(arguments[0], arguments[1:])
    except ValueError as error:
        raise SystemExit(f"train.py: {error}") from error
    metrics = train(run)
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")
    print(f"The model is in {Path(str(run.training.output_dir))}")
    return metrics


if __name__ == "__main__":
    main()
