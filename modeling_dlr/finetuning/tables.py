"""Rows of a source, one by one: a table, a folder of files by class, FASTA, or a data set of the Hub.

Nothing is held in memory but the row that is read.
"""

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import datasets
import pyarrow as pa
from huggingface_hub import HfApi
from pyarrow import parquet

from .names import nearest_file, one_line_of_hub

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
FASTA = (".fa", ".fasta", ".fna", ".faa")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff")

# How files and folders of a split may be called.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
# The one split of a source that has no splits of its own.
WHOLE = "all"

Row = dict[str, Any]


class Source(NamedTuple):
    """Where rows come from: the files of each split, or a data set of the Hub.

    Attributes:
        name: as it was given.
        splits: the files of each split; those of a folder by class are read with the names of their folders.
        by_class: the kind of files in a folder by class, "text", "image" or "sound", or "fasta"; None for tables.
        on_hub: whether the name is one of the Hub.
    """

    name: str
    splits: dict[str, list[Path]]
    by_class: str | None = None
    on_hub: bool = False


def find_source(name: str | Path) -> Source:
    """Find what a name means: a file, a folder, or a data set of the Hub.

    Raises:
        ValueError: for a name that means nothing, a file of an unknown kind, and an empty folder.
    """
    path = Path(name)
    if path.is_file():
        if kind_of(path) not in TABLES + FASTA:
            raise ValueError(f"A table must be a file of {[*TABLES, *FASTA]}, got {path.name}.")
        return Source(str(name), {WHOLE: [path]})
    if path.is_dir():
        return _folder(path)
    if path.suffix or str(name).count("/") > 1 or str(name).startswith((".", "/")):
        raise ValueError(f"There is no file or folder {str(name)!r}{nearest_file(path)}.")
    return Source(str(name), _splits_of_hub(str(name)), on_hub=True)


def iter_rows(source: str | Path | Source, split: str | None = None, *, encoding: str = "utf-8") -> Iterator[Row]:
    """Yield the rows of a source, as dictionaries by column.

    A cell of CSV and TSV is a text; one of JSON and parquet has its type. A row of a folder by class has the columns
    ``file``, ``text`` (or ``image`` or ``sound``, the path of the file) and ``label``; one of FASTA has ``name``,
    ``description``, ``sequence``, and what the description says as ``key=value``.

    Args:
        source: a name as `find_source` knows it, or what it found.
        split: only the rows of this split.
        encoding: of text, or several after commas, of which the first that fits is taken.

    Raises:
        ValueError: for a row that cannot be read, with its place.
    """
    found = source if isinstance(source, Source) else find_source(source)
    encodings = encoding.split(",")
    for name in found.splits if split is None else [split]:
        if found.on_hub:
            yield from _hub_rows(found.name, name)
        for path in found.splits[name]:
            yield from _file_rows(path, found.by_class, encodings)


def _file_rows(path: Path, by_class: str | None, encodings: Sequence[str]) -> Iterator[Row]:
    kind = kind_of(path)
    try:
        match by_class, kind:
            case ("image" | "sound" as medium, _):
                yield {"file": path.name, medium: str(path), "label": path.parent.name}
            case ("text", _):
                text = _decoded(path.read_bytes(), encodings, path.name)
                yield {"file": path.name, "text": text, "label": path.parent.name}
            case ("fasta", _):
                yield from (row | {"label": path.name.split(".")[0]} for row in _fasta_rows(path))
            case (_, ".csv" | ".tsv"):
                yield from _csv_rows(path, encodings)
            case (_, ".jsonl" | ".json"):
                yield from _json_rows(path, encodings)
            case (_, ".parquet"):
                batches = parquet.ParquetFile(path).iter_batches(batch_size=256)
                yield from (row for batch in batches for row in batch.to_pylist())
            case _:
                yield from _fasta_rows(path)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} could not be read: {' '.join(str(error).split())}") from None


def _csv_rows(path: Path, encodings: Sequence[str]) -> Iterator[Row]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        lines = _lines(path, encodings)
        first = next(lines, "")
        counts = {mark: first.count(mark) for mark in ",;\t"}
        separator = "\t" if kind_of(path) == ".tsv" else max(counts, key=lambda mark: counts[mark])
        header = next(csv.reader([first], delimiter=separator), [])
        if not header or len(set(header)) != len(header):
            raise ValueError(f"The first line of {path.name} must name every column once, got {header}.")
        reader = csv.reader(lines, delimiter=separator)
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"Every row of {path.name} must have {len(header)} cells, but the one that ends in line "
                    f"{reader.line_num + 1} has {len(row)}: quote cells that contain {separator!r} or a line break."
                )
            if row:
                yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path.name} could not be read: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def _json_rows(path: Path, encodings: Sequence[str]) -> Iterator[Row]:
    """Of JSON lines; or of one list of objects, which is read as a whole."""
    with _open(path) as file:
        first = next((line for line in file if line.strip()), b"")
        is_list = first.lstrip()[:1] == b"["
        whole = first + file.read() if is_list else b""
    if is_list:
        numbered = [(1, _decoded(whole, encodings, path.name))]
    else:
        numbered = ((number, line) for number, line in enumerate(_lines(path, encodings), 1) if line.strip())
    for number, text in numbered:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"Line {number} of {path.name} is no JSON: {error}.") from None
        for row in found if is_list else [found]:
            if not isinstance(row, dict):
                raise ValueError(f"Line {number} of {path.name} must be an object per row, got {row!r:.60}.")
            yield row


def _fasta_rows(path: Path) -> Iterator[Row]:
    """Each record by its name, with what its description says as ``key=value`` as columns."""
    header, parts = None, []
    with io.TextIOWrapper(_open(path), encoding="utf-8") as file:
        for line in file:
            if line.startswith(">"):
                if header is not None:
                    yield _record(header, parts)
                header, parts = line[1:].strip(), []
            elif header is None and line.strip():
                raise ValueError(f"A FASTA file begins with a line '>name', but {path.name} begins with {line[:20]!r}.")
            else:
                parts.append(line.strip())
    if header is not None:
        yield _record(header, parts)


def _record(header: str, parts: list[str]) -> Row:
    name, _, description = header.partition(" ")
    pairs = dict(word.split("=", 1) for word in description.split() if "=" in word)
    return {"name": name, "description": description, "sequence": "".join(parts)} | pairs


def _lines(path: Path, encodings: Sequence[str]) -> Iterator[str]:
    with _open(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # as spreadsheets save Unicode text
            with io.TextIOWrapper(_open(path), encoding="utf-16", newline="") as text:
                yield from text
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            yield _decoded(raw, encodings, f"line {number} of {path.name}")


def _open(path: Path) -> BinaryIO:
    """The bytes of a file, without the compression of gzip."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _decoded(raw: bytes, encodings: Sequence[str], where: str) -> str:
    wrong = 0
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            wrong = error.start
        except LookupError:
            raise ValueError(f"There is no encoding {encoding!r}: name one such as utf-8 or cp1252.") from None
    raise ValueError(
        f"Text must be {' or '.join(encodings)}, but {where} has the byte {raw[wrong]:#x}: save it as UTF-8, or pass "
        "--encoding utf-8,cp1252 to read what is not UTF-8 as Windows-1252."
    )


def kind_of(path: Path) -> str:
    """The ending of a file, without that of gzip."""
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def _split_of(name: str) -> str | None:
    """The split that a file or folder of this name holds: "train-00001.csv" is of "train"."""
    word = name.lower().replace("-", ".").replace("_", ".").split(".")[0]
    return next((split for split, names in SPLIT_NAMES.items() if word in names), None)


def _folder(path: Path) -> Source:
    inside = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    if (path / "config.json") in inside and any(each.suffix == ".safetensors" for each in inside):
        raise ValueError(f"The folder {path} holds a model, not rows: name a table or a folder of files by class.")
    tables = [each for each in inside if each.is_file() and kind_of(each) in TABLES]
    fasta = [each for each in inside if each.is_file() and kind_of(each) in FASTA]
    if tables:
        return Source(str(path), _by_split([(_split_of(each.name), each) for each in tables]))
    if fasta:
        return Source(str(path), {WHOLE: fasta}, "fasta" if len(fasta) > 1 else None)
    outer = {each: _split_of(each.name) for each in inside if each.is_dir()}
    in_splits = bool(outer) and all(outer.values())
    classes = [(split if in_splits else None, folder) for folder, split in outer.items()]
    if in_splits:
        classes = [(split, each) for split, folder in classes for each in sorted(folder.iterdir()) if each.is_dir()]
    files = [
        (split, each)
        for split, folder in classes
        for each in sorted(folder.iterdir())
        if each.is_file() and not each.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"The folder {path} has neither a table ({', '.join(TABLES)}) nor FASTA files nor a folder of files for "
            "every class."
        )
    kinds = {kind_of(each) for _, each in files}
    medium = next((name for name, known in {"image": IMAGES, "sound": SOUNDS}.items() if kinds <= set(known)), "text")
    return Source(str(path), _by_split(files), medium)


def _by_split(files: Sequence[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    """The files of each split; all of them in one where they are of no split."""
    parts: dict[str, list[Path]] = {}
    for split, path in files:
        parts.setdefault(split or WHOLE, []).append(path)
    return parts if WHOLE not in parts else {WHOLE: [path for _, path in files]}


def _splits_of_hub(name: str) -> dict[str, list[Path]]:
    with one_line_of_hub(name, "file or folder here", "data set"):
        HfApi().dataset_info(name, timeout=20)  # once: what follows tries again and again where there is no network
        found = datasets.get_dataset_split_names(name)
    return {(_split_of(split) or split): [] for split in found}


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    with one_line_of_hub(name, "file or folder here", "data set"):
        own = next(each for each in datasets.get_dataset_split_names(name) if (_split_of(each) or each) == split)
        rows = datasets.load_dataset(name, split=own, streaming=True)
        named = {name: each for name, each in (rows.features or {}).items() if isinstance(each, datasets.ClassLabel)}
        for row in rows:
            yield row | {column: feature.int2str(row[column]) for column, feature in named.items()}
