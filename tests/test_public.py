"""The list of what is public, docs/public.md: every name that it promises is there, with types and a docstring."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "public.md").read_text(encoding="utf-8")


def promised() -> list[tuple[str, str]]:
    """Modules and names."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", TEXT, re.MULTILINE)
    found = [(module, name) for module, names in rows for name in re.findall(r"`(\w+)`", names)]
    found += [(module, f"Batch{name}") for module, name in found if module == "modeling_dlr.metrics"]
    whole = re.findall(r"every name of `([\w.]+)\.__all__`", TEXT)
    return found + [(module, name) for module in whole for name in importlib.import_module(module).__all__]


@pytest.mark.parametrize(("module", "name"), promised(), ids="-".join)
def test_promised(module: str, name: str):
    public = getattr(importlib.import_module(module), name)
    if not callable(public) or not inspect.getmodule(public).__name__.startswith("modeling_dlr"):
        return
    assert inspect.getdoc(public)
    if inspect.isfunction(public):
        signature = inspect.signature(public)
        assert signature.return_annotation is not signature.empty
        assert [p.name for p in signature.parameters.values() if p.annotation is p.empty] == []
