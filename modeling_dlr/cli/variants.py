"""Tables of variants: where a sequence differs, and the letters around it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .fasta import Letters, Record, checked

COLUMNS = ["name", "position", "reference", "alternative"]


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".tsv": lambda path: pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False),
}


class Variant(NamedTuple):
    """A row of a table of variants as it was ``given``, and the sequence ``before`` and ``after``."""

    given: dict[str, str]
    before: str
    after: str


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file, its cells as text.

    Raises:
        ValueError: for a file that is not there, of another kind, or no table.
    """
    if path.suffix not in READERS:
        raise ValueError(f"A table must be a file of {sorted(READERS)}, got {path.name}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give a table.")
    try:
        return READERS[path.suffix](path).astype(str)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} could not be read: {error}.") from None


def read_variants(table: pd.DataFrame, records: list[Record], letters: Letters, window: int | None) -> list[Variant]:
    """The variants of a table, each with the letters around it.

    Raises:
        ValueError: for a table without the columns that are read or without rows, and for the first row whose record,
            position or letters are not those of the sequences.
    """
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ValueError(f"A table of variants has the columns {COLUMNS}, but {missing} are missing.")
    if table.empty:
        raise ValueError("A table of variants must have rows, got none.")
    by_name = {record.name: record.sequence for record in records}
    rows = ({str(name): str(cell) for name, cell in row.items()} for row in table.to_dict("records"))
    return [_variant(number, row, by_name, letters, window) for number, row in enumerate(rows, start=1)]


def _variant(
    number: int, row: dict[str, str], by_name: dict[str, str], letters: Letters, window: int | None
) -> Variant:
    name, position, reference, alternative = (
        row[column] for column in ("name", "position", "reference", "alternative")
    )
    if name not in by_name:
        raise ValueError(f"Row {number} of the variants names {name!r}, which is no record of the FASTA file.")
    sequence = by_name[name]
    if not position.isdecimal() or not 1 <= int(position) <= len(sequence):
        raise ValueError(
            f"Row {number} of the variants must have a position in 1 … {len(sequence)} of {name!r}, got {position!r}."
        )
    reference, alternative = (
        checked(Record(f"row {number} of the variants", part), letters) for part in (reference, alternative)
    )
    start = int(position) - 1
    stop = start + len(reference)
    if sequence[start:stop] != reference or not reference:
        raise ValueError(
            f"Row {number} of the variants says {reference!r} at position {position} of {name!r}, where the sequence "
            f"has {sequence[start:stop]!r}: positions count from 1."
        )
    around = 0 if window is None else max(0, window - len(reference))
    first = 0 if window is None else max(0, start - around // 2)
    last = len(sequence) if window is None else stop + around - (start - first)
    before, after = sequence[first:last], sequence[first:start] + alternative + sequence[stop:last]
    if not after:
        raise ValueError(f"Row {number} of the variants leaves nothing of {name!r}: take it out.")
    return Variant(row, before, after)
