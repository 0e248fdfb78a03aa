"""A table that is computed part by part: what was done is kept, and the file is there as a whole or not at all."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tqdm.auto import tqdm

from modeling_dlr.whole_files import write_whole

Item = TypeVar("Item")
Row = Mapping[str, Any]

# Rows and letters of a part of the output: what is computed again at most when a run ends early.
PART_ROWS = 1024
PART_LETTERS = 2**18


class Written(NamedTuple):
    """What was written.

    Attributes:
        output: the file.
        rows: in it.
        kept: how many of the rows that were read an earlier run had computed.
        empty: how many of the rows that were read have an empty input.
        columns: that were added.
    """

    output: Path
    rows: int
    kept: int
    empty: int = 0
    columns: tuple[str, ...] = ()


def check_output(output: Path, formats: Iterable[str] | None = None) -> None:
    """Refuse a file of another kind, or one that is there.

    Raises:
        ValueError: saying so.
    """
    known = sorted(TABLES if formats is None else formats)
    if output.suffix not in known:
        raise ValueError(f"The output must be a file of {known}, got {output.name}.")
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or write to another file.")


def in_chunks(items: Iterable[Item], letters: Callable[[Item], int]) -> Iterator[list[Item]]:
    """What each part is computed of: `PART_ROWS` items, or as many as have `PART_LETTERS` letters.

    >>> [len(chunk) for chunk in in_chunks([PART_LETTERS, 1, PART_LETTERS - 1, 5], int)]
    [1, 2, 1]
    """
    chunk: list[Item] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += letters(item)
        if len(chunk) == PART_ROWS or total >= PART_LETTERS:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


class Counted(Generic[Item]):
    """Items that are passed on, and the count of those for which a condition holds."""

    def __init__(self, items: Iterable[Item], condition: Callable[[Item], bool]):
        self.items, self.condition, self.count = items, condition, 0

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            self.count += self.condition(item)
            yield item


class Parts:
    """The finished parts of a table, by their numbers, in the folder ``output.parts`` until the table is whole.

    Args:
        output: the file.
        request: what its rows depend on, as JSON has it.

    Raises:
        ValueError: for a file of another kind, an output that is there, or parts of another request.
    """

    def __init__(self, output: Path, request: dict[str, Any]):
        check_output(output, FORMATS)
        self.output, self.folder = output, output.with_name(f"{output.name}.parts")
        self.suffix = ".jsonl" if output.suffix == ".jsonl" else ".parquet"
        settings = json.dumps([request, PART_ROWS, PART_LETTERS], sort_keys=True)
        self.mark, self.stamp = hashlib.sha256(settings.encode()).hexdigest(), self.folder / "request"
        if any(self.folder.glob(f"*{self.suffix}")) and not self._is_marked():
            raise ValueError(f"{self.folder} holds parts of another request: remove it to begin anew.")

    def _is_marked(self) -> bool:
        """Whether the folder is of this request."""
        return self.stamp.is_file() and self.stamp.read_text(encoding="utf-8") == self.mark

    def path(self, number: int) -> Path:
        """Where the part lies, once it is finished."""
        return self.folder / f"{number:09}{self.suffix}"

    def finished(self) -> frozenset[int]:
        """The numbers of the parts that are there."""
        return frozenset(int(path.stem) for path in self.folder.glob(f"[0-9]*{self.suffix}"))

    def add(self, number: int, part: bytes) -> None:
        """Keep a part, which `encoded` has made."""
        self.folder.mkdir(parents=True, exist_ok=True)  # what fails before the first part leaves nothing
        if not self._is_marked():
            write_whole(self.stamp, lambda half: half.write_text(self.mark, encoding="utf-8"))
        write_whole(self.path(number), lambda half: half.write_bytes(part))

    def merge(self, count: int) -> int:
        """Write the table of parts 0 to ``count`` - 1, remove them, and return how many rows it has."""
        paths = [self.path(number) for number in range(count)]
        rows = write_whole(self.output, lambda half: FORMATS[self.output.suffix](paths, half))
        shutil.rmtree(self.folder)
        return rows


def write_in_parts(
    output: Path,
    request: dict[str, Any],
    chunks: Iterable[Sequence[Item]],
    compute: Callable[[Sequence[Item]], Sequence[Row]],
    *,
    progress: bool = True,
) -> Written:
    """Write a table part by part; parts of an earlier run of the same request are not computed again.

    Args:
        output: the file, whose folder is made. Its parts lie in ``output.parts`` until it is whole.
        request: what the rows depend on, as JSON has it.
        chunks: what each part is computed of, the same at every run; see `in_chunks`.
        compute: makes the rows of a part.
        progress: show a progress bar, on terminals.

    Raises:
        ValueError: for a file of another kind, an output that is there, or parts of another request.
        OSError: for a file that cannot be written.
    """
    parts = Parts(output, request)
    kept = count = 0
    with tqdm(unit="row", disable=None if progress else True, leave=False) as bar:
        for count, chunk in enumerate(chunks, 1):
            if parts.path(count - 1).is_file():
                kept += len(chunk)
            else:
                parts.add(count - 1, encoded(compute(chunk), parts.suffix))
            bar.update(len(chunk))
    return Written(output, parts.merge(count), kept)


def identity(name: str | os.PathLike[str]) -> list[Any]:
    """What tells a file, a folder or a name of the Hub from another, and a changed one from what it was."""
    path = Path(name)
    if path.is_file():
        with path.open("rb") as file:
            return [path.name, hashlib.file_digest(file, "sha256").hexdigest()]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return [str(name), *([place, stat.st_size, stat.st_mtime_ns] for place, stat in stats)]


def encoded(rows: Sequence[Mapping[str, Any]], suffix: str) -> bytes:
    """The rows as the contents of a file, of JSON lines for ".jsonl", otherwise parquet."""
    if suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False, default=_plain) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()
    sink = pa.BufferOutputStream()
    parquet.write_table(_table_of(rows), sink)
    return sink.getvalue().to_pybytes()


def _table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as columns of one type each; a column of several types becomes text."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_text(cell) if cell is not None else None for cell in cells])


def _text(cell: Any) -> str:
    """A cell as it is written to a table of texts; lists as JSON."""
    if cell is None:
        return ""
    if isinstance(cell, (list, dict, tuple, np.ndarray)):
        return json.dumps(cell, ensure_ascii=False, default=_plain)
    return str(cell)


def _plain(cell: Any) -> Any:
    """What JSON does not know."""
    return cell.tolist() if isinstance(cell, (np.ndarray, np.generic)) else str(cell)


def _merge_lines(parts: Sequence[Path], path: Path) -> int:
    count = 0
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                count += sum(1 for _ in file)
                file.seek(0)
                shutil.copyfileobj(file, whole)
    return count


def _merge_cells(separator: str, parts: Sequence[Path], path: Path) -> int:
    schema, count = _schema_of(parts), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(schema.names)
        for table in _tables(parts, schema):
            count += table.num_rows
            writer.writerows([_text(cell) for cell in row.values()] for row in table.to_pylist())
    return count


def _merge_parquet(parts: Sequence[Path], path: Path) -> int:
    schema, count = _schema_of(parts), 0
    with parquet.ParquetWriter(path, schema) as writer:
        for table in _tables(parts, schema):
            count += table.num_rows
            writer.write_table(table)
    return count


def _merge_arrays(parts: Sequence[Path], path: Path) -> int:
    """Of a table of embeddings: an array [rows, features] in float32, NaN in rows without one."""
    count = sum(parquet.ParquetFile(part).metadata.num_rows for part in parts)
    columns = (parquet.read_table(part, columns=["embedding"])["embedding"].to_pylist() for part in parts)
    whole, at = None, 0
    for cells in columns:
        width = next((len(cell) for cell in cells if cell is not None), None)
        if whole is None and width is not None:
            whole = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
            whole[:at] = np.nan
        if whole is not None:
            empty = np.full(whole.shape[1], np.nan)
            whole[at : at + len(cells)] = [empty if cell is None else cell for cell in cells]
        at += len(cells)
    if whole is None:
        raise ValueError("Every row is empty: there is nothing to write.")
    whole.flush()
    return count


def _schema_of(parts: Sequence[Path]) -> pa.Schema:
    """The columns of all parts, of one type each."""
    types: dict[str, pa.DataType] = {}
    for part in parts:
        for column in parquet.read_schema(part):
            types[column.name] = _common(types.get(column.name, pa.null()), column.type)
    return pa.schema(list(types.items()))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    try:
        schemas = [pa.schema([("", each)]) for each in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive")[0].type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for part in parts:
        table = parquet.read_table(part)
        here = dict(zip(table.column_names, table.columns, strict=True))
        yield pa.table([_cast(here.get(field.name), field.type, len(table)) for field in schema], schema=schema)


def _cast(column: pa.ChunkedArray | None, kind: pa.DataType, count: int) -> pa.ChunkedArray | pa.Array:
    """A column of a part as the whole table has it; without it, as many empty cells."""
    if column is None:
        return pa.nulls(count, kind)
    if column.type == kind:
        return column
    cells = column.to_pylist()
    if pa.types.is_string(kind):
        cells = [None if cell is None else _text(cell) for cell in cells]
    return pa.array(cells, kind)


FORMATS: dict[str, Callable[[Sequence[Path], Path], int]] = {
    ".csv": lambda parts, path: _merge_cells(",", parts, path),
    ".tsv": lambda parts, path: _merge_cells("\t", parts, path),
    ".jsonl": _merge_lines,
    ".parquet": _merge_parquet,
    ".npy": _merge_arrays,
}
TABLES = (".csv", ".jsonl", ".parquet", ".tsv")
