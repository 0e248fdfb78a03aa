"""Training with the stock Trainer: within the time, resumable, the best weights kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from modeling_dlr.resuming import newest_whole
from modeling_dlr.training import parameter_groups

from .clock import Clock, warmup_and_cosine
from .encoded import Collator
from .models import Recipe
from .options import TrainOptions
from .scores import Scorer, answers, flat
from .stopping import SignalCallback

# Steps of a run without a budget: at least so many, and at most.
FEWEST_STEPS, MOST_STEPS = 600, 20_000
# Shares of the budget that validations, the test, the baselines and the last layer of a pretrained model may take.
SHARE_OF_VALIDATION, SHARE_OF_TEST, SHARE_OF_BASELINES, SHARE_OF_LAST_LAYER = 0.15, 0.1, 0.15, 0.1
FEWEST_EVALUATED = 200
# Batches of rows by which the pace is measured.
MEASURED = 8


@dataclass
class Pace:
    """Seconds that a step of training and a row without gradients take, as measured."""

    step: float
    row: float


@dataclass
class Plan:
    """How long a run is: its steps at most, the steps between validations, and the seconds of a step."""

    steps: int
    every: int
    seconds: float


def measure(model: PreTrainedModel, rows: Dataset, collator: Collator, batch_size: int) -> Pace:
    """Time some steps on random rows, on the device that the Trainer takes; the weights stay as they were."""
    generator, state = np.random.default_rng(0), torch.get_rng_state()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device: Any = accelerator or torch.device("cpu")
    model.to(device).train()
    times = []
    for _ in range(3):
        places = generator.choice(len(rows), min(len(rows), batch_size), replace=False)
        batch = {name: each.to(device) for name, each in collator([rows[int(place)] for place in places]).items()}
        began = time.perf_counter()
        loss = model(**batch).loss
        loss.backward()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - began)
        model.zero_grad()
    began = time.perf_counter()
    with torch.no_grad():
        model.eval()(**batch).loss.item()
    forward = (time.perf_counter() - began) / len(places)
    torch.set_rng_state(state)
    return Pace(float(np.median(times[1:])) * 1.1, forward)


def plan(pace: Pace, rows: int, recipe: Recipe, options: TrainOptions, clock: Clock) -> Plan:
    """As many steps as the epochs make, or as there is time for."""
    steps = int(recipe.epochs * -(-rows // recipe.batch_size))
    steps = max(1, steps) if options.epochs else int(np.clip(steps, FEWEST_STEPS, MOST_STEPS))
    if clock.budget is not None:
        clock.reserved = SHARE_OF_TEST * clock.budget
        steps = max(1, min(steps, int(clock.left_for_training() / pace.step)))
    return Plan(steps, max(1, -(-steps // options.evaluations)), pace.step)


class Checkpoint(NamedTuple):
    """A checkpoint of a run that did not end.

    Attributes:
        folder: of the checkpoint.
        seconds: that training had taken.
        start: the pretrained model that the run started from, if there is one.
    """

    folder: Path
    seconds: float
    start: Path | None


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in a folder."""
    found, _ = newest_whole(folder)
    if found is None:
        return None
    callbacks: Any = TrainerState.load_from_json(str(found / TRAINER_STATE_NAME)).stateful_callbacks
    said = callbacks[RunCallback.__name__]["attributes"]
    return Checkpoint(found, float(said["seconds"]), Path(said["start"]) if said["start"] else None)


class RunCallback(SignalCallback, ExportableState):
    """Ends training when the time is over or somebody asks for it, and shows how far it is.

    Args:
        clock: knows the time.
        score: the name of the score that is shown.
        console: where the progress is shown.
        start: the pretrained model that the run starts from; it is written into the checkpoints.
    """

    def __init__(self, clock: Clock, score: str, console: Console, start: Path | None):
        super().__init__()
        self.clock, self.score, self.console, self.start = clock, score, console, start
        self.best: float | None = None

    def state(self) -> dict[str, Any]:
        """What `newest_checkpoint` reads."""
        said = {"seconds": self.clock.trained(), "start": None if self.start is None else str(self.start)}
        return {"args": {}, "attributes": said}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Listen to signals, and begin to show."""
        super().on_train_begin(args, state, control)
        self.clock.training_began = time.perf_counter()
        text = TextColumn("training, step {task.completed:.0f} of {task.total:.0f}{task.fields[said]}")
        self.bar = Progress(
            text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True
        )
        self.shown = self.bar.add_task("", total=state.max_steps, completed=state.global_step, said="")
        if self.console.is_terminal:
            self.listening.enter_context(self.bar)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Show the step, and end with a last validation where it is time."""
        self.bar.update(self.shown, completed=state.global_step)
        if self.number is not None or self.clock.left_for_training() <= 0:
            control.should_training_stop = control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Show the score."""
        value = kwargs["metrics"].get(f"eval_{self.score}")
        if value is not None:
            self.best = value if self.best is None else max(self.best, value)
            name = self.score.replace("_", " ")
            self.bar.update(self.shown, said=f", {name} {value:.3f} (best {self.best:.3f})")


@dataclass
class Trained:
    """A trained model.

    Attributes:
        trainer: the stock Trainer, with the best weights.
        steps: that were made.
        of: how many were planned.
        best: the best score on the validation rows.
        stopped: whether somebody stopped it.
        history: the scores of every validation, and the losses.
    """

    trainer: Trainer
    steps: int
    of: int
    best: float
    stopped: bool
    history: list[dict[str, float]]


class Evaluation:
    """The Trainer's ``compute_metrics`` and what it reads of the logits."""

    def __init__(self, scorer: Scorer, mean: float, std: float):
        self.scorer, self.mean, self.std = scorer, mean, std

    def smaller(self, logits: Any, labels: Any) -> Any:
        """Of tokens, the classes only."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        return logits.argmax(-1) if self.scorer.task.task == "tokens" else logits

    def arrays(self, prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """What was predicted and what was wanted, as the scorer reads them."""
        predicted = answers(self.scorer.task, np.asarray(prediction.predictions), self.mean, self.std)
        wanted = np.asarray(prediction.label_ids)
        if self.scorer.task.is_number:
            wanted = wanted.reshape(-1) * self.std + self.mean
        return predicted, wanted

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """The scores of the validation rows; thresholds are chosen on them."""
        predicted, wanted = self.arrays(prediction)
        if self.scorer.task.task == "tokens":
            predicted, wanted, _ = flat(predicted, wanted, np.zeros(len(wanted)))
        if self.scorer.task.task == "several labels":
            self.scorer.fit_thresholds(predicted, wanted)
        return self.scorer.scores(predicted, wanted)


class Course(NamedTuple):
    """How a run trains.

    Attributes:
        recipe: rates and sizes.
        options: the rest of what can be chosen.
        plan: number of steps.
        loss: the Trainer's ``compute_loss_func``.
        folder: where checkpoints are written.
        checkpoint: the one to go on from, if there is one.
    """

    recipe: Recipe
    options: TrainOptions
    plan: Plan
    loss: Callable[..., Any] | None
    folder: Path
    checkpoint: Checkpoint | None


def run_training(
    model: PreTrainedModel,
    rows: dict[str, Dataset],
    collator: Collator,
    evaluation: Evaluation,
    course: Course,
    callback: RunCallback,
) -> Trained:
    """Train, and load the best weights.

    The best weights of a pretrained model may be those it starts with, with the last layer fitted to its features.
    """
    recipe, options, checkpoint = course.recipe, course.options, course.checkpoint
    groups = parameter_groups(model, recipe.learning_rate, options.weight_decay, recipe.state_learning_rate)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    factor = warmup_and_cosine(callback.clock, course.plan.steps, options.warmup)
    arguments = _arguments(rows["train"], course, callback.score)
    arguments.eval_on_start = options.pretrained is not None and checkpoint is None
    start = {name: value.clone() for name, value in model.state_dict().items()} if options.pretrained else None
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        compute_metrics=evaluation,
        preprocess_logits_for_metrics=evaluation.smaller,
        compute_loss_func=course.loss,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
        callbacks=[callback, EarlyStoppingCallback(options.patience)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.folder))
    state, stopped = trainer.state, callback.number is not None
    best = float("nan") if state.best_metric is None else float(state.best_metric)
    if start is not None:
        first = state.log_history[0].get(f"eval_{callback.score}", -math.inf)
        if not best > first:
            model.load_state_dict(start)
            best = first
    return Trained(trainer, state.global_step, course.plan.steps, best, stopped, state.log_history)


def _arguments(train: Dataset, course: Course, score: str) -> TrainingArguments:
    recipe, options, planned = course.recipe, course.options, course.plan
    return TrainingArguments(
        output_dir=str(course.folder),
        max_steps=planned.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        # Windows of one length are often from one part of their rows, with the same labels.
        train_sampling_strategy="group_by_length" if _of_whole_texts(train) else "random",
        length_column_name="length",
        eval_strategy="steps",
        eval_steps=planned.every,
        save_strategy="steps",
        save_steps=planned.every,
        save_total_limit=2,  # the best and the last; of one, the Trainer keeps only the best
        load_best_model_at_end=True,
        metric_for_best_model=score,
        greater_is_better=True,
        logging_steps=planned.every,
        max_grad_norm=1.0,
        seed=options.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _of_whole_texts(rows: Dataset) -> bool:
    return "input_ids" in rows.column_names and "start" not in rows.column_names
