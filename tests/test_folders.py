"""Replace a folder: if the process is killed at any time, the old or the new folder is complete."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_disk import content

from hub_upload.folders import replaced_folder

NOBODY = 2**22 + 1
"""No process has this number: it is beyond the largest that Linux gives."""


class Killed(BaseException):
    """The process is killed: nothing more happens."""


def write(folder: Path, what: str) -> None:
    with replaced_folder(folder) as staging:
        for name in ("a", "b"):
            (staging / name).write_text(what, encoding="utf-8")


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], None]]:
    """Kill the process before the call of this number among those that change the disk."""

    def install(last: int) -> Callable[[], None]:
        context = pytest.MonkeyPatch()
        calls = itertools.count()

        def deadly(change: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) >= last:
                    raise Killed
                return change(*arguments, **options)

            return call

        for owner, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            context.setattr(owner, name, deadly(getattr(owner, name)))
        context.setattr(os, "getpid", lambda: NOBODY)
        return context.undo

    return install


@pytest.mark.parametrize("there", [False, True], ids=["nothing before", "a folder before"])
def test_killed_at_any_moment(there: bool, tmp_path: Path, kill_at: Callable[[int], Callable[[], None]]):
    """The old content is complete, now or after the next call, which leaves no other files."""
    ended = False
    for last in itertools.count():
        folder = tmp_path / str(last) / "out"
        folder.parent.mkdir()
        if there:
            write(folder, "old")
        undo = kill_at(last)
        try:
            write(folder, "new")
            ended = True
        except Killed:
            pass
        finally:
            undo()
        found = {tuple(content(path).values()) for path in (folder, folder.parent / ".out.earlier") if path.exists()}
        whole = {(b"old",) * 2, (b"new",) * 2}
        assert found & whole or not there
        if folder.exists():
            assert tuple(content(folder).values()) in whole
        with pytest.raises(KeyError), replaced_folder(folder):
            raise KeyError
        left = {tuple(content(path).values()) for path in folder.parent.iterdir()}
        assert left <= whole
        assert len(left) == 1 or not there
        write(folder, "next")
        assert content(folder.parent) == {"out/a": b"next", "out/b": b"next"}
        if ended:
            break
    assert last > 3


def test_work_of_others_stays(tmp_path: Path):
    """Files of a running process are kept; an error leaves no files."""
    other = tmp_path / f".out.{os.getppid()}.partial"
    other.mkdir()
    dead = tmp_path / f".out.{NOBODY}.partial"
    dead.mkdir()
    named = tmp_path / f".out.{NOBODY}.notes"
    named.mkdir()
    write(tmp_path / "out", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, named.name, "out"])
    with pytest.raises(FileExistsError), replaced_folder(tmp_path / "out") as staging:
        shutil.copytree(tmp_path / "out", staging)
    assert content(tmp_path / "out") == {"a": b"new", "b": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.name, named.name, "out"])
