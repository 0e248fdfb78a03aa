"""Files and YAML that would block a reader or fill its memory are refused in one line."""

import contextlib
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hub_upload.bounded_files import read_bytes, read_json, read_text
from hub_upload.bounded_yaml import MOST_CHARACTERS, parse_yaml
from hub_upload.errors import InputError

# Merge keys of merge keys: each level repeats the one before ten times.
MERGES = "\n".join(
    ["a0: &a0 {x: 1}"] + [f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 10)}]}}" for i in range(9)]
)

# The text, and a pattern of its error.
HOSTILE: dict[str, tuple[str, str]] = {
    "merges": (MERGES, "anchors .* line 1"),
    "merge without an anchor": ("<<: {a: 1}", "merge keys .* line 1"),
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors"),
    "itself": ("a: &a {b: *a}", "anchors"),
    "alias alone": ("a: *b", "anchors"),
    "deep list": ("[" * 10_000, "50 levels of nesting"),
    "deep mapping": ("".join(f"{' ' * i}a:\n" for i in range(200)), "50 levels of nesting"),
    "deep keys": ("? " * 10_000, "50 levels of nesting"),
    "object": ("a: !!python/object/apply:os.system [touch ran]", "python/object"),
    "endless number": ("a: " + "9" * 100_000, "100,000 characters"),
    "number of base 60": ("a: 1" + ":1" * 50_000, "100,001 characters"),
    "twice": ("a: 1\nb: 2\na: 3", "'a' .* line 3"),
    "long": ("a: " + "x" * MOST_CHARACTERS, "131,072"),
    "two documents": ("a: 1\n---\nb: 2", "line 2"),
    "bracket": ("a: [", "line 1"),
    "tab": ("a:\n\t- b", "line 2"),
    "control character": ("a: \x00", "character"),
    "list as a name": ("[a]: b", "unhashable key"),
    "number that is none": ("a: !!int x", "invalid literal"),
    "day that is none": ("a: 2001-02-31", "day"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_yaml(case: str):
    """The error is one line with the reason and the line number."""
    text, message = HOSTILE[case]
    with pytest.raises(InputError, match=f"^x.yaml .*{message}") as refused:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(refused.value)


def calls_of_parsing(text: str) -> int:
    """The number of function calls that parsing a text takes, whether it is read or refused."""
    count = 0

    def on_event(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        with contextlib.suppress(InputError):
            parse_yaml(text, "x.yaml")
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "unit", ["[], ", "a: {}\n- ", "- ", "{a: b}, ", "'a' ", "? a\n", "| \n", "#\n", "%A\n", "a:\n "]
)
def test_work_grows_with_the_length_of_yaml(unit: str):
    """Twice the text takes at most twice the calls."""
    once, twice = (calls_of_parsing("[" + unit * count) for count in (500, 1000))
    assert twice <= 2.1 * once


def test_plain_yaml():
    """Other YAML is read as by the safe loader."""
    text = "a: {b: [1, 2.5, yes, null, 1e-3]}\n0: no\nc: |\n  two\n  lines\nd: 2026-01-01\ne: 0x1F\n"
    value: Any = parse_yaml(text, "x.yaml")
    assert value["a"] == {"b": [1, 2.5, True, None, "1e-3"]}
    assert value[0] is False
    assert (value["c"], value["d"].year, value["e"]) == ("two\nlines\n", 2026, 31)
    assert parse_yaml("", "x.yaml") is None


def test_only_regular_files_are_read(tmp_path: Path):
    """A pipe without a writer does not block, and an endless device is not read."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "brace").write_text("{", encoding="utf-8")
    cases = {
        tmp_path: "is a folder",
        tmp_path / "absent": "cannot be read: No such file",
        tmp_path / "loop": "cannot be read: ",
        tmp_path / ("x" * 300): "cannot be read: ",
        tmp_path / "a\0b": "cannot be read: ",
        tmp_path / "latin": "is not UTF-8 text",
        tmp_path / "brace": "is not valid JSON",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        cases |= {tmp_path / "pipe": "is a pipe", Path("/dev/zero"): "is a pipe, a socket or a device"}
    for path, message in cases.items():
        with pytest.raises(InputError, match=message) as refused:
            read_json(path)
        assert "\n" not in str(refused.value)


def test_files_of_a_length(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb")
    assert read_bytes(path, 4) == b"a\r\nb"
    assert read_text(path, 4) == "a\nb"
    with pytest.raises(InputError, match="more than 3 bytes"):
        read_bytes(path, 3)
    path.write_text("[" * 10**5, encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)
