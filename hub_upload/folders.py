"""Write folders and files completely or not at all."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from safetensors import SafetensorError

from .errors import InputError, reason_of


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` at the end; after an error, nothing is left.

    Raises:
        InputError: before any work, if ``path`` is not free; and if the disk is full or write-protected.
    """
    target = free_place(path)
    with scratch_folder(beside=target) as scratch:
        staging = scratch / target.name
        staging.mkdir()
        yield staging
        if target.is_dir():
            target.rmdir()
        staging.replace(target)


def free_place(path: Path) -> Path:
    """The resolved path of a new folder.

    Raises:
        InputError: if the path exists and is not an empty folder, or cannot be a folder.
    """
    try:
        target = path.resolve()
        taken = any(target.iterdir()) if target.is_dir() else os.path.lexists(target)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise InputError(f"No folder can be made as {str(path)[:200]!r}: {reason}.") from error
    if taken:
        raise InputError(f"{path} exists and is not empty: name a new folder, or remove that one.")
    return target


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that replaces ``path`` at the end; after an error, nothing changes.

    If the process is killed at any time, either the old or the new folder is complete. Between the two renames, the old
    folder has a hidden name next to ``path``; the next call restores it and removes other leftovers.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _put_back(target)
    work = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(work, ignore_errors=True)
    try:
        staging = work / target.name
        staging.mkdir(parents=True)
        yield staging
        if target.exists():
            target.replace(_earlier(target))
        staging.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        _put_back(target)


def _earlier(target: Path) -> Path:
    return target.parent / f".{target.name}.earlier"


def _put_back(target: Path) -> None:
    """Restore the old folder if a killed process left no new one."""
    earlier = _earlier(target)
    if earlier.exists() and not target.exists():
        earlier.replace(target)
    shutil.rmtree(earlier, ignore_errors=True)
    _clear(target.parent, f".{glob.escape(target.name)}.*.partial")


def _clear(folder: Path, pattern: str) -> None:
    """Remove leftovers of killed processes; the process id is before the last dot of the name."""
    for path in folder.glob(pattern):
        process = path.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(*, beside: Path | None = None) -> Iterator[Path]:
    """Give a folder that is removed at the end, next to ``beside``, or in the system's temporary folder.

    Raises:
        InputError: if the disk is full or write-protected.
    """
    with disk_errors(beside or Path(tempfile.gettempdir())):
        if beside is not None:
            beside.parent.mkdir(parents=True, exist_ok=True)
            _clear(beside.parent, ".hub_upload.*.*")
        parent, prefix = None if beside is None else beside.parent, f".hub_upload.{os.getpid()}."
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)


def write_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files; the old files stay until the new content of all files is complete.

    Raises:
        InputError: if the disk is full or write-protected.
    """
    with disk_errors(folder):
        staged = {name: folder / f".{name}.{os.getpid()}.tmp" for name in files}
        for name in files:
            _clear(folder, f".{glob.escape(name)}.*.tmp")
        try:
            for name, content in files.items():
                staged[name].write_bytes(content)
            for name, staging in staged.items():
                staging.replace(folder / name)
        finally:
            for staging in staged.values():
                staging.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """In this context, turn errors of the disk into one sentence.

    Raises:
        InputError: instead of an `OSError`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise InputError(f"{path} could not be written: {reason}. What was there before is unchanged.") from error
