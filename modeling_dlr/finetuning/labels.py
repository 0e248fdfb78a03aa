"""What the labels of a table mean: the task that they make, their names, and the target of every row."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .rows import Rows, cells_of, rows_of
from .task import Task, TaskName

# More whole numbers than this are no classes.
MOST_CLASSES_OF_NUMBERS = 20
OUTSIDE = "O"
_SEPARATORS = ("|", ";", ",")


class Span(NamedTuple):
    """A part of a text, and its label."""

    start: int
    end: int
    label: str


@dataclass
class Labels:
    """What the labels mean.

    Attributes:
        task: what is predicted.
        names: of the labels.
        targets: of each row: the number of its class; its value; or the numbers of its labels. None for tokens, whose
            labels `character_labels` gives.
        counts: how often each label occurs: in rows, or, for tokens, in characters.
        outside: for tokens, the label of what no span covers.
        style: for tokens, "spans" or "letters" (a label string as long as the text).
        reason: why the task was chosen.
    """

    task: TaskName
    names: list[str]
    targets: Any
    counts: list[int]
    reason: str
    outside: str | None = None
    style: str | None = None


def understand(rows: Rows, task: TaskName | None, *, is_pair: bool) -> Labels:
    """Read the task from the labels, where it is not given, and the targets.

    Raises:
        ValueError: for labels that make no task: of one class, with a class of one row, nearly all different, spans
            outside of the text, label strings of another length than their texts.
    """
    style = None if is_pair else _token_style(rows)
    wanted = "classes" if task == "pairs" else task
    if wanted in (None, "tokens") and style is not None:
        return _tokens(rows, style)
    if task == "tokens":
        raise ValueError(
            "A label for every character must be a string as long as the text, or a list of spans such as "
            f'[{{"start": 0, "end": 4, "label": "name"}}], got {next(cells_of(rows.table, "label"))[:60]!r}.'
        )
    counts = Counter(cells_of(rows.table, "label"))
    if task != "pairs" and not is_pair and (wanted == "several labels" or (wanted is None and _are_several(counts))):
        return _several(rows, counts)
    numbers = {cell: number_of(cell) for cell in counts}
    if wanted == "number" or (task in (None, "pairs") and _are_numbers(counts, numbers)):
        return _numbers(rows, numbers, is_pair=is_pair)
    return _classes(rows, counts, numbers, is_pair=is_pair)


def number_of(cell: str) -> float | None:
    """The number that a cell is, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _are_numbers(counts: Counter[str], numbers: dict[str, float | None]) -> bool:
    """Numbers with fractions, or more whole numbers than classes have; a few cells that are no numbers are faults."""
    values = [value for value in numbers.values() if value is not None]
    rows = sum(count for cell, count in counts.items() if numbers[cell] is not None)
    if rows < 0.95 * counts.total():
        return False
    return len(values) > MOST_CLASSES_OF_NUMBERS or any(value % 1 for value in values)


def _numbers(rows: Rows, numbers: dict[str, float | None], *, is_pair: bool) -> Labels:
    wrong = next((cell for cell, value in numbers.items() if value is None), None)
    if wrong is not None:
        row = _row_with(rows, wrong)
        raise ValueError(f"Labels must be numbers, but row {row} has {wrong!r}: remove it, or pass --task classes.")
    if len(numbers) < 2:
        raise ValueError(f"Every row has the number {next(iter(numbers))}: there is nothing to predict.")
    targets = np.fromiter((numbers[cell] for cell in cells_of(rows.table, "label")), np.float64)
    task: TaskName = "pairs" if is_pair else "number"
    return Labels(task, [], targets, [], f"the labels are {len(numbers)} different numbers")


def _classes(rows: Rows, counts: Counter[str], numbers: dict[str, float | None], *, is_pair: bool) -> Labels:
    names = sorted(counts, key=lambda cell: (numbers[cell] is None, numbers[cell] or 0.0, cell))
    total = counts.total()
    if len(names) == 1:
        raise ValueError(f"Every row has the label {names[0]!r}: add rows of other classes, or name another --label.")
    if len(names) > max(20, total / 2):
        numeric = all(value is not None for value in numbers.values())
        cure = "this looks like a number: --task number" if numeric else "name another column with --label"
        raise ValueError(f"The labels are nearly all different, {len(names)} in {total} rows: {cure}.")
    rare = next((name for name in names if counts[name] == 1), None)
    if rare is not None:
        raise ValueError(
            f"The class {rare!r} has one row only, {_row_with(rows, rare)}: add rows of it, or remove this one."
        )
    index = {name: i for i, name in enumerate(names)}
    targets = np.fromiter((index[cell] for cell in cells_of(rows.table, "label")), np.int64)
    task: TaskName = "pairs" if is_pair else "classes"
    return Labels(task, names, targets, [counts[name] for name in names], f"the labels are {len(names)} classes")


def _row_with(rows: Rows, cell: str) -> int:
    """The number of the first row that has this label."""
    return next(row["row"] for row in rows_of(rows.table) if row["label"] == cell)


def _are_several(counts: Counter[str]) -> bool:
    """Lists of names; or cells whose parts occur in other combinations too."""
    if all(_json_list(cell) is not None for cell in counts):
        return True
    separator = _separator(counts)
    if separator is None:
        return False
    parts = {part for cell in counts for part in _parts(cell, separator)}
    return len(parts) < len(counts) and any(separator in cell for cell in counts) and len(parts) <= 200


def _separator(counts: Counter[str]) -> str | None:
    """What separates labels: in at least a tenth of the rows, and such that no part is a sentence."""
    for mark in _SEPARATORS:
        rows = sum(count for cell, count in counts.items() if mark in cell)
        short = all(len(part.split()) <= 4 for cell in counts for part in _parts(cell, mark))
        if rows >= 0.1 * counts.total() and short:
            return mark
    return None


def _parts(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _json_list(cell: str) -> list[str] | None:
    """The names in a JSON list; in that of Python, too, as pandas writes it."""
    if not cell.startswith("["):
        return None
    for text in (cell, cell.replace("'", '"')):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None
    return None


def _read_several(counts: Counter[str]) -> dict[str, list[str]]:
    """The labels in each cell."""
    separator = _separator(counts) or "|"
    return {cell: found if (found := _json_list(cell)) is not None else _parts(cell, separator) for cell in counts}


def _several(rows: Rows, counts: Counter[str]) -> Labels:
    read = _read_several(counts)
    per_label = Counter(name for cell, count in counts.items() for name in set(read[cell]) for _ in range(count))
    names = sorted(per_label)
    if len(names) < 2:
        raise ValueError(f"There must be at least two labels, got {names}: --task classes, or another --label.")
    if len(names) > max(20, counts.total() / 2):
        raise ValueError(f"{counts.total()} rows have {len(names)} different labels: name another column with --label.")
    rare = next((name for name in names if per_label[name] < 3), None)
    if rare is not None:
        raise ValueError(f"The label {rare!r} is in {per_label[rare]} rows only: add rows with it, or remove it.")
    index = {name: i for i, name in enumerate(names)}
    targets = [[index[name] for name in dict.fromkeys(read[cell])] for cell in cells_of(rows.table, "label")]
    reason = f"rows have any number of {len(names)} labels"
    return Labels("several labels", names, targets, [per_label[name] for name in names], reason)


def known_labels(rows: Rows, task: Task) -> Labels:
    """The labels of rows for a model that knows its task.

    Raises:
        ValueError: for a label that the model does not know.
    """
    counts = Counter(cells_of(rows.table, "label"))
    if task.is_number:
        return _numbers(rows, {cell: number_of(cell) for cell in counts}, is_pair=task.task == "pairs")
    index = {name: i for i, name in enumerate(task.labels)}
    if task.task == "tokens":
        style = _token_style(rows) or "spans"
        found = _count_characters(rows, style)
        _refuse_unknown(found, index)
        return Labels("tokens", task.labels, None, [found[name] for name in index], "", task.outside, style)
    read = _read_several(counts) if task.task == "several labels" else {cell: [cell] for cell in counts}
    found = Counter(name for cell, count in counts.items() for name in set(read[cell]) for _ in range(count))
    _refuse_unknown(found, index)
    several = [[index[name] for name in dict.fromkeys(read[cell])] for cell in cells_of(rows.table, "label")]
    targets = several if task.task == "several labels" else np.array([each[0] for each in several], dtype=np.int64)
    return Labels(task.task, task.labels, targets, [found[name] for name in index], "")


def _refuse_unknown(found: Iterable[str], index: dict[str, int]) -> None:
    unknown = sorted(set(found) - index.keys())
    if unknown:
        raise ValueError(f"The model knows the labels {list(index)[:20]}, but the data have {unknown[0]!r}.")


def spans_of(cell: str) -> list[Span] | None:
    """The spans in a JSON list, or None; "[]" is a list of none."""
    if not cell.startswith("["):
        return None
    try:
        found = json.loads(cell)
        return [_span(each) for each in found]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return None


def _span(given: Any) -> Span:
    if isinstance(given, dict):
        label = next(
            given[name] for name in ("label", "labels", "entity", "entity_group", "type", "tag") if name in given
        )
        label = label[0] if isinstance(label, list) else label
        return Span(int(given["start"]), int(given["end"]), str(label))
    start, end, label = given
    return Span(int(start), int(end), str(label))


def _token_style(rows: Rows) -> str | None:
    """How labels of tokens are written, by the first rows: "spans", "letters", or None."""
    first = rows.table[: min(len(rows.table), 1000)]
    cells, texts = first["label"], first["text"]
    spans = [spans_of(cell) for cell in cells]
    if all(each is not None for each in spans) and any(spans):
        return "spans"
    same = sum(len(cell) == len(text) and len(text) > 1 for cell, text in zip(cells, texts, strict=True))
    letters = {letter for cell in cells for letter in cell}
    if same >= 0.8 * len(cells) and len(letters) <= 40 and sum(map(len, texts)) > 8 * len(texts):
        return "letters"
    return None


def _tokens(rows: Rows, style: str) -> Labels:
    counts = _count_characters(rows, style)
    names = sorted(counts)
    if style == "spans":
        names = [OUTSIDE, *(name for name in names if name != OUTSIDE)]
    if len(names) < 2:
        raise ValueError(f"Every character has the label {names[0]!r}: there is nothing to predict.")
    what = "a list of spans" if style == "spans" else "a string as long as its text"
    outside = OUTSIDE if OUTSIDE in names else None
    reason = f"the label of a row is {what}"
    return Labels("tokens", names, None, [max(1, counts[name]) for name in names], reason, outside, style)


def _count_characters(rows: Rows, style: str) -> Counter[str]:
    """How many characters have each label."""
    counts: Counter[str] = Counter()
    for row in rows_of(rows.table):
        if style == "letters":
            counts.update(row["label"])
            if len(row["label"]) != len(row["text"]):
                raise ValueError(
                    f"A label string must be as long as its text, but row {row['row']} has {len(row['text'])} "
                    f"characters and {len(row['label'])} labels."
                )
            continue
        counts[OUTSIDE] += len(row["text"])
        for span in checked_spans(row):
            if span.label != OUTSIDE:
                counts[span.label] += span.end - span.start
                counts[OUTSIDE] -= span.end - span.start
    return counts


def checked_spans(row: dict[str, Any]) -> list[Span]:
    """The spans of a row.

    Raises:
        ValueError: for a label that is no list of spans, and a span outside of the text.
    """
    spans = spans_of(row["label"])
    if spans is None:
        raise ValueError(f"The label of row {row['row']} is no list of spans: {row['label'][:60]!r}.")
    length = len(row["text"])
    wrong = next((span for span in spans if not 0 <= span.start < span.end <= length), None)
    if wrong is not None:
        raise ValueError(
            f"Row {row['row']} has a span from {wrong.start} to {wrong.end}, outside of its text, which has {length} "
            "characters."
        )
    return spans


def character_labels(row: dict[str, Any], labels: Labels) -> np.ndarray:
    """The number of the label of each character of a row."""
    index = {name: i for i, name in enumerate(labels.names)}
    if labels.style == "letters":
        return np.array([index[letter] for letter in row["label"]], dtype=np.int64)
    given = np.full(len(row["text"]), index[OUTSIDE], dtype=np.int64)
    for span in checked_spans(row):
        given[span.start : span.end] = index[span.label]
    return given
