"""Malicious files: pickles written opcode by opcode are read as data."""

import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hub_upload.checkpoint import read_checkpoint, read_hyper_parameters
from hub_upload.errors import InputError

MARK = "ran"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL: an attribute of a module."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + group(*arguments) + b"R"


def built(cls: bytes, state: bytes) -> bytes:
    """NEWOBJ and BUILD."""
    return cls + b")\x81" + state + b"b"


def storage(elements: int) -> bytes:
    return group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(elements)) + b"Q"


def tensor(shape: list[int], strides: list[int], elements: int = 4) -> tuple[bytes, ...]:
    """The arguments of ``torch._utils._rebuild_tensor_v2``."""
    sizes, steps = (group(*map(number, numbers)) for numbers in (shape, strides))
    return storage(elements), number(0), sizes, steps, b"\x89", b"}"


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
HARMLESS = call(REBUILD, *tensor([4], [1]))
SYSTEM = name("os", "system")
TOUCH = text(f"touch {MARK}")


def archive(path: Path, program: bytes, *, compression: int = zipfile.ZIP_STORED, record: bytes = bytes(16)) -> Path:
    """A file in PyTorch's format with this pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for member, content in (("data.pkl", program), ("byteorder", b"little"), ("data/0", record), ("version", b"3")):
            file.writestr(f"x/{member}", content)
    return path


def with_weight(weight: bytes) -> bytes:
    return b"\x80\x02" + mapping(state_dict=mapping(w=weight)) + b"."


def with_settings(settings: bytes) -> bytes:
    return b"\x80\x02" + mapping(state_dict=mapping(w=HARMLESS), hyper_parameters=settings) + b"."


def patched(weight: tuple[bytes, ...], attributes: bytes) -> bytes:
    """A tensor with attributes, built by the function that rebuilds subclasses."""
    return call(
        name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, name("torch", "Tensor"), group(*weight), attributes
    )


def laughs() -> dict[str, Any]:
    """Nested lists of ten references each."""
    return {f"a{i}": [f"${{a{i + 1}}}"] * 10 for i in range(12)} | {"a12": "ha"}


def shared() -> list[Any]:
    """The same with shared objects: each list contains the next one ten times."""
    entries: list[Any] = ["ha"]
    for _ in range(12):
        entries = [entries] * 10
    return entries


def pickled(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


# Each file, and a pattern of its error.
REFUSED: dict[str, tuple[bytes, str]] = {
    "call": (with_weight(call(SYSTEM, TOUCH)), r"import 'os\.system'.*was not run"),
    "call by its other name": (with_weight(call(name("posix", "system"), TOUCH)), r"posix\.system.*was not run"),
    "old name of a module": (with_weight(call(name("__builtin__", "eval"), TOUCH)), r"eval.*was not run"),
    "attribute of a class": (with_weight(call(name("builtins", "getattr"), TOUCH)), r"getattr.*was not run"),
    "weight of a stand-in": (with_weight(call(name("pathlib", "os.system"), TOUCH)), "'w' is not a plain tensor"),
    "INST": (b"\x80\x02(" + TOUCH + b"ios\nsystem\n.", "never run as code"),
    "OBJ": (b"\x80\x02(" + SYSTEM + TOUCH + b"o.", "never run as code"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + group(TOUCH) + b"R.", "never run as code"),
    "EXT1": (b"\x80\x02\x82\x01.", "never run as code"),
    "NEWOBJ_EX": (with_weight(SYSTEM + b")}\x92"), "never run as code"),
    "function to rebuild with": (
        with_weight(call(name("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, name("torch", "Tensor"), TOUCH, b"}")),
        r"os\.system.*was not run",
    ),
    "patched tensor": (
        with_weight(patched(tensor([4], [1]), mapping(reshape=name("builtins", "bytearray")))),
        "'w' is not a plain tensor",
    ),
    "repeated numbers": (with_weight(call(REBUILD, *tensor([10**6, 10**6], [0, 0]))), "'w' is not a plain tensor"),
    "no numbers": (
        with_weight(
            call(
                name("torch._utils", "_rebuild_meta_tensor_no_storage"),
                *(name("torch", "float32"), group(number(4)), group(number(1)), b"\x89"),
            )
        ),
        "'w' is not a plain tensor",
    ),
    "beyond its numbers": (with_weight(call(REBUILD, *tensor([100], [1]))), "fetch it again"),
    "more than is there": (with_weight(call(REBUILD, *tensor([4], [1], 2**31 - 1))), "fetch it again"),
    "negative size": (with_weight(call(REBUILD, *tensor([-4], [1]))), "fetch it again"),
    "huge allocation": (with_settings(call(name("builtins", "bytearray"), number(2**62))), "fetch it again"),
    "huge number": (with_settings(call(name("builtins", "int"), text("9" * 10**5))), "fetch it again"),
    "deep nesting": (with_settings(b"]" * 10**4 + b"a" * (10**4 - 1)), "refer to themselves"),
    "itself": (with_settings(b"}q\x00" + b"(" + text("a") + b"h\x00u"), "refer to themselves"),
    "reference to itself": (with_settings(pickled({"a": "${b}", "b": "${a}"})), "refer to themselves"),
    "laughs": (with_settings(pickled(laughs())), "are more than 100,000"),
    "shared lists": (with_settings(pickled({"a": shared()})), "are more than 100,000"),
    "name that is none": (b"\x80\x02}(" + number(3) + HARMLESS + b"u.", "3 is not a plain tensor"),
    "memo that is not there": (b"\x80\x02h\x05.", "fetch it again"),
    "empty stack": (b"\x80\x02R.", "fetch it again"),
    "nothing": (b"\x80\x02", "EOFError.*fetch it again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malicious_pickles_are_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No code runs, no large memory is allocated, and the error is one line."""
    monkeypatch.chdir(tmp_path)
    program, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as refused:
        read_checkpoint(archive(tmp_path / "x.ckpt", program))
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / MARK).exists()


def test_placeholders_are_dropped(tmp_path: Path):
    """Objects of libraries that are not imported are left out, whatever they contain."""
    odd = built(name("omegaconf", "DictConfig"), mapping(_content=b"]"))
    settings = b"}(" + odd + odd + text("a") + built(name("omegaconf", "Node"), mapping(_val=number(3))) + b"u"
    assert read_checkpoint(archive(tmp_path / "x.ckpt", with_settings(settings))).hyper_parameters == {"a": 3}
    no_mapping = archive(tmp_path / "y.ckpt", with_settings(text("run")))
    assert read_checkpoint(no_mapping).hyper_parameters is None


def test_compressed_archives_are_refused(tmp_path: Path):
    """A small file cannot fill the memory."""
    program = with_weight(call(REBUILD, *tensor([2**22], [1], 2**22)))
    path = archive(tmp_path / "x.ckpt", program, compression=zipfile.ZIP_DEFLATED, record=bytes(2**24))
    assert path.stat().st_size < 2**16
    with pytest.raises(InputError, match="more bytes"):
        read_checkpoint(path)
    assert read_checkpoint(archive(tmp_path / "y.ckpt", program, record=bytes(2**24))).tensors["w"].shape == (2**22,)


def test_tensors_that_share_storage(tmp_path: Path):
    """20 tensors with the same storage would need 20 times the memory."""
    weight = call(REBUILD, *tensor([4096], [1], 4096))
    program = b"\x80\x02" + mapping(state_dict=mapping(**{f"w{i}": weight for i in range(20)})) + b"."
    path = archive(tmp_path / "x.ckpt", program, record=bytes(4 * 4096))
    with pytest.raises(InputError, match="more bytes than the file"):
        read_checkpoint(path)


@pytest.mark.parametrize("odd", ["layers.0." * 10**5, "a\nb", "a\x1b[2Jb"], ids=["long", "two lines", "escape"])
def test_long_and_unprintable_names(odd: str, tmp_path: Path):
    """Searching long names for patterns is slow, and unprintable names can change a terminal."""
    program = b"\x80\x02" + mapping(state_dict=mapping(**{odd: HARMLESS})) + b"."
    with pytest.raises(InputError, match=r"has a tensor of the name '.*characters") as refused:
        read_checkpoint(archive(tmp_path / "x.ckpt", program))
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


def test_old_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PyTorch's format without checksums is refused before anything in it is read."""
    monkeypatch.chdir(tmp_path)
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    program = b"".join(pickle.dumps(part, 2) for part in head) + b"\x80\x02" + call(SYSTEM, TOUCH) + b"."
    (tmp_path / "x.ckpt").write_bytes(program)
    with pytest.raises(InputError, match=r"before 1\.6.*checksums"):
        read_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / MARK).exists()


class Touches:
    """Its pickle runs a shell command."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_refused(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In every protocol; the error does not advise to load them without protection."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"a": Touches()}, protocol))
    with pytest.raises(InputError, match=r"not a torch\.save archive") as refused:
        read_checkpoint(tmp_path / "x.ckpt")
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / MARK).exists()


def test_tar_format_is_refused(tmp_path: Path):
    """Only code could read it; the error does not advise to run that code."""
    with tarfile.open(tmp_path / "x.ckpt", "w") as archive:
        for member in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(member))
    with pytest.raises(InputError, match=r"not a torch\.save archive") as refused:
        read_checkpoint(tmp_path / "x.ckpt")
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.yaml", "a: !!python/object/apply:os.system [touch ran]", "is not supported YAML"),
        ("run.yaml", "[" * 10**4, "50 levels of nesting"),
        ("run.json", "[" * 10**4, "not valid JSON"),
        (
            "run.yaml",
            "\n".join(["a0: &a0 [x]", *(f"a{i + 1}: &a{i + 1} [{f'*a{i},' * 10}]" for i in range(9))]),
            "anchors",
        ),
        ("run.yaml", "a: &a {b: *a}", "anchors"),
        ("run.yaml", "a: {x: 1}\nb: {<<: {y: 1}}", "merge keys"),
        ("run.json", json.dumps(laughs()), "are more than 100,000"),
        ("run.json", '{"a": {"residual": "R", "residual": "D"}}', "'residual' occurs twice"),
        ("run.yaml", "", "must hold a mapping"),
        ("run.json", "[1]", "must hold a mapping"),
    ],
    ids=["object", "deep YAML", "deep JSON", "laughs", "itself", "merges", "references", "twice", "empty", "list"],
)
def test_hyper_parameter_files_are_data(
    file: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Files of hyper-parameters run no code either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_hyper_parameters(tmp_path / file)
    assert not (tmp_path / MARK).exists()
