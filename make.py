"""Set up `.venv` from the lock and run the project's commands: `python make.py demo`, `python make.py test`, ...

Only the standard library is imported here, because this file runs before anything is installed.
"""

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOCK = ROOT / "requirements-lock.txt"
STAMP = VENV / "installed-from"

ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUTF8": "1"}

# One process per core, each with the tests of whole files, so that what a file sets up is set up once.
PYTEST = ["-m", "pytest", "--numprocesses=auto", "--maxprocesses=8", "--dist=loadfile"]

COMMANDS: dict[str, list[list[str]]] = {
    "setup": [],
    "checkpoints": [["examples/checkpoints.py"]],
    "demo": [["examples/quickstart.py"], ["examples/colour_code.py"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
    "types": [["-m", "pyrefly", "check"]],
    "test": [[*PYTEST, "-m", "not slow"]],
    "test-slow": [[*PYTEST, "-m", "slow"]],
    "format": [["-m", "ruff", "check", "--fix", "."], ["-m", "ruff", "format", "."]],
    "docs": [["-m", "modeling_dlr.configuration_docs"], ["benchmarks/render.py"]],
}
COMMANDS["test"] = COMMANDS["lint"] + COMMANDS["types"] + COMMANDS["test"]


def set_up() -> None:
    """Create `.venv` and install the package with its locked dependencies, unless that is already done."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the reader may well have an older one
        raise SystemExit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: run it with a newer one.")
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise SystemExit("This Python cannot create virtual environments: apt-get install python3-venv")
    venv.create(VENV, with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--constraint", str(LOCK), "--editable", ".[dev]"], cwd=ROOT, check=True)
    STAMP.write_text(wanted, encoding="utf-8")


def main() -> None:
    """Run one command, after setting up what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the last program the command runs")
    options = parser.parse_args()
    set_up()
    steps = [list(step) for step in COMMANDS[options.command]]
    if steps:
        steps[-1] += options.arguments
    for step in steps:
        finished = subprocess.run([str(PYTHON), *step], cwd=ROOT, env=ENVIRONMENT | os.environ, check=False)
        if finished.returncode:
            raise SystemExit(finished.returncode)


if __name__ == "__main__":
    main()
