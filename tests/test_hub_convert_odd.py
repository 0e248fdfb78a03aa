"""Conversions with unusual paths, foreign tokenizers, and a killed process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hub_convert import CASE, convert, lightning_checkpoint, state_dict_of

from hub_upload.__main__ import main
from hub_upload.errors import InputError
from modeling_dlr.tokenization import byte_tokenizer


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loop", "Symlink loop"),
        ("loop/model", "Symlink loop"),
        ("a" * 300, "File name too long"),
        ("nul\0", "null byte"),
        ("pipe", "exists"),
        ("file", "exists"),
        ("file/model", "could not be written"),
    ],
)
def test_paths_that_cannot_be_folders(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Refused in one line before any work."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    assert main(["convert", str(path), f"{tmp_path}/{name}", "--no-picture"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeling-dlr")]
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "loop", "pipe", "x.ckpt"]


def test_a_folder_of_any_name(tmp_path: Path):
    """The name of a folder may be invalid as the name of a repository."""
    convert(lightning_checkpoint(CASE, tmp_path / "x.ckpt"), tmp_path / "my model (1)")
    assert "my model (1)" in (tmp_path / "my model (1)" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nul"])
@pytest.mark.parametrize("option", [None, "--hyper-parameters"])
def test_only_regular_files_are_read(kind: str, option: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A pipe as checkpoint or hyper-parameters does not block, and an endless file is not read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = {"folder": str(tmp_path), "device": "/dev/zero", "nul": "nul\0"}.get(kind, str(tmp_path / kind))
    if option is None:
        arguments = [place, str(tmp_path / "model")]
    else:
        checkpoint = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
        arguments = [str(checkpoint), str(tmp_path / "model"), option, place]
    assert main(["convert", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeling-dlr")]
    assert len(lines) == 1
    assert re.search("cannot be read|must be a regular file", lines[0])


_KILLED = """
import os, signal, sys
from pathlib import Path
from hub_upload import convert

def killed(*_):
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))

convert.write_card = killed
convert.convert(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_killed(signal: str, tmp_path: Path):
    """If the process is killed before the card is written, no folder is left, and the same command works."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    arguments = [sys.executable, "-c", _KILLED, str(path), str(tmp_path / "model"), signal]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode < 0
    assert not (tmp_path / "model").exists()
    convert(path, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


def tokenizer_with_code(folder: Path) -> None:
    """A tokenizer whose class is in a file of its folder; the code leaves a mark if it runs."""
    auto_map = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(auto_map), encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(folder.parent / 'mark')!r}, 'w')\nOwn = int\n", encoding="utf-8")


def written(name: str, content: str) -> Callable[[Path], Any]:
    """The content of a file in a tokenizer's folder."""
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (tokenizer_with_code, "its own code"),
        (written("tokenizer.json", ""), "."),
        (written("tokenizer.json", "{}"), "."),
        (written("tokenizer.json", "[" * 10**5), "."),
        (written("tokenizer_config.json", "["), "."),
        (written("tokenizer_config.json", "[1]"), "."),
        (lambda folder: (folder / "tokenizer.json").write_bytes("é".encode("latin-1")), "."),
        (lambda folder: os.mkfifo(folder / "added_tokens.json"), "is a pipe"),
        (lambda folder: (folder / "vocab.json").symlink_to("/dev/zero"), "a device"),
    ],
    ids=["code", "empty", "no model", "deep", "broken configuration", "list", "latin-1", "pipe", "device"],
)
def test_foreign_tokenizers(
    spoil: Callable[[Path], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their code does not run, there is no prompt, and each error is one line."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    state = state_dict_of(CASE) | {"encoder.weight": torch.randn(261, 16)}
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt", state_dict=state)
    byte_tokenizer().save_pretrained(tmp_path / "words")
    spoil(tmp_path / "words")
    with pytest.raises(InputError, match=message) as refused:
        convert(path, tmp_path / "model", tokenizer=str(tmp_path / "words"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "model").exists()
