"""A table that is computed part by part: what was done is kept, and the file is there as a whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

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


def write_in_parts(output: Path, request: dict[str, Any], count: int, compute: Callable[[int], pd.DataFrame]) -> int:
    """Write a table of ``count`` parts; those of an earlier run of the same request are not computed again.

    Args:
        output: the file, whose folder is made.
        request: on what the parts depend, as JSON has it.
        count: of parts.
        compute: gives each.

    Returns:
        How many parts were there already.

    Raises:
        ValueError: for a table of another kind, an output that is there, or parts of another request.
    """
    check_format(output)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or write to another file.")
    folder = output.with_name(f"{output.name}.parts")
    mark = hashlib.sha256(json.dumps([request, count], sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "request"
    if any(folder.glob("*.parquet")) and stamp.read_text(encoding="utf-8") != mark:
        raise ValueError(f"{folder} holds parts of another request: remove it to begin anew.")
    stamp.write_text(mark, encoding="utf-8")
    paths = [folder / f"{part:06}.parquet" for part in range(count)]
    done = sum(path.is_file() for path in paths)
    for part, path in enumerate(paths):
        if not path.is_file():
            _write(compute(part), path)
    _write(pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True), output)
    shutil.rmtree(folder)
    return done


def _write(table: pd.DataFrame, path: Path) -> None:
    """By a file beside it, which takes its place when it is whole."""
    half = path.with_name(f".{path.name}.half")
    FORMATS[path.suffix][0](table, half)
    os.replace(half, path)  # noqa: PTH105 - over what is there, on every system


def digest(path: Path) -> str:
    """What tells a file from another of the same name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
