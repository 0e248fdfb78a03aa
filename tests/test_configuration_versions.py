"""A folder says which transformers it needs before it fails at a name that an older one lacks."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modeling_dlr import DLRConfig, configuration_dlr
from modeling_dlr.versions_dlr import TRANSFORMERS_FLOOR

ROOT = Path(__file__).resolve().parent.parent


def test_the_floor_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = [Requirement(line) for line in project["dependencies"] if Requirement(line).name == "transformers"]
    (floor,) = [bound.version for bound in needed.specifier if bound.operator == ">="]
    assert floor == TRANSFORMERS_FLOOR
    assert needed.specifier.contains(Version(transformers.__version__))


def test_it_is_said_first():
    """Nothing is imported before it that may not be there."""
    tree = ast.parse(Path(str(configuration_dlr.__file__)).read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert isinstance(first, ast.ImportFrom)
    assert (first.level, first.module) == (1, "versions_dlr")


@pytest.mark.parametrize("version", ["4.57.1", "5.23.0", "5.23.9.dev0"])
def test_a_folder_under_an_older_transformers(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One sentence names what it needs, what is there and the cure."""
    DLRConfig().save_pretrained(tmp_path)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    with pytest.raises(ImportError) as caught:
        get_class_from_dynamic_module("configuration_dlr.DLRConfig", tmp_path)
    assert str(caught.value) == (
        f"This DLR model needs transformers >= {TRANSFORMERS_FLOOR}, but {version} is installed: "
        f'pip install "transformers>={TRANSFORMERS_FLOOR}".'
    )


@pytest.mark.parametrize("version", ["5.24.0", "5.24.0.dev0", "5.30.1", "6.0.0"])
def test_a_folder_under_a_newer_transformers(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    DLRConfig().save_pretrained(tmp_path)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    assert get_class_from_dynamic_module("configuration_dlr.DLRConfig", tmp_path).model_type == "dlr"
