"""A disk that becomes full in each command: one error, and no file changes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_disk import content, files_of_at_most, refused
from test_hub_convert import CASE, lightning_checkpoint

from hub_upload import tiny_folders
from hub_upload.folders import new_folder, write_whole

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("size", [100, 2_500, 12_000], ids=["configuration", "weights", "code"])
def test_convert(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Whichever file does not fit, no folder and no temporary file is left."""
    lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    arguments = ["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "model"), "--no-picture"]
    assert str(tmp_path / "model") in refused(size, arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


def test_card(ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Card and picture are replaced together or not at all."""
    spoiled = Path(shutil.copytree(ready, tmp_path / "model"))
    (spoiled / "kernels.png").write_bytes(b"before")
    before = content(spoiled)
    for size in (100, 10_000):
        refused(size, ["card", str(spoiled), *["--limit", "x" * 12_000] * (size > 100)], capsys)
        assert content(spoiled) == before


@pytest.mark.parametrize("size", [100, 8_000], ids=["what is asked", "code of the other process"])
def test_verify(size: int, ready: Path, capsys: pytest.CaptureFixture[str]):
    """A full disk is not reported as a problem of the folder."""
    before = content(ready)
    assert "is not ready" not in refused(size, ["verify", str(ready)], capsys)
    assert content(ready) == before


@pytest.mark.parametrize("size", [1_000, 16_000], ids=["configuration", "code"])
def test_tiny_folders(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The earlier folder does not change."""
    name = "tiny-random-DLRModel"
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    with files_of_at_most(size):
        assert tiny_folders.main([str(tmp_path), "DLRModel"]) == 2
    assert "could not be written: " in capsys.readouterr().err
    assert content(tmp_path) == {f"{name}/config.json": b"{}"}


KILLED = """
import sys, time
from pathlib import Path
from hub_upload import folders
with folders.new_folder(Path("model")) as staging:
    (staging / "config.json").write_text("{")
    Path.replace = lambda *_: (Path("ready").touch(), time.sleep(60))
    folders.write_whole(Path("other"), {"README.md": b"half"})
"""


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The next run removes them, but not the files of a running process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("before", encoding="utf-8")
    child = subprocess.Popen([sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        while not (tmp_path / "ready").exists():
            assert child.poll() is None
            time.sleep(0.01)
        with new_folder(tmp_path / "third"):
            write_whole(tmp_path / "other", {"README.md": b"between"})
        assert len(list(tmp_path.rglob(".*"))) == 2
    finally:
        child.kill()
        child.wait()
    assert content(tmp_path / "other")["README.md"] == b"between"
    with new_folder(tmp_path / "model") as staging:
        (staging / "config.json").write_text("{}", encoding="utf-8")
    write_whole(tmp_path / "other", {"README.md": b"after"})
    assert content(tmp_path / "model") == {"config.json": b"{}"}
    assert content(tmp_path / "other") == {"README.md": b"after"}
    assert not list(tmp_path.rglob(".*"))
