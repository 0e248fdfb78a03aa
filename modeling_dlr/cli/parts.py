"""A table that is computed part by part: what was done is kept, and the file is there as a whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from tqdm.auto import tqdm

Item = TypeVar("Item")

# Letters of a part of the output: what is computed again at most when a run ends early, and many batches of short ones.
PART_LETTERS = 2**18

FORMATS: dict[str, tuple[Callable[[pd.DataFrame, Path], None], Callable[[Path], pd.DataFrame]]] = {
    ".parquet": (lambda table, path: table.to_parquet(path, index=False), pd.read_parquet),
    ".csv": (
        lambda table, path: table.to_csv(path, index=False),
        lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ),
    ".tsv": (
        lambda table, path: table.to_csv(path, index=False, sep="\t"),
        lambda path: pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False),
    ),
}


def check_format(path: Path) -> None:
    """Refuse a table of another kind.

    Raises:
        ValueError: naming the file.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"A table must be a file of {sorted(FORMATS)}, got {path.name}.")


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file, its cells as text.

    Raises:
        ValueError: for a file that is not there, of another kind, or no table.
    """
    check_format(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give a table.")
    try:
        return FORMATS[path.suffix][1](path).astype(str)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} could not be read: {error}.") from None


def write_in_parts(
    output: Path,
    request: dict[str, Any],
    items: Sequence[Item],
    lengths: Sequence[int],
    compute: Callable[[Sequence[Item]], pd.DataFrame],
) -> int:
    """Write a table of one row for each item; parts of an earlier run of the same request are not computed again.

    Args:
        output: the file, whose folder is made.
        request: what the rows depend on, as JSON has it.
        items: at least one.
        lengths: the work that each item is, in letters; a part ends when it has `PART_LETTERS` of them.
        compute: makes the rows of some items.

    Returns:
        How many rows were there already.

    Raises:
        ValueError: for a table of another kind, an output that is there, or parts of another request.
    """
    check_format(output)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or write to another file.")
    bounds = part_bounds(lengths)
    folder = output.with_name(f"{output.name}.parts")
    mark = hashlib.sha256(json.dumps([request, bounds], sort_keys=True).encode()).hexdigest()
    stamp = folder / "request"
    if any(folder.glob("*.parquet")) and not (stamp.is_file() and stamp.read_text(encoding="utf-8") == mark):
        raise ValueError(f"{folder} holds parts of another request: remove it to begin anew.")
    parts = [(folder / f"{start:09}.parquet", start, stop) for start, stop in pairwise(bounds)]
    kept = sum(stop - start for path, start, stop in parts if path.is_file())
    with tqdm(total=len(items), initial=kept, unit="row") as bar:
        for path, start, stop in parts:
            if not path.is_file():
                table = compute(items[start:stop])
                folder.mkdir(parents=True, exist_ok=True)  # what fails before the first rows leaves nothing
                stamp.write_text(mark, encoding="utf-8")
                _write(table, path)
                bar.update(stop - start)
    _write(pd.concat([pd.read_parquet(path) for path, _, _ in parts], ignore_index=True), output)
    shutil.rmtree(folder)
    return kept


def part_bounds(lengths: Sequence[int]) -> list[int]:
    """Where parts begin, and the end: each has at least `PART_LETTERS` letters, but for the last.

    >>> part_bounds([PART_LETTERS, 1, PART_LETTERS - 1, 5])
    [0, 1, 3, 4]
    """
    bounds, letters = [0], 0
    for place, length in enumerate(lengths, start=1):
        letters += length
        if letters >= PART_LETTERS or place == len(lengths):
            bounds.append(place)
            letters = 0
    return bounds


def _write(table: pd.DataFrame, path: Path) -> None:
    """By a file beside it, which takes its place when it is whole."""
    half = path.with_name(f".{path.name}.half")
    FORMATS[path.suffix][0](table, half)
    os.replace(half, path)  # noqa: PTH105 - over what is there, on every system


def digest(path: Path) -> str:
    """What tells a file from another of the same name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
