"""Files that anybody may have written, read within bounds: regular files only, and so many bytes at most."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, reason_of

# Configurations, cards and hyper-parameters have some thousand bytes.
MOST_TEXT = 2**22


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe, a device, a socket or a folder is refused before it could wait.

    Raises:
        InputError: if there is no such file, if it may not be read, or if it is of another kind.
    """
    # What is opened without waiting is looked at again: the name may have been given to another file in between.
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
        raise InputError(f"{path} is a folder, where a file is needed.")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe, a socket or a device, where a regular file is needed.")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        InputError: as `open_regular`, and for a file that is larger.
    """
    with open_regular(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > most:
        raise InputError(f"{path} has more than {most:,} bytes, which no such file needs: name another.")
    return content


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The same as text in UTF-8, with line ends as they are in text files of any system.

    Raises:
        InputError: as `read_bytes`, and for a file in another encoding.
    """
    try:
        text = read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start:,}): save it in that encoding.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: as `read_text`, and for text that is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {reason_of(error)}.") from error
