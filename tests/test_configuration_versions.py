"""A folder says which transformers it needs before it fails at a name that an older one lacks."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modeling_dlr import DLRConfig, StripedHyenaConfig, configuration_base_dlr
from modeling_dlr.configuration_base_dlr import FIRST_UNTESTED_TRANSFORMERS, MINIMUM_TRANSFORMERS

ROOT = Path(__file__).resolve().parent.parent
RANGE = SpecifierSet(f">={MINIMUM_TRANSFORMERS},<{FIRST_UNTESTED_TRANSFORMERS}")
FAMILIES = {
    "configuration_dlr.DLRConfig": DLRConfig,
    "configuration_striped_hyena.StripedHyenaConfig": StripedHyenaConfig,
}


def test_the_range_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = [Requirement(line) for line in project["dependencies"] if Requirement(line).name == "transformers"]
    assert needed.specifier == RANGE
    assert needed.specifier.contains(Version(transformers.__version__))


@pytest.mark.parametrize("config_class", FAMILIES.values())
def test_every_configuration_checks_it_first(config_class: type):
    """Nothing that an older transformers may lack is imported before the file that checks its version."""
    tree = ast.parse(Path(str(sys.modules[config_class.__module__].__file__)).read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert isinstance(first, ast.ImportFrom)
    assert (first.level, first.module) == (1, "configuration_base_dlr")


def test_that_file_checks_it_first():
    """Before the check, it imports transformers itself and nothing else."""
    tree = ast.parse(Path(str(configuration_base_dlr.__file__)).read_text(encoding="utf-8"))
    check = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.If))
    imports = [node for node in tree.body[:check] if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == ["import transformers"]
    assert isinstance(tree.body[check].body[0], ast.Raise)


@pytest.mark.parametrize("version", ["4.57.1", "5.23.0", "5.23.9.dev0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_under_an_older_transformers(
    family: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One sentence names what it needs, what is installed, and a command that installs a version in the range."""
    FAMILIES[family]().save_pretrained(tmp_path)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    with pytest.raises(ImportError) as caught:
        get_class_from_dynamic_module(family, tmp_path)
    message = str(caught.value)
    assert all(part in message for part in (f"transformers >= {MINIMUM_TRANSFORMERS}", f"{version} is installed"))
    requirement = Requirement(message.split('pip install "')[1].split('"', maxsplit=1)[0])
    assert (requirement.name, requirement.specifier) == ("transformers", RANGE)


@pytest.mark.parametrize("version", ["5.24.0", "5.24.0.dev0", "5.30.1", "6.0.0"])
def test_a_folder_under_a_newer_transformers(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    DLRConfig().save_pretrained(tmp_path)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    assert get_class_from_dynamic_module("configuration_dlr.DLRConfig", tmp_path).model_type == "dlr"
