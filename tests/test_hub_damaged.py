"""Damaged checkpoints are refused in one line, or read bit for bit."""

import io
import json
import logging
import random
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from test_hub_convert import CASE, lightning_checkpoint, state_dict_of
from tiny import assert_same_tensors

from hub_upload.__main__ import main
from hub_upload.checkpoint import Checkpoint, read_checkpoint
from hub_upload.errors import InputError

Damage = Callable[[bytearray, random.Random], None]


def flip(raw: bytearray, draw: random.Random) -> None:
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def overwrite(raw: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 8)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)


def cut(raw: bytearray, draw: random.Random) -> None:
    del raw[draw.randrange(len(raw)) :]


def lose(raw: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(raw))
    del raw[start : start + draw.randint(1, 512)]


def blank(raw: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(raw)), draw.randint(1, 512)
    raw[start : start + size] = bytes(len(raw[start : start + size]))


def swap(raw: bytearray, draw: random.Random) -> None:
    size = 1 << draw.randint(2, 9)
    first, second = (draw.randrange(len(raw) // size) * size for _ in range(2))
    raw[first : first + size], raw[second : second + size] = raw[second : second + size], raw[first : first + size]


def repeat(raw: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(raw)), draw.randint(1, 512)
    raw[start:start] = raw[start : start + size]


DAMAGES: list[Damage] = [flip, overwrite, cut, lose, blank, swap, repeat]


def outcome(path: Path) -> Checkpoint | str:
    """The content of a file, or its error."""
    try:
        return read_checkpoint(path)
    except InputError as error:
        return str(error)


def refused(path: Path) -> str:
    message = outcome(path)
    assert isinstance(message, str)
    assert "\n" not in message
    return message


def is_bit_identical(found: Checkpoint, expected: Checkpoint) -> bool:
    """Whether two contents have the same bits."""
    return (
        found.hyper_parameters == expected.hyper_parameters
        and found.tensors.keys() == expected.tensors.keys()
        and all(
            value.dtype is expected.tensors[name].dtype
            and value.shape == expected.tensors[name].shape
            and value.numpy().tobytes() == expected.tensors[name].numpy().tobytes()
            for name, value in found.tensors.items()
        )
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives(damage: Damage, tmp_path: Path):
    """In 100 files of each kind of damage, none gives other weights or other hyper-parameters."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    whole, raw = read_checkpoint(path), path.read_bytes()
    outcomes: Counter[str] = Counter()
    for seed in range(100):
        damaged = bytearray(raw)
        damage(damaged, random.Random(seed))
        path.write_bytes(damaged)
        found = outcome(path)
        if isinstance(found, str):
            assert "\n" not in found
            outcomes["refused"] += 1
        else:
            outcomes["same" if is_bit_identical(found, whole) else f"other weights, seed {seed}"] += 1
    assert outcomes.keys() <= {"same", "refused"}
    assert outcomes["refused"] > 30


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_headers_of_safetensors(damage: Damage, tmp_path: Path):
    """A header has no checksum, but must describe every byte once, so no tensor gets other numbers."""
    content = save(state_dict_of(CASE))
    end = 8 + int.from_bytes(content[:8], "little")
    whole = state_dict_of(CASE)
    outcomes: Counter[str] = Counter()
    for seed in range(60):
        header = bytearray(content[:end])
        damage(header, random.Random(seed))
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(header + content[end:])
        found = outcome(path)
        if isinstance(found, str):
            assert "\n" not in found
            outcomes["refused"] += 1
        else:
            known = {name: value for name, value in found.tensors.items() if name in whole}
            assert is_bit_identical(Checkpoint(known, None), Checkpoint({name: whole[name] for name in known}, None))
            outcomes["same" if known.keys() == whole.keys() else "unknown names"] += 1  # are refused as left over
    assert outcomes["refused"] > 20


def test_numbers_of_safetensors_are_not_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The digest in the warning shows a changed bit; a file that is too short is refused."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(state_dict_of(CASE)))
    with caplog.at_level(logging.WARNING):
        read_checkpoint(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        read_checkpoint(path)
    first, second = (record.getMessage() for record in caplog.records)
    assert "no checksums" in first
    assert first.split()[-1] != second.split()[-1]
    path.write_bytes(raw[:-1])
    assert "not a complete safetensors file" in refused(path)


def test_a_flipped_bit_names_its_entry(tmp_path: Path):
    """The error names the entry of the weight."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("x/data/3")
    place = raw.index(archive_content(path, entry.filename), entry.header_offset)
    raw[place + 3] ^= 1 << 6
    path.write_bytes(raw)
    assert "entry 'x/data/3' (Bad CRC-32" in refused(path)


def archive_content(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@pytest.mark.parametrize("name", ["x/data/0", "x/DATA/0"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_entries(name: str, tmp_path: Path):
    """Also if their names differ in case only, which PyTorch's reader ignores."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, bytes(64))
    assert "holds the entry 'x/data/0' 2 times" in refused(path)


def test_wrong_sizes_of_entries(tmp_path: Path):
    """An entry may claim to be longer or shorter than it is."""
    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    raw = bytearray(path.read_bytes())
    start = raw.rindex(b"x/data/3") - 46  # its header in the directory, whose sizes are at 20 and 24
    assert raw[start : start + 4] == b"PK\x01\x02"
    for place in (20, 24):
        for change in (-4, 4):
            damaged = bytearray(raw)
            size = struct.unpack_from("<I", damaged, start + place)[0]
            struct.pack_into("<I", damaged, start + place, size + change)
            path.write_bytes(damaged)
            assert "another size than it says" in refused(path)


def test_archives_without_checksums(tmp_path: Path):
    """PyTorch can omit checksums; such files are refused."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert "set_crc32_options(False)" in refused(path)


def test_memory_mapped_files_are_checked(tmp_path: Path):
    """For any setting of torch.load."""
    from torch.utils.serialization import config

    path = lightning_checkpoint(CASE, tmp_path / "x.ckpt")
    with config.patch("load.mmap", True):
        assert_same_tensors(read_checkpoint(path).tensors, state_dict_of(CASE))
        raw = bytearray(path.read_bytes())
        place = raw.index(archive_content(path, "x/data/0"))
        raw[place] ^= 1
        path.write_bytes(raw)
        assert "damaged in its entry 'x/data/0'" in refused(path)


def old_format() -> bytes:
    buffer = io.BytesIO()
    torch.save(state_dict_of(CASE), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "but empty"),
        (b"\x00" * 4096, "no format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (json.dumps({"weight_map": {}}).encode(), "a JSON text"),
        ("weights: gewöhnlich".encode("latin-1"), "of no format"),
        (old_format(), r"before 1\.6, and has no checksums"),
        (b"PK\x03\x04", "not a complete archive"),
        (struct.pack("<Q", 2**60) + b"{}", "of no format"),
        (struct.pack("<Q", 2) + b"{}", "holds no state dict"),
    ],
    ids=["empty", "zeros", "pointer", "page", "index", "latin-1", "old", "start of zip", "long header", "no tensors"],
)
def test_other_formats_are_named(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The command's error names the format in one line."""
    (tmp_path / "x.ckpt").write_bytes(content)
    assert main(["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "model")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeling-dlr")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert not (tmp_path / "model").exists()
