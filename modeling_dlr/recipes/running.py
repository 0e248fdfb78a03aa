"""Train a recipe of configuration/recipes/ on its task or data set, with the stock Trainer.

Options override the recipe: `--model_options`, `--task_options` and `--data_options` take `name=value` pairs, and every
field of `TrainingArguments` is an option. The best checkpoint is kept. `--resume_from_checkpoint True` resumes from the
newest complete checkpoint, `auto` begins if there is none, and `--push_to_hub` uploads the model. Ctrl-C and SIGTERM
save a checkpoint and stop. The output folder contains the model and its card, which describes the run. Data sets come
from the Hub, or from the folder or file given by `--dataset`. docs/parallel.md is about several processes.
"""

import contextlib
import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, TrainingArguments, default_data_collator, set_seed

from modeling_dlr import (
    DLRConfig,
    DLRForAudioClassification,
    DLRForImageClassification,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
)
from modeling_dlr.finetuning.stopping import StopCallback, Stopped
from modeling_dlr.kernel_parameters_dlr import did_you_mean
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
from modeling_dlr.parallel import DistributedTrainer, shared_errors
from modeling_dlr.presets import preset_names
from modeling_dlr.resuming import newest_whole
from modeling_dlr.tasks import TASKS, build_task, load_task
from modeling_dlr.training import optimizer_for_trainer
from modeling_dlr.weighted_loss import class_weighted_loss

from .card import MakeCard, card_of
from .checks import check_answers, check_best, check_model, check_options
from .data import ClassifiedData, Prepared, View, build_kind
from .folders import last_part, load_recipe
from .masking import load_layers, masked_data, masked_head
from .options import (
    DrawnTask,
    RecipeOptions,
    Run,
    asks_for,
    examples_to_draw,
    merged,
    options_parser,
    parse_pairs,
    state_rate,
)
from .sources import load_splits

HEADS: dict[str, Any] = {
    "per_step": DLRForTokenClassification,
    "per_sequence": DLRForSequenceClassification,
    "per_pair": DLRForSequencePairClassification,
    "per_image": DLRForImageClassification,
    "per_recording": DLRForAudioClassification,
}
# By kind of answer: the problem type; the metrics over all examples, and averaged over batches; the loss.
PROBLEM_TYPES = {
    "values": "regression",
    "classes": "single_label_classification",
    "rare_classes": "single_label_classification",
}
METRICS: dict[str, tuple[list[Any], list[Any]]] = {
    "values": ([R2], [BatchR2]),
    "classes": ([MaskedAccuracy], [BatchMaskedAccuracy]),
    "rare_classes": ([MacroF1, BalancedAccuracy], [BatchMacroF1, BatchBalancedAccuracy]),
}
LOSSES: dict[str, Callable[..., Any] | None] = {"values": None, "classes": None, "rare_classes": class_weighted_loss}
# The keys of training.json: in every recipe, in recipes on a task, and in recipes on a data set.
KEYS = {"head", "answers", "num_train", "num_validation", "state_learning_rate", "decay_vectors", "training_arguments"}
KEYS_OF_TASK, KEYS_OF_DATA = {"task", "task_options", "streaming"}, {"data", "dataset", "data_options"}
# The values that --smoke sets.
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


def read_run(recipe: str, arguments: Sequence[str]) -> Run:
    """Read a recipe and apply the options of the command line.

    Raises:
        ValueError: for an unknown recipe, an unknown key of its training.json (the message suggests the nearest), or
            invalid options.
    """
    fields, written = read_recipe(recipe)
    training_defaults = written["training_arguments"]
    plain = {key: value for key, value in written.items() if not key.endswith(("_arguments", "_options"))}
    asked = asks_for(arguments)
    if asked.smoke:
        training_defaults, plain = training_defaults | SMOKE_TRAINING, plain | {"dataset": None}
    if asked.objective == "masked":
        training_defaults = by_loss(training_defaults)
    plain["state_learning_rate"] = json.dumps(written.get("state_learning_rate"))
    parser = options_parser()
    output = f"outputs/{recipe}{'-masked' if asked.objective == 'masked' else ''}"
    named = {"output_dir": output, "run_name": recipe, "project": "modeling-dlr", "report_to": "none"}
    named |= {"accelerator_config": {"dispatch_batches": False}}  # each process reads a stream by itself
    parser.set_defaults(**named | training_defaults | plain)
    options, training = parser.parse_args_into_dataclasses(args=list(arguments))
    if training.resume_from_checkpoint in ("True", "true"):
        training.resume_from_checkpoint = True
    check_options(recipe, options, training, on_data="data" in written)
    if options.smoke:
        kinds = {"layer_types": fields["layer_types"][:1]} if "layer_types" in fields else {}
        fields = fields | SMOKE_MODEL | kinds
        options.num_train, options.num_validation, options.streaming = 4, 2, False

    source = read_data(options, written) if options.data else read_task(options, written)
    sizes = {"problem_type": PROBLEM_TYPES[options.answers]}
    if isinstance(source, DrawnTask):
        sizes |= sizes_of_task(recipe, source, reads_values="input_size" in fields)
    config_fields: Any = merged(fields, parse_pairs("--model_options", options.model_options)) | sizes
    run = Run(recipe, list(arguments), DLRConfig(**config_fields), source, options, training)
    check_answers(run)
    overall, batched = metrics_of(run)
    scored = [*(metric.key for metric in overall), *(f"{metric.key}_batch_mean" for metric in batched)]
    check_best(training, ["loss", *scored])
    check_model(run, masked_head if options.objective == "masked" else HEADS[options.head])
    return run


def by_loss(training: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of training where the loss, not a metric of the labels, says which checkpoint is best."""
    changed = dict(training) | {"metric_for_best_model": "loss", "greater_is_better": False}
    if "mode" in changed.get("lr_scheduler_kwargs", {}):
        changed["lr_scheduler_kwargs"] = changed["lr_scheduler_kwargs"] | {"mode": "min"}
    return changed


def metrics_of(run: Run) -> tuple[list[Any], list[Any]]:
    """The metrics over all examples, and those averaged over batches, which hidden steps have not."""
    if run.options.objective == "labels":
        return METRICS[run.options.answers]
    return METRICS["values" if run.config.vocab_size is None else "classes"][0], []


def sizes_of_task(recipe: str, source: DrawnTask, *, reads_values: bool) -> dict[str, int]:
    """The fields of the model that depend on the task.

    Raises:
        ValueError: if the model reads tokens and the task has real values, or the reverse.
    """
    has_values = "input_values" in source.task.features
    if reads_values != has_values:
        reads, has = ("real values", "tokens") if reads_values else ("tokens", "real values")
        raise ValueError(
            f"Recipe {recipe!r} reads {reads}, but {source.name} has {has}: use a recipe that reads {has}."
        )
    values = {"input_size": source.task.input_size} if reads_values else {}
    return {"num_labels": source.task.num_labels} | values


def read_recipe(recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the model fields and training.json of a recipe.

    Raises:
        ValueError: for an unknown recipe or an unknown key.
    """
    known = preset_names("recipes")
    if recipe not in known:
        hint = did_you_mean(recipe, known) or f"the recipes are {known}."
        raise ValueError(f"There is no recipe {recipe!r}; {hint}")
    fields, written = load_recipe(recipe)
    keys = KEYS | (KEYS_OF_DATA if "data" in written else KEYS_OF_TASK)
    arguments = {each.name for each in dataclasses.fields(TrainingArguments)}
    for what, given, read in (
        ("training.json", written, keys),
        ("training_arguments", written["training_arguments"], arguments),
    ):
        for key in given.keys() - read:
            hint = did_you_mean(key, read) or f"known are {sorted(read)}."
            raise ValueError(f"Recipe {recipe!r}: unknown key {key!r} in {what}; {hint}")
    return fields, written


def read_data(options: RecipeOptions, written: Mapping[str, Any]) -> ClassifiedData:
    """Build the kind of data of a recipe, with its options."""
    kind: Any = options.data
    smoke = SMOKE_DATA[kind] if options.smoke else {}
    return build_kind(kind, written["data_options"] | smoke | parse_pairs("--data_options", options.data_options))


def read_task(options: RecipeOptions, written: Mapping[str, Any]) -> DrawnTask:
    """Build the task; if it is not the recipe's task, only the recipe's option ``length`` is used."""
    name: Any = options.task
    kept = {each.name for each in dataclasses.fields(TASKS[name])} & {"length"}
    task_options = {
        key: value for key, value in written["task_options"].items() if name == written["task"] or key in kept
    }
    if options.smoke:
        task_options = SMOKE_TASK.get(name, {"length": 32})
    task_options = task_options | parse_pairs("--task_options", options.task_options)
    return DrawnTask(name, task_options, build_task(name, task_options))


def prepare(run: Run) -> Prepared:
    """Draw the examples of a task, or load a data set; without ``dataset``, make a few artificial rows.

    Raises:
        ValueError: if the first rows are not valid.
    """
    options = run.options
    if isinstance(run.source, DrawnTask):
        return draw(run.source, options, run.training)
    kind = run.source
    rows = load_splits(options.dataset, kind.files, kind.columns) if options.dataset else kind.stand_in()
    prepared = kind.prepare(rows, options.num_train, options.num_validation)
    for view in (prepared.train, prepared.validation):
        view.collate([view.data[i] for i in range(min(len(view.data), run.training.train_batch_size))])
    return prepared


def draw(source: DrawnTask, options: RecipeOptions, training: TrainingArguments) -> Prepared:
    """Draw the examples of a task; the tokenizer of a task with symbols is saved with the model."""
    given: Any = {"seed": options.data_seed_of_task, "num_proc": options.num_proc, **source.options}
    train_data = load_task(
        source.name,
        split="train",
        num_examples=examples_to_draw(options, training),
        streaming=options.streaming,
        **given,
    )
    validation_data = load_task(source.name, split="validation", num_examples=options.num_validation or 0, **given)
    train_view, validation_view = (View(data, default_data_collator) for data in (train_data, validation_data))
    return Prepared(train_view, validation_view, processor=source.task.tokenizer())


def time_steps(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The logarithms of the time steps, of all kernels that have time steps."""
    return [value for name, value in model.named_parameters() if name.endswith(".log_time_step")]


@contextlib.contextmanager
def longer(steps: Sequence[torch.Tensor], factor: int) -> Iterator[None]:
    """In this context, time steps are ``factor`` times as long, for inputs at a lower sampling rate."""
    before = [step.detach().clone() for step in steps]
    with torch.no_grad():
        for step in steps:
            step.add_(math.log(factor))
        yield
        for step, value in zip(steps, before, strict=True):
            step.copy_(value)


def scores(metrics: tuple[list[Any], list[Any]], batch_size: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """Build the Trainer's ``compute_metrics``, which scores all predictions [examples, ...]."""
    overall, batched = metrics

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


def train(run: Run, prepared: Prepared, make_card: MakeCard | None = None) -> dict[str, float]:
    """Train, score the best checkpoint and save it with its card; return validation and test metrics."""
    options, training = run.options, run.training
    run.config.update(dict(prepared.sizes))
    masked = options.objective == "masked"
    if masked:
        prepared = masked_data(prepared, run.config.input_size)
    values = run.config.vocab_size is None if masked else options.answers == "values"
    training.remove_unused_columns = False  # the collators need columns that the model does not take
    set_seed(training.seed)
    model = masked_head(run.config) if masked else HEADS[options.head](run.config)
    if options.start_from:
        load_layers(model, options.start_from)
    trainer: Any = DistributedTrainer(
        model=model,
        args=training,
        data_collator=prepared.train.collate,
        train_dataset=prepared.train.data,
        eval_dataset=prepared.validation.data,
        processing_class=prepared.processor,
        compute_metrics=scores(metrics_of(run), training.eval_batch_size),
        preprocess_logits_for_metrics=None if values else lambda logits, labels: logits.argmax(-1),
        compute_loss_func=None if masked else LOSSES[options.answers],
        optimizer_cls_and_kwargs=optimizer_for_trainer(
            training, state_rate(options.state_learning_rate), decay_vectors=options.decay_vectors
        ),
    )
    trainer.add_callback(StopCallback())
    if make_card is not None:
        card_of(run, prepared, make_card).attach(trainer)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = trainer.evaluate()
    for name, view in prepared.at_the_end.items():
        trainer.data_collator = view.collate
        if view.step == 1 or time_steps(model):
            with longer(time_steps(model), view.step):
                metrics |= trainer.evaluate(view.data, metric_key_prefix=f"eval_{name}")
    trainer.state.best_model_checkpoint = last_part(trainer.state.best_model_checkpoint)  # a push uploads the state
    trainer.save_model()
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if training.push_to_hub:
        trainer.push_to_hub()
    return metrics


@contextlib.contextmanager
def says_how_to_go_on(run: Run) -> Iterator[None]:
    """In this context, a stop adds the newest checkpoint and the command that resumes from it.

    Raises:
        Stopped: if training was stopped.
    """
    try:
        yield
    except Stopped as stop:
        checkpoint, _ = newest_whole(Path(str(run.training.output_dir)), run.training.world_size)
        if checkpoint is not None:
            command = shlex.join(["modeling-dlr", "recipes", "run", run.recipe, *run.arguments])
            command = command.replace(run.training.hub_token or "\n", "…")
            stop.advice = f"To resume from {checkpoint.name}: {command} --resume_from_checkpoint True"
        raise


def run_recipe(recipe: str, arguments: Sequence[str], make_card: MakeCard | None = None) -> dict[str, float]:
    """Run a recipe and return the metrics.

    Args:
        recipe: its name.
        arguments: options, as `modeling-dlr recipes run` takes them.
        make_card: makes the callback that writes the model card; without it, no card is written.

    Raises:
        ValueError: for an unknown recipe or invalid options.
        Stopped: if training was stopped; its advice names the checkpoint.
    """
    with shared_errors():
        run = read_run(recipe, arguments)
        with says_how_to_go_on(run):
            return train(run, prepare(run), make_card)
