"""The site: every public name is in it, figures and notebook are those of its pages, and it builds strictly."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import site_figures
import site_notebook
import typer
from test_public import promised

from hub_upload import official
from modeling_dlr.cli import app

ROOT = Path(__file__).resolve().parent.parent
MIGRATE = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
API = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))


def test_the_reference_has_every_public_name():
    """By itself, or with its whole module."""
    shown = set(re.findall(r"^::: ([\w.]+)", API, re.MULTILINE))
    missing = [f"{module}.{name}" for module, name in promised() if not {module, f"{module}.{name}"} & shown]
    assert missing == []


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    named = re.findall(r"^ +- .*: ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    outside = {name for name in named if not (ROOT / "docs" / name).exists()}
    assert set(named) == pages | outside
    assert all((ROOT / name).is_file() for name in outside)


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path):
    """Strictly: a link that leads nowhere, a page outside the navigation and an unknown name are errors."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "api" / "models.html").is_file()


def test_figures(tmp_path: Path):
    """All that lie there are drawn, for light and for dark pages, and shown; none is large."""
    site_figures.draw(tmp_path)
    drawn, kept = ({path.name for path in folder.iterdir()} for folder in (tmp_path, site_figures.FOLDER))
    assert drawn == kept
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {name for name in kept if f"figures/{name}" in pages} == {f"{name}.svg" for name in site_figures.FIGURES}
    assert max(path.stat().st_size for path in site_figures.FOLDER.iterdir()) < 50_000


def test_notebook_is_its_page():
    assert doctest.testmod(site_notebook).failed == 0
    page, notebook = site_notebook.PAGE.read_text(encoding="utf-8"), site_notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert site_notebook.notebook(page) == notebook


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """From its first cell to its last, in a folder that has nothing else."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(site_notebook.NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102 - it is our notebook
    assert capsys.readouterr().out.rstrip().endswith("['good', 'bad']")


def test_links_of_pages():
    """Files outside docs/ are pages of their own, at paths that keep their names; pictures have dark twins."""
    pytest.importorskip("mkdocs")
    import site_links

    assert doctest.testmod(site_links).failed == 0
    text = "[a `x`](../configuration/FIELDS.md#fields) `[b](../c.md)` [d](evo.md) [e](https://e.org)"
    assert site_links.translated(text, "docs/heads.md", "heads.md") == text.replace("../conf", "conf")
    assert site_links.targets(text, "docs/heads.md") == {"configuration/FIELDS.md", "docs/evo.md"}
    text = "[a](../docs/tasks.md) [b](../examples/walkthrough.py) [c](FIELDS.md)"
    answer = "[a](../tasks.md) [b](../examples/walkthrough.py.md) [c](FIELDS.md)"
    assert site_links.translated(text, "configuration/README.md", "configuration/README.md") == answer
    text = "![a](figures/poles.svg)"
    answer = "![a](figures/poles.svg#only-light)\n![a](figures/poles-dark.svg#only-dark)"
    assert site_links.translated(text, "docs/idea.md", "idea.md") == answer


def test_names_of_the_official_code():
    """The tables of docs/migrate.md are those by which checkpoints are converted."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`(?: \| `(\w+)`)? \|$", MIGRATE, re.MULTILINE)
    tensors = {(kernel, theirs): ours for theirs, ours, kernel in rows if kernel}
    families = official.FAMILIES
    wanted = {(kind, theirs): ours for kind in ("dlr", "dss") for theirs, ours in families[kind].names.items()}
    assert wanted == {("dss", "W"): "weights"} | tensors
    renamed = families["dlr"].renamed | families["dss"].renamed
    chosen = {"kernel_to_real": "read_out", "Lambda_init": "pole_init", "sep_dt_re_im": "separate_time_steps"}
    pairs = {theirs: ours for theirs, ours, kernel in rows if not kernel}
    s4 = families["s4d"].names | families["s4d"].renamed
    assert renamed.items() | chosen.items() <= pairs.items()
    assert {theirs: ours for theirs, ours in pairs.items() if theirs in s4}.items() <= s4.items()


def test_examples_of_docstrings_are_code():
    pytest.importorskip("griffe")
    import site_docstrings

    text = "Add.\n\n>>> 1 + 1  # doctest: +SKIP\n2\n\nEnd."
    assert site_docstrings.with_fences(text) == "Add.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nEnd."


def test_commands_of_the_page_exist():
    """The table of docs/commands.md names commands that `modeling-dlr` has."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `modeling-dlr (\w+)", page, re.MULTILINE))
    assert "train" in named
    assert named <= set(typer.main.get_command(app).commands)
