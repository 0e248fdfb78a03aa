"""Simulate a full disk in tests: a limit on the size of files, beyond which the system refuses to write."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_upload.__main__ import main


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """In this context, writing a larger file fails, in this process and in processes that it starts."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(size: int, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a command that fails because the disk is full."""
    with files_of_at_most(size):
        assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeling-dlr")]
    assert len(lines) == 1
    assert "could not be written: " in lines[0]
    return lines[0]
