"""The site: every public name and every page is in it, and it builds without a warning."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_public import promised

ROOT = Path(__file__).resolve().parent.parent
API = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))


def test_the_reference_has_every_public_name():
    """By itself, or with its whole module."""
    shown = set(re.findall(r"^::: ([\w.]+)", API, re.MULTILINE))
    modules = {module for module, _ in promised()} - {"modeling_dlr", "modeling_dlr.cli"}
    assert modules <= shown
    assert {f"{module}.{name}" for module, name in promised() if module == "modeling_dlr"} <= shown


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path):
    """Strictly: a link that leads nowhere, a page outside the navigation and an unknown name are errors."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "api" / "models.html").is_file()


def test_links_of_pages(monkeypatch: pytest.MonkeyPatch):
    """Files outside docs/ are pages of their own, at paths that keep their names."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(ROOT / "docs" / "tools")
    import site_links

    assert doctest.testmod(site_links).failed == 0
    text = "[a](../configuration/FIELDS.md#fields) `[b](../c.md)` [d](evo.md) [e](https://e.org)"
    assert site_links.translated(text, "docs/heads.md", "heads.md") == text.replace("../conf", "conf")
    text = "[a](../docs/tasks.md) [b](../examples/train.py) [c](FIELDS.md)"
    answer = "[a](../tasks.md) [b](../examples/train.py.md) [c](FIELDS.md)"
    assert site_links.translated(text, "configuration/README.md", "configuration/README.md") == answer
