"""Read untrusted files safely: regular files only, up to a maximum size."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, reason_of

# Configurations, cards and hyper-parameters usually have a few thousand bytes.
MOST_TEXT = 2**22


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; refuse pipes, devices, sockets and folders, which could block.

    Raises:
        InputError: if the file does not exist, cannot be read, or is not a regular file.
    """
    # Check again after opening without blocking, because another file may have taken the name in between.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        _refuse_other_kinds(path, os.stat(path).st_mode)  # noqa: PTH116 - Path.stat differs in nothing but its name
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s:.200} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        _refuse_other_kinds(path, os.fstat(descriptor).st_mode)
        yield file


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} must be a regular file, but it is a folder.")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} must be a regular file, but it is a pipe, a socket or a device.")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        InputError: as in `open_regular`, and for a larger file.
    """
    with open_regular(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > most:
        raise InputError(f"{path} has more than {most:,} bytes, which is too large for such a file: give another one.")
    return content


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Read a UTF-8 text file, with line ends of any system.

    Raises:
        InputError: as in `read_bytes`, and for a file in another encoding.
    """
    try:
        text = read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start:,}): save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """Read a JSON file.

    Raises:
        InputError: as in `read_text`, and for invalid or too deeply nested JSON.
    """
    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {reason_of(error)}.") from error
