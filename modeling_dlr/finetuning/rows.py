"""The rows of a source, read once into a file that is mapped into memory: however many there are, memory stays flat."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .columns import Columns, check_column
from .tables import Row, Source, iter_rows

SAMPLE = 1000
_BATCH = 500


@dataclass
class Rows:
    """What was read.

    Attributes:
        table: columns ``row`` (its number in the source), ``text``, ``other`` (the second of a pair) and ``label``.
        split: of each row, the number of its split in ``splits``.
        splits: the names of the splits of the source.
        keys: of each row, a hash of its text: duplicates have the same.
        groups: of each row, a hash of its group; None without groups.
        empty: how many rows were dropped because of an empty cell, by column.
    """

    table: Dataset
    split: np.ndarray
    splits: list[str]
    keys: np.ndarray
    groups: np.ndarray | None
    empty: Counter[str]


def sample_of(source: Source, encoding: str) -> list[Row]:
    """The first rows, of every split where there are several.

    Raises:
        ValueError: for a source without rows.
    """
    sample = [row for split in source.splits for row in islice(iter_rows(source, split, encoding=encoding), SAMPLE)]
    if not sample:
        raise ValueError(f"{source.name} has no rows.")
    return sample


def cells_of(table: Dataset, name: str) -> Iterator[str]:
    """The cells of a column, one by one."""
    for batch in table.select_columns([name]).with_format("arrow").iter(_BATCH):
        yield from batch[name].to_pylist()


def rows_of(table: Dataset) -> Iterator[Row]:
    """The rows of a table, one by one."""
    for batch in table.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def read_rows(source: Source, columns: Columns, folder: Path, *, encoding: str, group: str | None = None) -> Rows:
    """Read all rows that have no empty cell.

    Args:
        source: where they come from.
        columns: which cells are kept.
        folder: where they are written.
        encoding: as `iter_rows` takes it.
        group: the column of groups.

    Raises:
        ValueError: for a row that cannot be read, and where no row is left.
    """
    splits = list(source.splits)
    empty: Counter[str] = Counter()
    # The split, the key and the group of each row, in as few bytes as they take.
    marks = array("b"), array("q"), array("q")
    path = folder / "rows.arrow"
    names = ["row", "text", *(["other"] if columns.is_pair else []), "label"]
    schema = pa.schema([(name, pa.int64() if name == "row" else pa.large_string()) for name in names])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        kept = _kept(source, columns, encoding, group, empty)
        while batch := list(islice(kept, _BATCH)):
            for column, values in zip(marks, zip(*(mark for _, mark in batch), strict=True), strict=False):
                column.extend(values)
            columns_of = zip(*(cells for cells, _ in batch), strict=True)
            arrays = [pa.array(cells, type=kind.type) for cells, kind in zip(columns_of, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    if not marks[0]:
        raise ValueError(f"Every row of {source.name} has an empty cell in one of {[*columns.texts, *columns.labels]}.")
    split, keys, groups = (np.array(column) for column in marks)
    return Rows(Dataset.from_file(str(path)), split, splits, keys, None if group is None else groups, empty)


def _kept(
    source: Source, columns: Columns, encoding: str, group: str | None, empty: Counter[str]
) -> Iterator[tuple[list[Any], list[int]]]:
    """Cells and place of every row without empty cells; those with one are counted."""
    base = Path(source.name) if Path(source.name).is_dir() else Path(source.name).parent
    number = 0
    for place, split in enumerate(source.splits):
        for row in iter_rows(source, split, encoding=encoding):
            number += 1
            for name in [*columns.texts, *columns.labels]:
                if name not in row:
                    check_column(name, "text" if name in columns.texts else "label", list(row))
            missing = next((name for name in [*columns.texts, *columns.labels] if _is_empty(row[name])), None)
            if missing is not None:
                empty[missing] += 1
                continue
            texts = [_text(row[name]) for name in columns.texts]
            if columns.input in ("image", "sound"):
                texts = [_file(text, base, number) for text in texts]
            texts = texts if columns.is_pair else ["\n".join(texts)]
            mark = [place, _hash_of(texts, columns.input)]
            if group is not None:
                check_column(group, "group", list(row))
                mark.append(_hashed(str(row[group]).encode()))
            yield [number, *texts, _label(row, columns)], mark


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())  # noqa: PLR0124 - NaN


def _text(cell: Any) -> str:
    """A text as it stands; the words of a list, joined by spaces."""
    return " ".join(map(str, cell)) if isinstance(cell, list) else str(cell)


def _label(row: Row, columns: Columns) -> str:
    """The label as text: lists as JSON, words with their labels as spans, columns of 0 and 1 as a list of names."""
    if len(columns.labels) > 1:
        return json.dumps([name for name in columns.labels if _is_on(row[name], name)])
    cell, text = row[columns.labels[0]], row[columns.texts[0]]
    if isinstance(text, list) and isinstance(cell, list):
        return json.dumps(_spans_of_words(text, cell))
    if isinstance(cell, list | dict):
        return json.dumps(cell)
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _is_on(cell: Any, name: str) -> bool:
    word = str(cell).strip().lower()
    if word in ("1", "1.0", "true", "yes"):
        return True
    if word in ("0", "0.0", "false", "no"):
        return False
    raise ValueError(f"Several columns of labels must hold 0 and 1, but {name!r} holds {cell!r}.")


def _spans_of_words(words: Sequence[Any], labels: Sequence[Any]) -> list[list[Any]]:
    """Start, end and label of every word in the text that they make together."""
    if len(words) != len(labels):
        raise ValueError(f"There must be a label for every word, got {len(words)} words and {len(labels)} labels.")
    spans, start = [], 0
    for word, label in zip(map(str, words), map(str, labels), strict=True):
        spans.append([start, start + len(word), label])
        start += len(word) + 1
    return [[start, end, label.split("-", 1)[-1]] for start, end, label in spans]


def _file(name: str, base: Path, number: int) -> str:
    """A file by its path, from here or from where the table is."""
    for path in (base / name, Path(name)):
        if path.is_file():
            return str(path)
    raise ValueError(f"Row {number} names the file {name!r}, which is not there.")


def _hash_of(texts: Sequence[str], kind: str) -> int:
    if kind in ("image", "sound"):
        return _hashed(b"".join(Path(text).read_bytes() for text in texts))
    return _hashed("\0".join(" ".join(text.split()) for text in texts).encode("utf-8", "surrogatepass"))


def _hashed(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")
