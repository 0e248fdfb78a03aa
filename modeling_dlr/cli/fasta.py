"""FASTA files: their records, read by the library datasets, and the letters that these may hold."""

import gzip
import re
import tempfile
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, load_dataset
from datasets.exceptions import DatasetGenerationError

Letters = Literal["dna", "acgt", "any"]

# What a sequence may hold once it is in upper case.
ALLOWED: dict[str, tuple[str, re.Pattern[str]]] = {
    "dna": ("letters of DNA: A, C, G, T, N and those of sets of bases", re.compile("[^ACGTNRYSWKMBDHV]")),
    "acgt": ("A, C, G and T", re.compile("[^ACGT]")),
}


class Record(NamedTuple):
    """One sequence of a FASTA file."""

    name: str
    sequence: str


def read_fasta(path: Path, letters: Letters) -> list[Record]:
    """The records of a FASTA file, which may be compressed by gzip.

    Args:
        path: of the file.
        letters: "dna" and "acgt" read lower case, which often marks repeats, as upper case, and refuse what is no such
            letter; "any" takes sequences as they are, as of proteins.

    Raises:
        ValueError: for a file that is no FASTA, an empty sequence, two records of one name, and a letter that is not
            allowed, with its record and position.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give a FASTA file.")
    _check_beginning(path)
    records = _records(path)
    seen: set[str] = set()
    for place, record in enumerate(records, start=1):
        fault = "has no name" if not record.name else "is empty" if not record.sequence else "is there twice"
        if not record.name or not record.sequence or record.name in seen:
            raise ValueError(
                "Every record must have a name of its own and a sequence, but record "
                f"{place}{f', {record.name!r},' if record.name else ''} {fault}."
            )
        seen.add(record.name)
    return [Record(record.name, checked(record, letters)) for record in records]


def _records(path: Path) -> list[Record]:
    """What the library makes of the file, without its progress bar and with nothing left in its cache."""
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            options = {"split": "train", "cache_dir": cache, "columns": ["id", "sequence"], "keep_in_memory": True}
            rows = load_dataset("fasta", data_files=str(path.resolve()), **options)
            return [Record(row["id"], row["sequence"]) for row in rows]
    except DatasetGenerationError as error:
        raise ValueError(f"{path} could not be read: {error.__cause__ or error}.") from None
    finally:
        if not quiet:
            enable_progress_bars()


def checked(record: Record, letters: Letters) -> str:
    """The sequence of a record as the model reads it; see `read_fasta`."""
    if letters == "any":
        return record.sequence
    sequence = record.sequence.upper()
    rule, wrong = ALLOWED[letters]
    if found := wrong.search(sequence):
        raise ValueError(
            f"Sequences must be {rule}, but record {record.name!r} has {found.group()!r} at position "
            f"{found.start() + 1}: correct it, or pass --letters any to read every letter as it is."
        )
    return sequence


def _check_beginning(path: Path) -> None:
    """Refuse a file whose first line of text is no header: what comes before one would be passed over in silence."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} could not be read: {error}.") from None
    if not first.startswith(b">"):
        raise ValueError(
            f"A FASTA file is UTF-8 text that begins with a line '>name', but {path} begins with {first[:20]!r}."
        )
