"""Run Python in a process that has the dependencies but not this package."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


def run_without_package(home: Path, *arguments: str | Path) -> None:
    """Run ``python ARGUMENTS`` in the folder ``home``, which also holds its cache of Hugging Face; it must succeed."""
    # -S leaves the .pth files alone, by which an editable installation would be found.
    finished = subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HOME": str(home / "home")},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
