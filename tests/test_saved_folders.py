"""Folders that earlier code saved: they load, compute the same, and lose nothing when they are saved again."""

import shutil
from pathlib import Path

import pytest
from golden_data import GOLDEN
from saved_folders import check
from without_package import run_without_package

FOLDERS = {path.name: path for path in sorted((GOLDEN / "folders").iterdir())}


@pytest.mark.parametrize("name", FOLDERS)
def test_package_loads_a_folder(name: str, tmp_path: Path):
    """With the package: every weight to the bit, the recorded logits, and every field of config.json."""
    model = check(FOLDERS[name], tmp_path / "again")
    assert type(model).__module__.startswith("modeling_dlr.")


@pytest.mark.slow
def test_travelling_code_loads_the_folders(tmp_path: Path):
    """Without the package: the same of folders that the code of today travels with."""
    for name, folder in FOLDERS.items():
        check(folder, tmp_path / "folders" / name)
        shutil.copy(folder / "expected.safetensors", tmp_path / "folders" / name)
    run_without_package(tmp_path, Path(__file__).with_name("saved_folders.py"), tmp_path / "folders")
