"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from .errors import InputError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``path`` at the end; after any error there is nothing.

    Raises:
        InputError: before any work, if ``path`` is a file or holds anything; and for a full or write-protected disk.
    """
    target = path.resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{path} exists and is not empty: name a new folder, or remove that one.")
    with _disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield staging
            staging.chmod(0o755)
            if target.is_dir():
                target.rmdir()
            staging.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file as a whole: what was there stays until the new content is complete.

    Raises:
        InputError: if the disk is full or write-protected.
    """
    raw = content if isinstance(content, bytes) else content.encode()
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with _disk_errors(path):
        try:
            staging.write_bytes(raw)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} could not be written: {reason}. What was there before is unchanged.") from error
