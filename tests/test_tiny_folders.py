"""The tiny random folders of every head: their size, their code, and what is kept where one is not ready."""

import ast
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import modeling_dlr
from hub_upload import tiny_folders
from hub_upload.errors import InputError
from hub_upload.inspect_folder import INSPECTIONS
from hub_upload.tiny_folders import LARGEST, MODELS, Documented, make_tiny, without_documentation


def inspected(folder: Path) -> None:
    """What `verify` finds by reading the files, without starting a process."""
    assert [problem for inspect in INSPECTIONS.values() for problem in inspect(folder)] == []


@pytest.mark.parametrize("model", MODELS)
def test_every_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of at most 200 KB, with its code, that passes every inspection."""
    monkeypatch.setattr(tiny_folders, "verify", inspected)
    folder = tmp_path / model
    size = make_tiny(model, folder)
    assert size == sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST == 200_000
    assert [path.name for path in tmp_path.iterdir()] == [model]


def test_code_without_documentation_is_the_same_program():
    """Comments, docstrings, types of results and wide indentation go; other strings and what is read stay."""
    source = '''"""Module."""
class A(ValueError):
    """Class."""

def f(x="#") -> str:
    """Function."""
    # why
    return """kept""" + x

@auto_docstring(custom_args="y")
def g(x):
    """x: kept.

        As it stands."""
'''
    expected = """class A(ValueError):
 pass

def f(x='#'):
 return 'kept' + x

@auto_docstring(custom_args='y')
def g(x):
 \"\"\"x: kept.

        As it stands.\"\"\"
"""
    assert without_documentation(source) == expected


def without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


TRAVELLING = sorted(Path(modeling_dlr.__file__).parent.glob("*_dlr.py"))


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.stem)
def test_code_is_ours(path: Path):
    """What is left out of each file that travels with weights changes nothing that runs."""
    source = path.read_text(encoding="utf-8")
    assert without_docstrings(without_documentation(source)) == without_docstrings(source)


LOADING = """
import json, sys
from pathlib import Path
import transformers
for folder in sorted(Path(sys.argv[1]).iterdir()):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = [name for name, place in config["auto_map"].items() if place.endswith("." + config["architectures"][0])]
    getattr(transformers, names[0]).from_pretrained(folder, trust_remote_code=True)
"""


@pytest.mark.slow
def test_folders_load_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing of what was left out is missed: every head loads from its folder alone, and prints nothing."""
    monkeypatch.setattr(tiny_folders, "verify", inspected)
    assert tiny_folders.main([str(tmp_path / "tiny")]) == 0
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    command = [sys.executable, "-S", "-P", "-c", LOADING, str(tmp_path / "tiny")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "[ERROR]" not in done.stderr
    assert {folder.name for folder in (tmp_path / "tiny").iterdir()} == {f"tiny-random-{name}" for name in MODELS}


@pytest.mark.slow
def test_folders_are_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As a stranger meets them, in a process without the package; another name is refused before any work."""
    chosen = ["DLRModel", "StripedHyenaModelForCausalLM"]
    assert tiny_folders.main([str(tmp_path), *chosen]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(chosen)
    with pytest.raises(SystemExit) as ended:
        tiny_folders.main([str(tmp_path / "none"), "DLRModle"])
    assert ended.value.code == 2
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_not_ready_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What fails its verification leaves the earlier folder as it was."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "earlier.txt").write_text("earlier", encoding="utf-8")
    monkeypatch.setattr(tiny_folders, "write_tiny", lambda name, made: None)
    with pytest.raises(InputError):
        make_tiny("DLRModel", folder)
    assert [path.name for path in folder.iterdir()] == ["earlier.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
