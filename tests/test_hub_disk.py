"""A disk that is full in the middle of each verb: one error, and every file as it was.

Of pushing, it is in test_hub_push.py.
"""

import shutil
from pathlib import Path

import checkpoints
import pytest
from hub_disk import content, files_of_at_most, refused
from test_hub_convert import CASE, lightning_checkpoint


@pytest.mark.parametrize("size", [100, 2_500, 12_000], ids=["configuration", "weights", "code"])
def test_convert(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Whichever file does not fit, no folder appears, and nothing stays beside it."""
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
    """That there is no space to try a folder out in is not the folder's fault."""
    before = content(ready)
    assert "is not ready" not in refused(size, ["verify", str(ready)], capsys)
    assert content(ready) == before


@pytest.mark.parametrize("size", [1_000, 16_000], ids=["configuration", "code"])
def test_checkpoints(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An earlier folder stays whole."""
    name = "tiny-random-DLRModel"
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    with files_of_at_most(size), pytest.raises(SystemExit) as ended:
        checkpoints.main(["--output-dir", str(tmp_path), "--only", name])
    assert ended.value.code == 2
    assert "could not be written: " in capsys.readouterr().err
    assert content(tmp_path) == {f"{name}/config.json": b"{}"}
