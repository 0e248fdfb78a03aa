"""`train` and `evaluate`: from a table to a folder with a model, its scores and its card."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from modeling_dlr.launch import launched
from modeling_dlr.weighted_loss import loss_by_counts

from .baselines import baselines
from .clock import Clock
from .columns import Columns, choose_columns
from .encoded import Collator, encode_rows
from .encoding import Encoder, choose_encoder
from .evaluating import scored
from .first_head import fit_last_layer
from .labels import Labels, understand
from .loop import (
    FEWEST_EVALUATED,
    MEASURED,
    SHARE_OF_BASELINES,
    SHARE_OF_LAST_LAYER,
    SHARE_OF_TEST,
    SHARE_OF_VALIDATION,
    Checkpoint,
    Course,
    Evaluation,
    Pace,
    Plan,
    RunCallback,
    Trained,
    measure,
    newest_checkpoint,
    plan,
    run_training,
)
from .models import Recipe, build_model, input_shape, recipe_for, with_installed_model
from .options import TrainOptions, seconds_of
from .pictures import can_draw, draw_learning_curve
from .quiet import quiet_libraries
from .report import Report, usage
from .rows import read_rows, sample_of
from .scores import Scorer, are_unequal, main_score
from .splits import split_rows
from .tables import Source, find_source
from .task import Task
from .workplace import Workplace


def train(source: str | Path, options: TrainOptions | None = None, *, console: Console | None = None) -> Report:
    """Train a model on your own data, and score it on test rows.

    The folder ``options.output`` holds the model, its tokenizer or processor, its code, a card, the scores, pictures
    and the worst mistakes. Ctrl-C ends training and keeps the best weights so far; the same call then goes on.

    Args:
        source: a table, a folder of files by class, FASTA, or a data set of the Hub; see `iter_rows`.
        options: None leaves every choice to the data.
        console: where progress and scores are printed; None is the standard output.

    Returns:
        The scores and tables.

    Raises:
        ValueError: before training, for data and options that make no task, and for one of several processes; the
            message is one line.

    >>> report = train("reviews.csv")  # doctest: +SKIP
    >>> report.scores  # doctest: +SKIP
    {'accuracy': 0.97, 'f1_macro': 0.97}
    """
    if launched() > 1:
        raise ValueError(f"This trains in one process, but {launched()} were launched: start it without a launcher.")
    options = options or TrainOptions()
    console = console or Console(highlight=False)
    clock = Clock(None if options.budget is None else seconds_of(options.budget))
    found = find_source(source)
    place = Workplace(options.output or Path("outputs") / (Path(found.name).name.split(".")[0] or "model"))
    with quiet_libraries(), place.open():
        return _Run(found, options, console, clock, place).report()


class _Run:
    """One run: what was read, what was chosen, and what comes out."""

    def __init__(self, source: Source, options: TrainOptions, console: Console, clock: Clock, place: Workplace):
        self.options, self.console, self.clock, self.place = options, console, clock, place
        self.columns = choose_columns(sample_of(source, options.encoding), options)
        data = place.folder / "data"
        self.rows = read_rows(source, self.columns, data, encoding=options.encoding, group=options.group)
        wanted: Any = None if options.task is None else options.task.replace("-", " ")
        self.labels = understand(self.rows, wanted, is_pair=self.columns.is_pair)
        self.task = _task_of(self.columns, self.labels)
        strata = self.labels.targets if self.labels.task in ("classes", "pairs") and self.labels.names else None
        self.splits = split_rows(self.rows, strata, validation=options.validation, test=options.test, seed=options.seed)
        self._say_data(source.name)
        self.encoder = choose_encoder(self.task, self.labels, self.rows.table, self.splits.train, options)
        self.checkpoints = place.checkpoints / self._digest()
        self.checkpoint = newest_checkpoint(self.checkpoints)
        if self.checkpoint is None:
            self.options = with_installed_model(options, self.encoder)
        else:
            self._go_on(self.checkpoint)
        self.scorer = Scorer(self.task, self.labels)
        numbers = self.labels.targets[self.splits.train] if self.task.is_number else np.array([-1.0, 1.0])
        # Mean and deviation of the numbers to predict.
        self.scale = float(numbers.mean()), float(numbers.std()) or 1.0

    def report(self) -> Report:
        """Train, score, and write the folder."""
        set_seed(self.options.seed)
        recipe = recipe_for(self.encoder, self.options)
        table = self.rows.table
        mean, std = self.scale
        collator = Collator(self.encoder, input_shape(self.encoder), mean, std)
        data = self.place.folder / "data"
        model = build_model(self.encoder, recipe, self.options.pretrained)
        self.place.check_space(model.num_parameters())
        chosen = self.splits.train[:: max(1, len(self.splits.train) // (MEASURED * recipe.batch_size))]
        pace = measure(
            model, encode_rows(self.encoder, table, chosen, data / "some.arrow"), collator, recipe.batch_size
        )
        notes = self._shorten(pace)
        simpler = baselines(
            self.encoder, table, self.splits, self.scorer, SHARE_OF_BASELINES * (self.clock.budget or 1e9)
        )
        planned = plan(pace, len(self.splits.train), recipe, self.options, self.clock)
        notes += self._keep("train", planned.steps * recipe.batch_size, "as many as the steps read")
        train = encode_rows(self.encoder, table, self.splits.train, data / "train.arrow")
        parts = {"train": train}
        for name, places in (("validation", self.splits.validation), ("test", self.splits.test)):
            rows = encode_rows(self.encoder, table, places, data / f"{name}.arrow")
            parts[name] = rows.select(np.argsort(rows["length"], kind="stable"))
        self._say_model(model, recipe, planned, notes)
        if self.options.pretrained is not None and self.task.task != "pairs":  # of which the head has two layers
            most = int(max(recipe.batch_size, SHARE_OF_LAST_LAYER * (self.clock.budget or 1e9) / pace.row))
            fit_last_layer(model, train, collator, recipe.batch_size, self._loss(recipe), most)
        trained = self._trained(model, parts, collator, recipe, planned, Evaluation(self.scorer, mean, std))
        return self._finish(model, trained, parts["test"], simpler, recipe, planned, notes)

    def _digest(self) -> str:
        """Names the run by its given options and its rows: a run goes on from checkpoints of the same name only."""
        said = asdict(self.options) | {"output": "", "pictures": True}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        digest.update(self.rows.keys.tobytes())
        return digest.hexdigest()[:16]

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, with the pretrained model that its run started from.

        Raises:
            ValueError: if that model is not there any more.
        """
        if checkpoint.start is not None:
            try:
                self.options = replace(self.options, pretrained=checkpoint.start)
            except ValueError:
                raise ValueError(
                    f"The run that was stopped started from {checkpoint.start}, which holds no model any more: "
                    f"install it again, or remove {self.checkpoints} to begin anew."
                ) from None
        self.clock.trained_before = checkpoint.seconds
        self._say(f"Going on from step {checkpoint.folder.name.rsplit('-', 1)[-1]} of a run that was stopped.")

    @property
    def _pictures(self) -> Path | None:
        """Where pictures are drawn, if they are."""
        return self.place.result if self.options.pictures and can_draw() else None

    @property
    def _start(self) -> str | None:
        """The name of the pretrained model, if there is one."""
        return None if self.options.pretrained is None else self.options.pretrained.resolve().name

    def _are_weighted(self) -> bool:
        """Whether rare classes weigh more."""
        wish = self.options.class_weights
        return self.labels.task != "several labels" and (are_unequal(self.labels) if wish is None else wish)

    def _trained(
        self,
        model: PreTrainedModel,
        parts: dict[str, Dataset],
        collator: Collator,
        recipe: Recipe,
        planned: Plan,
        evaluation: Evaluation,
    ) -> Trained:
        score = main_score(self.task, self.labels)
        callback = RunCallback(self.clock, score, self.console, self.options.pretrained)
        course = Course(recipe, self.options, planned, self._loss(recipe), self.checkpoints, self.checkpoint)
        return run_training(model, parts, collator, evaluation, course, callback)

    def _loss(self, recipe: Recipe) -> Callable[..., Tensor] | None:
        """The Trainer's ``compute_loss_func``; None is the loss of the model."""
        if self.task.is_number or self.task.task == "several labels":
            return None
        return loss_by_counts(self.labels.counts if self._are_weighted() else None, recipe.label_smoothing)

    def _finish(
        self,
        model: PreTrainedModel,
        trained: Trained,
        test: Dataset,
        simpler: dict[str, dict[str, float]],
        recipe: Recipe,
        planned: Plan,
        notes: list[str],
    ) -> Report:
        """Score the test rows, and write everything."""
        evaluation: Any = trained.trainer.compute_metrics
        if self.task.task == "several labels":  # the thresholds of the weights that were kept
            trained.trainer.evaluate()
            self.task.thresholds = dict(zip(self.labels.names, self.scorer.thresholds.tolist(), strict=True))
        report = scored(
            self.place.output, trained.trainer, evaluation, self.encoder, self.rows.table, test, self._pictures
        )
        report.baselines = simpler
        report.rows = {name: len(getattr(self.splits, name)) for name in ("train", "validation", "test")}
        report.notes += notes + self.splits.notes
        report.stopped, report.history = trained.stopped, trained.history
        report.training = {
            "steps": trained.steps,
            "planned_steps": trained.of,
            f"validation_{report.main}": trained.best,
            "seconds_per_step": round(planned.seconds, 4),
            "parameters": model.num_parameters(),
            "max_length": self.task.max_length,
            **vars(recipe),
        }
        self._write(model, report)
        self._say_end(report, trained)
        return report

    def _write(self, model: PreTrainedModel, report: Report) -> None:
        """Write the folder."""
        if self.task.is_number:
            _unscale(model, *self.scale)
        result = self.place.result
        model.save_pretrained(result)
        self.encoder.processor.save_pretrained(result)
        self.task.save(result)
        if self._pictures is not None:
            draw_learning_curve(report.history, report.main, result / "learning_curve.png")
        report.seconds = self.clock.spent()
        said = asdict(self.options) | {"pretrained": self._start}
        report.write(result, {name: value for name, value in said.items() if name != "output"})
        self.place.finish(keep_checkpoints=report.stopped)

    def _shorten(self, pace: Pace) -> list[str]:
        """Keep as many validation and test rows as there is time for."""
        if self.clock.budget is None:
            return []
        notes, seconds = [], self.clock.budget / pace.row
        validated = SHARE_OF_VALIDATION * seconds / self.options.evaluations
        for name, share in (("validation", validated), ("test", SHARE_OF_TEST * seconds)):
            notes += self._keep(name, max(FEWEST_EVALUATED, int(share)), "for lack of time")
        return notes

    def _keep(self, name: str, most: int, why: str) -> list[str]:
        """Keep so many rows of a split at most, and say so and why."""
        places = getattr(self.splits, name)
        if len(places) <= most:
            return []
        chosen = np.random.default_rng(self.options.seed).choice(places, most, replace=False)
        setattr(self.splits, name, np.sort(chosen))
        return [f"Of {len(places):,} {name} rows {most:,} are used, {why}."]

    def _say(self, line: str = "") -> None:
        """Print a line as it is, whatever brackets and however many letters it has."""
        self.console.print(line, markup=False, soft_wrap=True)

    def _say_data(self, name: str) -> None:
        columns, labels, say = self.columns, self.labels, self._say
        texts, named = (" and ".join(map(repr, each)) for each in (columns.texts, columns.labels))
        say(f"{name}: {len(self.rows.table):,} rows, {columns.input} from {texts}, labels from {named}.")
        if self.rows.empty:
            found = ", ".join(f"{count:,} in {column!r}" for column, count in self.rows.empty.items())
            say(f"Dropped {self.rows.empty.total():,} rows with empty cells: {found}.")
        shown = ", ".join(f"{name} ({n:,})" for name, n in list(zip(labels.names, labels.counts, strict=False))[:10])
        more = f" and {len(labels.names) - 10} more" if len(labels.names) > 10 else ""
        say(f"Task: {labels.task}, for {labels.reason}{': ' if shown else ''}{shown}{more}.")
        splits = self.splits
        counts = (("training", splits.train), ("validation", splits.validation), ("test", splits.test))
        say(f"Split: {', '.join(f'{len(places):,} {name}' for name, places in counts)} rows.")
        for note in splits.notes:
            say(note)

    def _say_model(self, model: PreTrainedModel, recipe: Recipe, planned: Plan, notes: list[str]) -> None:
        say, task = self._say, self.task
        steps = f", {task.max_length} steps at most" if task.max_length else ""
        say(f"Input: {_name_of_processor(self.encoder)}, {self.encoder.reason}{steps}.")
        if self.encoder.cut:
            notes.append(f"{self.encoder.cut:.0%} of the rows are longer, and are cut.")
        for note in notes:
            say(note)
        size = (
            f"{_counted(recipe.layers, 'layer')} of width {recipe.hidden_size}, {model.num_parameters():,} parameters"
        )
        start = f", from {self._start}" if self._start else ""
        say(f"Model: {size}{start}{', rare classes weigh more' if self._are_weighted() else ''}.")
        seconds = planned.steps * planned.seconds
        time = f"{round(seconds)} s" if seconds < 100 else f"{round(seconds / 60)} min"
        steps = f"{_counted(planned.steps, 'step')} of {_counted(recipe.batch_size, 'row')}"
        say(f"Training: up to {steps}, about {time}.")

    def _say_end(self, report: Report, trained: Trained) -> None:
        say = self._say
        say()
        report.show(self.console)
        if not can_draw():
            say("No confusion matrix and no learning curve were drawn: pip install 'modeling-dlr[figures]'.")
        if trained.stopped:
            say(f"Stopped at step {trained.steps:,} of {trained.of:,}; the same command goes on from there.")
        shown = self.options.output or self.place.output.relative_to(Path.cwd())
        say(f"The model, its card and the worst mistakes are in {shown}. Use it:")
        for line in usage(self.task, str(shown)):
            say(f"    {line}")


def _task_of(columns: Columns, labels: Labels) -> Task:
    label = columns.labels[0] if len(columns.labels) == 1 else None
    unit: Any = "character" if labels.task == "tokens" else None
    return Task(labels.task, columns.input, columns.texts, label, labels.names, outside=labels.outside, token_unit=unit)


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' if count != 1 else ''}"


def _name_of_processor(encoder: Encoder) -> str:
    if encoder.task.input in ("image", "sound"):
        return encoder.task.input
    size = len(encoder.processor)
    return "letters" if size < 200 else "bytes" if size < 300 else f"{size:,} byte pairs"


def _unscale(model: Any, mean: float, std: float) -> None:
    """Let the last layer give numbers as they are in the data."""
    last = model.classifier if "classifier" in dict(model.named_children()) else model.pair_classifier[-1]
    with torch.no_grad():
        last.weight.mul_(std)
        last.bias.mul_(std).add_(mean)
