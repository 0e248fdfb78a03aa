"""What the documents show is true: their Python runs and prints what they say, and what they name exists."""

import csv
import itertools
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

import make

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configuration/README.md")),
    *(ROOT / "docs" / f"{name}.md" for name in ("evo", "heads", "hub", "export", "limits", "public")),
]
PYTHON_BLOCKS = {
    path: list(examples) for path, examples in itertools.groupby(find_examples(*DOCUMENTS), lambda block: block.path)
}

by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document: Path, *languages: str) -> str:
    """All fenced blocks in these languages, one after another."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "".join(text for language, text in fences if language in languages)


def write_reviews(path: Path) -> None:
    """The table that a reader of README.md has: 56 short reviews, half of them good."""
    things, good, bad = (
        ["plot", "music", "ending", "cast"],
        ["superb", "lovely", "gripping"],
        ["dull", "clumsy", "slow"],
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for thing, verb, word in itertools.product(things, ["is", "was"], good + bad):
            rows.writerow([f"I thought the {thing} {verb} {word}.", "good" if word in good else "bad"])


@pytest.mark.parametrize(
    "python_blocks",
    [
        pytest.param(examples, id=path.name, marks=pytest.mark.slow if path.name == "export.md" else ())
        for path, examples in PYTHON_BLOCKS.items()
    ],
)
# torch's own exporter still asks its trees by the old name.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_python_blocks_run(
    python_blocks: list[CodeExample], eval_example: EvalExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In order, sharing their names as in one session, each prints what its `#>` lines show."""
    shutil.copytree(ROOT / "configuration", tmp_path / "configuration")
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv")
    names = {}
    for block in python_blocks:
        names |= eval_example.run_print_check(block, module_globals=names)


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
    """Relative links lead somewhere, and so does the first word of every line of a tree."""
    text = document.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    files = [line.split()[0] for line in blocks(document, "text").splitlines()]
    assert [name for name in [*links, *files] if not (document.parent / name).exists()] == []


def test_makefile_has_every_command():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"help", *make.COMMANDS, *make.FUNCTIONS} >= set(targets)
    assert set(targets) >= {"help", "setup", "demo", "test", "test-slow", "test-versions", "upgrade", "format", "docs"}


def test_the_demo_has_nothing_of_the_tests():
    """transformers imports libraries that tests need, and some of them warn: the demo's environment lacks them."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    folder, extra = make.ENVIRONMENTS["demo"]
    assert folder != ".venv"
    assert not set(extras[extra]) & set(extras["test"])
    assert "test" not in extra
    assert set(make.ENVIRONMENTS) <= set(make.COMMANDS)
