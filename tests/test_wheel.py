"""The wheel: the two packages and what they need, nothing that works in a checkout only."""

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hatch_build
import modeling_dlr
from modeling_dlr.presets import preset_folder, preset_names

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_contents(wheel: Path):
    """Two packages with their types, the named models and the recipes; no tests, no examples, no caches."""
    assert {path.name for path in wheel.iterdir()} == {
        "hub_upload",
        "modeling_dlr",
        f"modeling_dlr-{modeling_dlr.__version__}.dist-info",
    }
    for package in ("modeling_dlr", "hub_upload"):
        in_checkout = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        in_checkout.discard(str(Path("modeling_dlr", "configuration_docs.py")))
        assert {str(path.relative_to(wheel)) for path in (wheel / package).rglob("*.py")} == in_checkout
        assert (wheel / package / "py.typed").is_file()
    assert [path for path in wheel.rglob("*") if path.suffix == ".pyc"] == []


@pytest.mark.slow
def test_page_on_an_index(wheel: Path):
    """The first page is README.md without links to files, which an index does not have."""
    page = email.message_from_bytes(next(wheel.glob("*.dist-info/METADATA")).read_bytes())
    assert page["Description-Content-Type"] == "text/markdown"
    assert "# modeling-dlr" in page.get_payload()
    targets = re.findall(r"\]\(([^)]+)\)", page.get_payload())
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


@pytest.mark.parametrize(
    ("text", "with_source", "without"),
    [
        (
            "see [the heads](docs/heads.md#all).",
            "see [the heads](https://e.org/r/blob/HEAD/docs/heads.md#all).",
            "see the heads.",
        ),
        ("![speed](docs/speed.svg)", "![speed](https://e.org/r/raw/HEAD/docs/speed.svg)", "speed"),
        ("[DLR](https://arxiv.org/abs/2212.00768), [below](#limits)", None, None),
    ],
)
def test_links(text: str, with_source: str | None, without: str | None):
    """Links to files lead to the repository if it is known, and are plain words if it is not; others stay."""
    assert hatch_build.absolute_links(text, "https://e.org/r/") == (with_source or text)
    assert hatch_build.absolute_links(text, None) == (without or text)


@pytest.mark.slow
def test_named_models_and_recipes(wheel: Path, tmp_path: Path):
    """They are found without a checkout."""
    program = (
        "import modeling_dlr\n"
        "from modeling_dlr.presets import preset_folder, preset_names\n"
        "for kind in ('models', 'recipes'):\n"
        "    for name in preset_names(kind):\n"
        "        modeling_dlr.DLRConfig.from_pretrained(preset_folder(kind, name))\n"
        "    print(len(preset_names(kind)), preset_folder(kind, name))\n"
    )
    paths = os.pathsep.join([str(wheel), *(path for path in sys.path if path.endswith("site-packages"))])
    command = [sys.executable, "-S", "-c", program]
    answer = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, check=True, capture_output=True, text=True
    )
    lines = answer.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [len(preset_names(kind)) for kind in ("models", "recipes")]
    assert all(str(wheel) in line for line in lines)


CORE_ONLY = """
import sys
sys.modules |= dict.fromkeys(["cv2", "gradio", "matplotlib", "peft", "PIL", "ray", "soundfile", "torchao"])
from modeling_dlr.cli import app
for line in sys.stdin.read().splitlines():
    try:
        app(line.split())
    except SystemExit as stop:
        print("status", stop.code or 0, flush=True)
"""
COMMANDS = """\
train rows.csv --layers 1 --hidden-size 8 --state-size 4 --epochs 1 --evaluations 2
predict outputs/rows rows.csv --output answers.csv
embed outputs/rows rows.csv --output vectors.npy
evaluate outputs/rows rows.csv
card outputs/rows --no-picture --license apache-2.0
verify outputs/rows
recipes
recipes run twin-atomic-dlr --help
demo outputs/rows
"""


@pytest.mark.slow
def test_commands_without_the_extras(wheel: Path, tmp_path: Path):
    """In an empty folder: nothing but what is for the reader is printed, and what is missing is named with its cure."""
    rows = [f"text {i} is {word},{word}\n" for i in range(30) for word in ("good", "bad")]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(rows))
    paths = os.pathsep.join([str(wheel), *(path for path in sys.path if path.endswith("site-packages"))])
    answer = subprocess.run(
        [sys.executable, "-S", "-c", CORE_ONLY], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"},
        input=COMMANDS, check=True, capture_output=True, text=True,
    )  # fmt: skip
    *statuses, last = [line for line in answer.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 0"] * 8, answer.stdout + answer.stderr
    assert last != "status 0"
    assert "pip install 'modeling-dlr[figures]'" in answer.stdout
    assert [line for line in answer.stderr.splitlines() if "modeling-dlr[demo]" not in line] == []
    assert "\x1b" not in answer.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "outputs", "answers.csv", "vectors.npy"}
    written = {path.name for path in (tmp_path / "outputs" / "rows").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "results.json", "task.json", "tokenizer.json"} <= written
    assert not [name for name in written if name.endswith(".png")]


# Packages whose modules are called otherwise.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def test_imports_are_declared():
    """What the packages import comes with them: by itself, or with an extra if only a function or a task needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {Requirement(line).name for line in project["dependencies"]}
    extras = {Requirement(line).name for name in ("demo", "figures", "ray", "tasks", "tracking")
              for line in project["optional-dependencies"].get(name, [])}  # fmt: skip
    # Triton comes with torch, where it exists; nothing imports the one file that needs it.
    own = {"modeling_dlr", "hub_upload", "triton", *sys.stdlib_module_names}
    for path in [path for name in ("modeling_dlr", "hub_upload") for path in (ROOT / name).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            names = {module.split(".")[0] for module in modules} - own
            may = core | (extras if node not in tree.body or path.stem.startswith("pathfinder") else set())
            assert {PACKAGES.get(name, name) for name in names} <= may, path


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"'dlr-tinny'.*'dlr-tiny'"):
        preset_folder("models", "dlr-tinny")


def test_the_version_is_written_once():
    """In the package; the newest section of the changelog is that of this version."""
    version, others = modeling_dlr.__version__, ("README.md", "CITATION.cff", "pyproject.toml")
    assert [name for name in others if version in (ROOT / name).read_text(encoding="utf-8")] == []
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == version
