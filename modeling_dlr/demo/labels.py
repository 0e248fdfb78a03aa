"""Labels, numbers and spans for what a reader gives: all models that `modeling-dlr predict` runs."""

import os
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from modeling_dlr.inference import Predictor, inputs_of

from .answers import Answer, Answerer, Field, coloured, percent, require

# The words that are coloured at most, where a reader asks which ones moved the answer.
MOST_WORDS = 12
_EMPTY = {"sound": "Give a recording first.", "image": "Give an image first."}
_TO_GIVE = {"sound": "Record or choose a sound", "image": "Choose an image", "dna": "Type a sequence"}
_ANSWERS = {
    "classes": "the model names its class",
    "several labels": "the model names all labels that fit",
    "number": "the model names its value",
    "tokens": "the model marks spans of it",
}


def row_answerer(folder: str | os.PathLike[str], device: str) -> Answerer:
    """The answerer of a folder whose model answers rows, or every step of them."""
    predictor = Predictor(folder, device=device)
    return SpanAnswerer(predictor) if predictor.spans_per_row else RowAnswerer(predictor, folder, device)


class RowAnswerer(Answerer):
    """One answer for all that is given: a label, several labels or a number.

    Args:
        predictor: of a folder.
        folder: from which a second one is made that explains answers.
        device: of both.
    """

    def __init__(self, predictor: Predictor, folder: str | os.PathLike[str], device: str):
        self.model, self.predictor, self.task = predictor.model, predictor, predictor.task
        task = self.task
        self.explainer = None
        if task.input in ("text", "dna") and task.task != "pairs":
            self.explainer = Predictor(folder, explain=MOST_WORDS, device=device)
            self.explainer.model = predictor.model  # one copy in memory
        self.asks = _fields(predictor)
        if self.explainer:
            self.asks += (Field("switch", "Mark the words that moved the answer most (slower)", False),)
        scores = () if task.is_number else ("scores",)
        self.shows = (*scores, "pieces") if self.explainer else scores
        self.labels = ("raises", "lowers") if task.is_number else ("for", "against")
        answer = _ANSWERS.get(task.task, "the model compares the two texts")
        give = "Type two texts" if task.task == "pairs" else _TO_GIVE.get(task.input, "Type a text")
        self.instruction = f"{give}: {answer}."

    def __call__(self, *values: Any) -> Answer:
        """Answer texts, or the path of a file."""
        explained = self.explainer is not None and bool(values[-1])
        row = _row_of(self.predictor, values)
        items = (reader := inputs_of(self.predictor.processor, self.task)).items([row])
        require(items, _EMPTY.get(self.task.input, "Type a text first."))
        inputs = {name: value.to(self.model.device) for name, value in reader.batch(items).items()}
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0].float().cpu()
        answer = _numbers(self.task.labels, logits) if self.task.is_number else self._labels(logits)
        if explained and self.explainer is not None:
            answer.pieces = self._explained(self.explainer, row)
        return answer

    def _labels(self, logits: Tensor) -> Answer:
        names = self.task.labels
        if self.task.task == "several labels":
            scores = dict(zip(names, logits.sigmoid().tolist(), strict=True))
            limits = self.task.thresholds or {}
            given = [name for name, score in scores.items() if score >= limits.get(name, 0.5)]
            return Answer(f"Labels: {', '.join(given)}." if given else "No label fits.", scores)
        scores = dict(zip(names, logits.softmax(-1).tolist(), strict=True))
        best = max(scores, key=lambda name: scores[name])
        return Answer(f"Label: {best}, {percent(scores[best])}.", scores)

    def _explained(self, explainer: Predictor, row: dict[str, Any]) -> list[tuple[str, str | None]]:
        text = "\n".join(row[name] for name in self.task.text_columns if row[name].strip())
        told = explainer([row])[0][explainer.names["explanation"]] or []
        return coloured(text, [(one["start"], one["end"], self.labels[one["weight"] < 0]) for one in told])


class SpanAnswerer(Answerer):
    """A label for every step: spans of a text in colour, or of a recording in seconds."""

    def __init__(self, predictor: Predictor):
        self.model, self.predictor, self.task = predictor.model, predictor, predictor.task
        self.asks = _fields(predictor)
        self.shows = ("table",) if self.task.input == "sound" else ("pieces",)
        self.labels = tuple(label for label in self.task.labels if label != self.task.outside)
        self.instruction = f"{_TO_GIVE.get(self.task.input, 'Type a text')}: {_ANSWERS['tokens']}."

    def __call__(self, *values: Any) -> Answer:
        """Answer a text, or the path of a recording."""
        row = _row_of(self.predictor, values)
        require(not self.predictor.is_empty(row), _EMPTY.get(self.task.input, "Type a text first."))
        rows = self.predictor([row])
        names = [self.predictor.names[name] for name in ("start", "end", "label", "score")]
        found = [[one[name] for name in names] for one in rows if one[names[2]] is not None]
        counts = ", ".join(f"{count} {label}" for label, count in Counter(one[2] for one in found).most_common())
        said = f"The model marks {len(found)} span{'s' if len(found) != 1 else ''}{f': {counts}' if counts else ''}."
        if self.task.input == "sound":
            rate = self.predictor.processor.sampling_rate
            table = [[round(start / rate, 3), round(end / rate, 3), *rest] for start, end, *rest in found]
            return Answer(said, table=table)
        text = "\n".join(row[name] for name in self.task.text_columns if row[name].strip())
        return Answer(said, pieces=coloured(text, [(s, e, label) for s, e, label, _ in found]))


def _fields(predictor: Predictor) -> tuple[Field, ...]:
    """One field for each column that is read."""
    kind = predictor.task.input if predictor.task.input in ("sound", "image") else "text"
    return tuple(Field(kind, name) for name in predictor.task.text_columns)


def _row_of(predictor: Predictor, values: tuple[Any, ...]) -> dict[str, Any]:
    """What a reader gave, by column."""
    return {name: value or "" for name, value in zip(predictor.task.text_columns, values, strict=False)}


def _numbers(names: list[str], logits: Tensor) -> Answer:
    values = [f"{value:.6g}" for value in logits.tolist()]
    if not names:
        return Answer(f"Value: {values[0]}.")
    return Answer(f"Values: {', '.join(f'{name} {value}' for name, value in zip(names, values, strict=True))}.")
