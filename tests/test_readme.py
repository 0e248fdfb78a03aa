"""What the documents show is true: their Python runs and prints what they say, and what they name exists."""

import csv
import gzip
import itertools
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pytest_examples import EvalExample, find_examples

import make
from modeling_dlr.cli import app
from modeling_dlr.cli.hub import VERBS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configuration/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What makes the runs of `modeling-dlr train` short; it does not change what is written.
SHORT = ["--epochs", "1", "--evaluations", "1", "--layers", "1", "--hidden-size", "16", "--no-pictures"]
SLOW = ("export.md",)

by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document: Path, *languages: str) -> str:
    """All fenced blocks in these languages, one after another."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "".join(text for language, text in fences if language in languages)


def steps(document: Path) -> list[Any]:
    """What a reader does, in order: blocks of Python, and lines of the shell."""
    text = document.read_text(encoding="utf-8")
    found: list[tuple[int, Any]] = [(block.start_line, block) for block in find_examples(document)]
    for fence in re.finditer(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        place = text.count("\n", 0, fence.start()) + 1
        found += [(place, line) for line in fence[1].replace("\\\n", " ").splitlines()]
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]


def run_command(line: str) -> None:
    """Run a command of `modeling-dlr` in this process; the verbs of the Hub and the page have tests of their own."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["modeling-dlr"] or words[1] in (*VERBS, "demo"):
        return
    assert app([*words[1:], *(SHORT if words[1] == "train" else [])], standalone_mode=False) in (None, 0)


def write_files_of_a_reader(folder: Path) -> None:
    """The files that a reader of the documents has: a table of 56 short reviews, half of them good, and genes."""
    things, good, bad = (
        ["plot", "music", "ending", "cast"],
        ["superb", "lovely", "gripping"],
        ["dull", "clumsy", "slow"],
    )
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for thing, verb, word in itertools.product(things, ["is", "was"], good + bad):
            rows.writerow([f"I thought the {thing} {verb} {word}.", "good" if word in good else "bad"])
    (folder / "new.csv").write_text("text\nI thought the plot was superb.\nA dull book.\n", encoding="utf-8")
    genes = ">gene1 first\nACGTTGCATTAGC\n>gene2 second\nGATTACAGATTACA\n"
    (folder / "genes.fa").write_text(genes, encoding="utf-8")
    (folder / "genes.fa.gz").write_bytes(gzip.compress(genes.encode()))
    rows = "".join(f"{'ACGT' * (4 + i % 5)}{'GC' * i},{'EEII' * (4 + i % 5)}{'EI' * i}\n" for i in range(30))
    (folder / "structure.csv").write_text(f"sequence,structure\n{rows}", encoding="utf-8")
    variants = "name,position,reference,alternative\ngene1,3,G,T\ngene2,1,G,C\n"
    (folder / "variants.csv").write_text(variants, encoding="utf-8")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=str(path.relative_to(ROOT)), marks=pytest.mark.slow if path.name in SLOW else ())
        for path in DOCUMENTS
        if steps(path)
    ],
)
# torch's own exporter still asks its trees by the old name.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_blocks_run(document: Path, eval_example: EvalExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In order, sharing names and files as in one session, each block prints what its `#>` lines show."""
    shutil.copytree(ROOT / "configuration", tmp_path / "configuration")
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    monkeypatch.chdir(tmp_path)
    write_files_of_a_reader(tmp_path)
    names: dict[str, Any] = {}
    for step in steps(document):
        if isinstance(step, str):
            run_command(step)
        else:
            names |= eval_example.run_print_check(step, module_globals=names)


@by_document
def test_commands_exist(document: Path):
    """Every `make X` is a target, and every file that a command names is there."""
    commands = blocks(document, "sh", "powershell").replace("\\", "/")
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", commands, flags=re.MULTILINE)) <= set(targets)
    named = re.findall(r"(?<=\s)[\w./-]+\.(?:py|txt|toml|yaml)\b", commands)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@by_document
def test_links_and_trees_exist(document: Path):
    """Relative links, and the first word of every line of a file list, are paths that exist."""
    text = document.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    files = [line.split()[0] for line in blocks(document, "text").splitlines()]
    assert [name for name in [*links, *files] if not (document.parent / name).exists()] == []


def test_an_environment_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An environment that is there is installed into and not made again, which fails from its own Python."""
    python = make.environment_python(tmp_path / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    ran: list[list[str]] = []
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make.venv, "create", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(make.subprocess, "run", lambda command, **_: ran.append(command))
    assert make.set_up(".venv", "dev", "") == python
    assert all(command[0] == str(python) for command in ran)
    assert "install" in ran[-1]


def test_makefile_has_every_command():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"help", *make.COMMANDS, *make.FUNCTIONS} >= set(targets)
    assert set(targets) >= {"help", "setup", "demo", "test", "test-slow", "test-versions", "upgrade", "format", "docs"}


def test_the_demo_has_no_test_dependencies():
    """transformers imports some libraries of the tests, which warn, so the demo has its own environment."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    folder, extra = make.ENVIRONMENTS["demo"]
    assert folder != ".venv"
    assert not set(extras[extra]) & set(extras["test"])
    assert "test" not in extra
    assert set(make.ENVIRONMENTS) <= set(make.COMMANDS)
