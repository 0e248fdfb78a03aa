"""Files that appear whole or not at all, also when the process is killed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> Any:
    """Write a file beside the path, which takes its place when it is whole, and return what ``write`` returns."""
    half = path.with_name(f".half.{path.name}")
    try:
        written = write(half)
        os.replace(half, path)  # noqa: PTH105 - over what is there, on every system
    finally:
        half.unlink(missing_ok=True)
    return written
