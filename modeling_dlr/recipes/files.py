"""Load the user's data files: check them before 🤗 Datasets reads them, and drop rows with empty cells."""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

from modeling_dlr.finetuning.stopping import one_line

FILE_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_CELLS: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}


def load_rows(source: str) -> DatasetDict:
    """Load a CSV, TSV, JSON, JSON-lines or parquet file, a folder, or a data set of the Hub.

    Raises:
        FileNotFoundError: if the name exists neither on this machine nor on the Hub.
        ValueError: for a file of another type, or one that cannot be read; the message says where.
    """
    path = Path(source)
    if not path.is_file():
        try:
            return _loaded(source, source, **_tables_of(path))
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"The data set {source!r} was not found on this machine or on the Hub: give your folder or file with "
                "--dataset."
            ) from error
    if path.suffix not in FILE_KINDS:
        raise ValueError(f"A data set must be a folder, a Hub name or a {sorted(FILE_KINDS)} file, got {path.name}.")
    if not path.stat().st_size:
        raise ValueError(f"{path.name} is empty.")
    if FILE_KINDS[path.suffix] == "csv":
        return load_tables({"train": path}, _SEPARATORS[path.suffix])
    return _loaded(path.name, FILE_KINDS[path.suffix], data_files=str(path))


def load_tables(paths: dict[str, Path], separator: str, columns: Sequence[str] | None = None) -> DatasetDict:
    """Load CSV or TSV files, one per split. Cells are kept as written; "NA" and "None" are not read as missing.

    Args:
        paths: the file of each split.
        separator: separator between cells.
        columns: names of the columns, if the files have no header.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: for a file that is not UTF-8, has no rows, or has rows of different lengths; the message names the
            line.
    """
    for path in paths.values():
        _check_table(path, separator, columns)
    named: dict[str, Any] = {} if columns is None else {"column_names": list(columns)}
    files = {split: str(path) for split, path in paths.items()}
    names = ", ".join(path.name for path in paths.values())
    return _loaded(names, "csv", data_files=files, sep=separator, **_CELLS, **named)


def without_empty_cells(data: DatasetDict, columns: Sequence[str]) -> DatasetDict:
    """Drop rows with an empty cell in one of the columns, and print how many were dropped.

    Raises:
        ValueError: if no row of a split is left.
    """
    kept, counts, total = {}, dict.fromkeys(columns, 0), 0
    for split, rows in data.items():
        empty = np.zeros((len(columns), len(rows)), dtype=bool)
        batches = rows.select_columns(list(columns)).with_format("arrow").iter(1000) if len(rows) else ()
        for place, batch in enumerate(batches):
            for at, column in enumerate(columns):
                empty[at, 1000 * place : 1000 * place + len(batch)] = _empty(batch[column])
        counts = {column: count + int(row.sum()) for (column, count), row in zip(counts.items(), empty, strict=True)}
        total += len(rows)
        kept[split] = rows.select(np.flatnonzero(~empty.any(0))) if empty.any() else rows
        if len(rows) and not len(kept[split]):
            raise ValueError(f"Every row of the {split} split has an empty cell in one of the columns {list(columns)}.")
    left_out = total - sum(map(len, kept.values()))
    if left_out:
        found = ", ".join(f"{count} in {column!r}" for column, count in counts.items() if count)
        print(f"Dropped {left_out} of {total} rows with empty cells: {found}.")
    return DatasetDict(kept)


def _loaded(name: str, kind: str, **options: Any) -> DatasetDict:
    """Load with 🤗 Datasets; if that fails, raise one line with the reason instead of its log."""
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        loaded = load_dataset(kind, **options)
    except (DatasetGenerationError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name} could not be read: {one_line(error.__cause__ or error)}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
    if "train" not in loaded:
        raise ValueError(f"The data set {name!r} has no split 'train'; it has {sorted(loaded)}.")
    if not len(loaded["train"]):
        raise ValueError(f"The data set {name!r} has no training rows.")
    return loaded


def _tables_of(folder: Path) -> dict[str, Any]:
    """Check the tables in a folder; return the reading options if the folder has only tables of one type."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".md"]
    for path in files:
        if path.suffix in _SEPARATORS:
            _check_table(path, _SEPARATORS[path.suffix], None)
    kinds = {path.suffix for path in files}
    return _CELLS if len(kinds) == 1 and kinds <= _SEPARATORS.keys() else {}


def _check_table(path: Path, separator: str, columns: Sequence[str] | None) -> None:
    rows = _rows(path, separator)
    width = len(columns or next(rows, (0, []))[1])
    count = 0
    for line, row in rows:
        count += 1
        if len(row) != width:
            raise ValueError(
                f"Every row of {path.name} must have {width} cells, but the one that ends in line {line} has "
                f"{len(row)}: quote cells that contain {separator!r} or a line break."
            )
    if not count:
        raise ValueError(f"{path.name} has no rows{' below its header' if width and columns is None else ''}.")


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line, and the cells, of every row that is not blank."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            yield from ((reader.line_num, row) for row in reader if row)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} must be UTF-8, but it has the byte {error.object[error.start]:#x}: save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path.name} could not be read: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def _empty(column: pa.ChunkedArray) -> np.ndarray:
    """Which cells are null, NaN, a blank text or an empty list."""
    compute: Any = pc  # its functions are created at import, so type checkers do not see them
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = compute.utf8_length(compute.utf8_trim_whitespace(column))
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = compute.list_value_length(column)
    else:
        return column.is_null(nan_is_null=True).to_numpy()
    return compute.equal(compute.fill_null(column, 0), 0).to_numpy()
