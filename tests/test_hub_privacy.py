"""Secrets and paths are found in every kind of file, and ordinary words are not reported."""

import base64
import bz2
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_hub_attacks import Touches

from hub_upload.file_kinds import inspect_kinds
from hub_upload.inspect_folder import inspect_privacy
from hub_upload.secret_words import search

# Made up, and put together here, so that this file does not hold what it looks for.
_MIXED, _HEX = "aB3dE5fG7h" * 6, "0123456789abcdef" * 4
SECRETS = {
    "Hugging Face": "hf_" + _MIXED[:34],
    "GitHub": "ghp_" + _MIXED[:36],
    "GitHub, fine-grained": "github_pat_" + _MIXED[:50],
    "GitLab": "glpat-" + _MIXED[:20],
    "OpenAI": "sk-" + _MIXED[:48],
    "Anthropic": "sk-ant-api03-" + _MIXED[:40],
    "Slack": "xoxb-" + "1234567890-" * 2 + _MIXED[:24],
    "Slack's hook": "https://hooks.slack.com/services/T0AAAAAAA/B0AAAAAAA/" + _MIXED[:24],
    "Google": "AIza" + _MIXED[:35],
    "AWS": "AKIA" + "ABCDEFGH23456789",
    "AWS, secret": 'aws_secret_access_key = "' + _MIXED[:40] + '"',
    "wandb": "WANDB_API_KEY=" + _HEX[:40],
    "wandb in .netrc": "machine api.wandb.ai login user password " + _HEX[:40],
    "Stripe": "sk_live_" + _MIXED[:24],
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + _MIXED * 2,
    "npm": "//registry.example.org/:_authToken=npm_" + _MIXED[:36],
    "SendGrid": "SG." + _MIXED[:22] + "." + _MIXED[:43],
    "Azure": "AccountKey=" + _MIXED[:43] * 2 + "==",
    "JSON web token": "eyJ" + _MIXED[:20] + ".eyJ" + _MIXED[:20] + "." + _MIXED[:20],
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "encrypted private key": "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "address": "https://me:hunter2@example.org/data",
    "database": "postgresql://admin:s3cret@db.example.org:5432/x",
    "password": 'DB_PASSWORD="correct7horse"',
    "key of a service": '"api_key": "' + _MIXED[:24] + '"',
}
PATHS = {
    "home": "/home/me/run",
    "Mac": "/Users/me/run",
    "root": "/root/.cache",
    "cluster": "/gpfs/projects/me",
    "notebook": "/content/drive/MyDrive",
    "volume": "/Volumes/Disk/me",
    "Windows": r"C:\Users\me\run",
    "another drive": r"D:\experiments\run",
    "Windows with slashes": "C:/Users/me/run",
    "share": r"\\server\share\me",
    "address of a file": "file:///srv/data",
}
HARMLESS = [
    "me/task-specific-model-of-long-documents, me/mask-filling-model-of-python-source-code",
    "https://huggingface.co/docs/transformers: see it",
    "at 12:30:45, ratio 16:9, a: b, Q:\\nWhat is it?\\n",
    '"pad_token": "<pad>", "eos_token_id": 1234567890, "access_token": null',
    "the token: a piece of text; the secret: none; password = getpass()",
    "sha256:" + _HEX + " commit " + _HEX[:40],
    r"a \\ \beta in LaTeX, \alpha, \\[2pt] \frac{a}{b}; \d+\s*\w{2}",
    "mailto:me@example.org, git@example.org:me/model.git",
    "/api/models/me/model and and/or, n/a, 1/2",
    "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4).decode(),
]

by_secret = pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)


def found(path: Path) -> str:
    return "; ".join(search(path))


@by_secret
def test_secrets(secret: str, tmp_path: Path):
    """At any position in a text."""
    path = tmp_path / "notes.md"
    for text in (secret, f"login with {secret} today\n", f"{'word ' * 900}{secret}\n", json.dumps({"a": secret})):
        path.write_text(text, encoding="utf-8")
        assert "looks like an access token or a key" in found(path), text[-200:]


HIDDEN: dict[str, Callable[[str, Path], Any]] = {
    "UTF-16": lambda text, path: path.write_bytes(text.encode("utf-16")),
    "UTF-16, big-endian": lambda text, path: path.write_bytes(text.encode("utf-16-be")),
    "latin-1": lambda text, path: path.write_bytes(f"é{text}é".encode("latin-1")),
    "UTF-8 with a mark": lambda text, path: path.write_bytes(text.encode("utf-8-sig")),
    "Base64": lambda text, path: path.write_bytes(base64.b64encode(f"words before {text}".encode())),
    "Base64 in lines": lambda text, path: path.write_bytes(base64.encodebytes(f"{'words ' * 20}{text}".encode())),
    "Base64 of addresses": lambda text, path: path.write_bytes(base64.urlsafe_b64encode(f"before {text}".encode())),
    "a picture": lambda text, path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x99tEXtComment\x00" + text.encode()
    ),
    "among zeros": lambda text, path: path.write_bytes(bytes(2**20 - 10) + text.encode() + bytes(2**20)),
    "bytes of a tensor": lambda text, path: save_file(
        {"w": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}, path
    ),
    "numbers of a tensor": lambda text, path: save_file(
        {"w": torch.frombuffer(bytearray(text.encode().ljust(400)), dtype=torch.float32)}, path
    ),
    "metadata of weights": lambda text, path: save_file({"w": torch.zeros(2)}, path, {"note": text}),
    "name of a weight": lambda text, path: save_file({text: torch.zeros(2)}, path),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_hidden_secrets(way: str, tmp_path: Path):
    """In other encodings, between the numbers of weights, and across the blocks in which a file is read."""
    for name in ("GitLab", "Google", "AWS"):
        HIDDEN[way](SECRETS[name], tmp_path / "x")
        assert "looks like an access token or a key" in found(tmp_path / "x"), name


@pytest.mark.parametrize("place", PATHS.values(), ids=PATHS)
def test_paths(place: str, tmp_path: Path):
    """Plain, in JSON, and in quotes."""
    path = tmp_path / "results.json"
    for text in (f"--data {place} --fast", json.dumps({"command": place}), f"from '{place}'"):
        path.write_text(text, encoding="utf-8")
        assert "a path of one machine" in found(path), text


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_words_are_not_reported(text: str, tmp_path: Path):
    (tmp_path / "notes.txt").write_text(text, encoding="utf-8")
    assert found(tmp_path / "notes.txt") == ""


def test_nothing_is_reported_in_this_package(ready: Path):
    """Neither in its code, nor in its cards and documents."""
    assert list(inspect_privacy(ready)) == []
    root = Path(__file__).resolve().parent.parent
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        assert found(path) == "", path.name


def test_nothing_is_reported_in_random_weights(tmp_path: Path):
    """Of any type, also those of a large vocabulary."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        save_file({"w": torch.randn(1000, 500, dtype=torch.float32).to(dtype)}, tmp_path / "x.safetensors")
        assert found(tmp_path / "x.safetensors") == ""
    vocabulary = {
        "".join(chr(97 + int(x)) for x in word): i
        for i, word in enumerate(np.random.default_rng(0).integers(0, 26, (9999, 9)))
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    assert found(tmp_path / "tokenizer.json") == ""


def test_slow_search_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that cannot be searched in the time limit is a problem."""
    monkeypatch.setattr("hub_upload.secret_words._SECONDS", 0)
    monkeypatch.setattr("hub_upload.secret_words._SECONDS_PER_BLOCK", 0)
    (tmp_path / "x.txt").write_text("word " * 10_000, encoding="utf-8")
    assert "reasonable time" in found(tmp_path / "x.txt")


def archive_of(content: bytes, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x", content)
    else:
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo("x")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def array_of_numpy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(2))
    return file.getvalue()


# Content that is another than the name says.
OTHER_CONTENT = {
    "zip": (archive_of(b"x", "zip"), "an archive"),
    "tar": (archive_of(b"x", "tar"), "an archive"),
    "gzip": (gzip.compress(b"x"), "an archive"),
    "bzip2": (bz2.compress(b"x"), "an archive"),
    "array": (array_of_numpy(), "an array of NumPy"),
    "program": (b"\x7fELF" + bytes(20), "a program"),
    "pickle without imports": (pickle.dumps({"a": 1}), "a pickle"),
    **{f"pickle {protocol}": (pickle.dumps(Touches(), protocol), "a pickle") for protocol in range(6)},
    "large pickle": (pickle.dumps([Touches(), *range(200_000)], 0), "a pickle"),
}


@pytest.mark.parametrize("case", OTHER_CONTENT)
def test_content_of_another_kind(case: str, tmp_path: Path):
    """The first bytes count, not the name."""
    content, kind = OTHER_CONTENT[case]
    for name in ("vocab.json", "picture.png", "notes.txt"):
        (tmp_path / name).write_bytes(content)
        (problem,) = inspect_kinds(tmp_path)
        assert problem.startswith(f"{name} is {kind}")
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "name",
    [
        *("x.bin", "x.pt", "x.PT", "x.pkl", "x.dat", "x.npz", "x.h5", "x.gguf", "deep/er/x.pickle", "x.sqlite"),
        *("x.so", "x.exe", "x.sh", "x.zip", "x.json.gz", "x.ipynb", "x.log", "cookies"),
        *("x.env", "id_rsa", "x.pem", "x.p12", "x.tfstate"),
    ],
)
def test_types_that_no_model_needs(name: str, tmp_path: Path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x", encoding="utf-8")
    assert list(inspect_kinds(tmp_path)) == [f"{name} has a type that a model folder does not need: remove it"]


def test_texts_like_the_beginning_of_a_pickle(ready: Path, tmp_path: Path):
    """A text is not a pickle, even if its first letters could begin one."""
    assert list(inspect_kinds(ready)) == []
    texts = ["", ".", "N.", "Results.", "(lp0\nI1\na.", "]q\x00.", "I am a text.", "{}", "# Title\n"]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "LICENSE").write_text("Apache", encoding="utf-8")
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", 36) + b"WAVE")
    assert list(inspect_kinds(tmp_path)) == []
