"""Scores of a model on rows: those of the test, and those of other data."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, Trainer, TrainingArguments

from .columns import Columns
from .encoded import Collator, encode_rows
from .encoding import Encoder
from .labels import Labels, known_labels
from .loop import Evaluation
from .mistakes import worst
from .models import head_of, input_shape
from .names import find_folder
from .pictures import MOST_CLASSES, draw_confusion, draw_numbers
from .quiet import quiet_libraries
from .report import Report
from .rows import read_rows
from .scores import Scorer, flat, main_score
from .tables import find_source
from .task import Task

_PROCESSORS: dict[str, Any] = {"image": AutoImageProcessor, "sound": AutoFeatureExtractor}


def evaluate(
    folder: str | Path,
    source: str | Path,
    *,
    label: str | None = None,
    revision: str | None = None,
    encoding: str = "utf-8",
    console: Console | None = None,
) -> Report:
    """Score a folder that `train` has written on other rows.

    Args:
        folder: of the model, or OWNER/NAME of its repository on the Hub.
        source: of the rows, as `train` reads them.
        label: the column of the labels, if it is called otherwise than in training.
        revision: of the repository.
        encoding: of text files.
        console: where the scores are printed; None is the standard output.

    Raises:
        ValueError: for a folder without a task, rows without its columns, and labels that the model does not know.
    """
    place = find_folder(folder, revision)
    task = Task.load(place)
    labels = [label or task.label_column or "label"]
    columns = Columns(task.text_columns, labels, task.task == "pairs", task.input)
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        rows = read_rows(find_source(source), columns, Path(scratch), encoding=encoding)
        processor = _PROCESSORS.get(task.input, AutoTokenizer).from_pretrained(place)
        model = head_of(task).from_pretrained(place)
        encoder = Encoder(task, processor, "", 0.0, known_labels(rows, task), model.config.input_size or 3)
        collator = Collator(encoder, input_shape(encoder))
        scorer = Scorer(task, encoder.labels)
        if task.thresholds is not None:
            scorer.thresholds = np.array([task.thresholds[name] for name in task.labels])
        evaluation = Evaluation(scorer, 0.0, 1.0)
        encoded = encode_rows(encoder, rows.table, np.arange(len(rows.table)), Path(scratch) / "encoded.arrow")
        encoded = encoded.select(np.argsort(encoded["length"], kind="stable"))
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                scratch,
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                label_names=["labels"],
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            data_collator=collator,
            preprocess_logits_for_metrics=evaluation.smaller,
        )
        report = scored(place, trainer, evaluation, encoder, rows.table, encoded, None)
    if rows.empty:
        report.notes.append(f"{rows.empty.total():,} rows with empty cells are left out.")
    console = console or Console(highlight=False)
    report.show(console)
    for note in report.notes:
        console.print(note, markup=False, soft_wrap=True)
    return report


def scored(
    folder: Path,
    trainer: Any,
    evaluation: Evaluation,
    encoder: Encoder,
    table: Dataset,
    rows: Dataset,
    pictures: Path | None,
) -> Report:
    """The scores of encoded rows, with intervals, the classes and the worst mistakes.

    Args:
        folder: of the model.
        trainer: the Trainer that predicts.
        evaluation: reads what it gives.
        encoder: that encoded the rows.
        table: of the rows as they were read.
        rows: encoded.
        pictures: where they are drawn; None draws none.
    """
    task, labels, scorer = encoder.task, encoder.labels, evaluation.scorer
    compute, trainer.compute_metrics = trainer.compute_metrics, None  # it would choose thresholds on these rows
    found = trainer.predict(rows)
    trainer.compute_metrics = compute
    predicted, wanted = evaluation.arrays(found)
    places = np.asarray(rows["place"])
    mistakes = worst(task, labels, table, places, predicted, wanted, found.predictions)
    units = places
    if task.task == "tokens":
        predicted, wanted, units = flat(predicted, wanted, places)
    if pictures is not None:
        _draw(task, labels, predicted, wanted, pictures)
    return Report(
        folder,
        task,
        main_score(task, labels),
        scorer.scores(predicted, wanted),
        scorer.intervals(predicted, wanted, units),
        {},
        {"test": len(np.unique(places))},
        scorer.per_class(predicted, wanted),
        mistakes,
    )


def _draw(task: Task, labels: Labels, predicted: np.ndarray, wanted: np.ndarray, folder: Path) -> None:
    if task.is_number:
        draw_numbers(predicted, wanted, folder / "predictions.png")
    elif task.task != "several labels" and len(labels.names) <= MOST_CLASSES:
        draw_confusion(labels.names, predicted, wanted, folder / "confusion.png")
