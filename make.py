"""Set up `.venv` from the lock and run the project's commands: `python make.py demo`, `python make.py test`, ...

This file imports the standard library only, because it runs before anything is installed.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements-lock.txt"
PROJECT = ROOT / "pyproject.toml"

ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_MKDOCS_2_WARNING": "1", "PYTHONUTF8": "1"}

# One process per core, each with the tests of whole files, so that what a file sets up is set up once.
PYTEST = ["-m", "pytest", "--numprocesses=auto", "--maxprocesses=8", "--dist=loadfile"]

COMMANDS: dict[str, list[list[str]]] = {
    "setup": [],
    "demo": [["examples/news.py"], ["examples/colour_code.py"]],
    "data": [["benchmarks/packages.py"]],
    "tiny": [["-m", "hub_upload.tiny_folders"]],
    "lint": [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."]],
    "types": [["-m", "pyrefly", "check"]],
    "test": [[*PYTEST, "-m", "not slow"]],
    "test-slow": [[*PYTEST, "-m", "slow"]],
    "format": [["-m", "ruff", "check", "--fix", "."], ["-m", "ruff", "format", "."]],
    "docs": [["-m", "modeling_dlr.configuration_docs"], ["benchmarks/render.py"], ["benchmarks/speed_figure.py"]],
    "site": [["docs/tools/site_notebook.py"], ["docs/tools/site_figures.py"], ["-m", "mkdocs", "build", "--strict"]],
}
COMMANDS["test"] = COMMANDS["lint"] + COMMANDS["types"] + COMMANDS["test"]

# The commands that have an environment of their own, with these extras: transformers imports what is installed, also
# for tests, and some of it warns.
ENVIRONMENTS = {"demo": (".venvs/demo", "examples")}

# What `test-versions` runs: the tests of what depends on transformers and torch most.
CORE = [
    f"tests/test_{name}.py"
    for name in (
        *("modeling", "heads", "heads_refuse", "keywords", "losses", "padding", "packing", "hybrids"),
        *("attention", "attention_weights", "private_interfaces", "auto", "native", "configuration", "tokenization"),
        *("generation", "streaming", "decoding", "training", "training_steps", "pipelines", "products", "launches"),
        *("striped_golden", "striped_hyena", "striped_folders", "scoring"),
    )
]


def environment_python(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def set_up(folder: str, extras: str, constraints: str) -> Path:
    """Create an environment and install the package in it, unless that is already done; its Python.

    Args:
        folder: of the environment.
        extras: of the package.
        constraints: lines of a pip constraints file.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - the reader may well have an older one
        raise SystemExit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: run it with a newer one.")
    environment = ROOT / folder
    python, stamp = environment_python(environment), environment / "installed-from"
    fingerprint = hashlib.sha256(f"{extras}\n{constraints}\n".encode() + PROJECT.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint:
        return python
    if importlib.util.find_spec("ensurepip") is None:
        raise SystemExit("This Python cannot create virtual environments: apt-get install python3-venv")
    if not python.is_file():  # it may be the user's own, and run this
        venv.create(environment)
    subprocess.run([str(python), "-m", "ensurepip"], check=True, capture_output=True)
    lines = environment / "constraints.txt"
    lines.write_text(constraints, encoding="utf-8")
    install = ["install", "--constraint", str(lines), "--editable", f".[{extras}]"]
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", *install], cwd=ROOT, check=True)
    stamp.write_text(fingerprint, encoding="utf-8")
    return python


def set_up_from_lock(folder: str = ".venv", extras: str = "dev") -> Path:
    """The Python of an environment that has its dependencies as the lock pins them; `.venv` has every one."""
    return set_up(folder, extras, LOCK.read_text(encoding="utf-8"))


def run(python: Path, step: list[str]) -> int:
    """The exit status of a Python command."""
    return subprocess.run([str(python), *step], cwd=ROOT, env=ENVIRONMENT | os.environ, check=False).returncode


def run_command(name: str, arguments: list[str]) -> None:
    """Run the steps of a command in its environment until one fails; the last one takes the arguments."""
    python, steps = set_up_from_lock(*ENVIRONMENTS.get(name, ())), [list(step) for step in COMMANDS[name]]
    if steps:
        steps[-1] += arguments
    for step in steps:
        if status := run(python, step):
            raise SystemExit(status)


def upgrade(arguments: list[str]) -> None:
    """Pin the newest version of every dependency in the lock, within pyproject.toml's ranges and pip's constraint."""
    python = set_up_from_lock()
    command = [str(python), "-m", "pip", "config", "get", "global.constraint"]
    constraint = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    compiler = ["-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--extra", "dev"]
    compiler += ["--upgrade", "--no-annotate", "--custom-compile-command", "make upgrade", "--output-file", LOCK.name]
    compiler += ["--constraint", constraint] if constraint else []
    if status := run(python, [*compiler, *arguments, PROJECT.name]):
        raise SystemExit(status)
    print(f"Wrote {LOCK.name}. Now run: make test test-slow test-versions")


def version_sets() -> dict[str, str]:
    """The constraints of each environment of `test-versions`: the oldest versions, and the newest."""
    dependencies = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    lock = LOCK.read_text(encoding="utf-8")
    floors = [
        f"{name}=={floor}" for name, floor in re.findall(r"(torch|transformers)>=([\d.]+)", "\n".join(dependencies))
    ]
    others = [line for line in lock.splitlines() if not re.match(r"torch==|transformers==|triton|nvidia|cuda", line)]
    (torch,) = re.findall(r"^torch==\S+", lock, re.MULTILINE)
    return {"oldest": "\n".join([*floors, *others]), "newest": torch}


def newer_transformers(python: Path) -> str | None:
    """The newest release of transformers if it is beyond our range, and so not the one that this Python has."""
    index = subprocess.run(
        [str(python), "-m", "pip", "index", "versions", "transformers"], capture_output=True, text=True, check=False
    )
    versions = dict(re.findall(r"(INSTALLED|LATEST): +(\S+)", index.stdout))
    return versions.get("LATEST") if versions.get("LATEST") != versions.get("INSTALLED") else None


def test_versions(arguments: list[str]) -> None:
    """Run the core of the tests with the oldest and the newest versions; report on a release beyond our range."""
    pythons = {name: set_up(f".venvs/{name}", "tasks,test", lines) for name, lines in version_sets().items()}
    failed = [name for name, python in pythons.items() if report(name, python, arguments)]
    python = pythons["newest"]
    if newer := newer_transformers(python):
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"transformers=={newer}"], check=True)
        (python.parent.parent / "installed-from").unlink()
        report(f"transformers {newer}, which is beyond our range (not required)", python, arguments)
    if failed:
        raise SystemExit(f"The core of the tests fails with the {' and the '.join(failed)} versions.")


def report(name: str, python: Path, arguments: list[str]) -> int:
    """Run the core of the tests, and say with which versions; the exit status."""
    versions = (
        "import torch, transformers; print(f'torch {torch.__version__}, transformers {transformers.__version__}')"
    )
    print(f"== {name}:", flush=True)
    run(python, ["-c", versions])
    began = time.monotonic()
    status = run(python, [*PYTEST, "-m", "not slow", *CORE, *arguments])
    print(f"== {name}: exit status {status} after {time.monotonic() - began:.0f} s", flush=True)
    return status


def release(arguments: list[str]) -> None:
    """Build the distributions, check them, and import the wheel in an environment that has nothing else."""
    python, dist = set_up_from_lock(), ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    build = ["-m", "build", "--no-isolation"]
    steps = [["-m", "pip", "install", "--quiet", "build", "twine"], [*build, *arguments]]
    if any((ROOT / "pretrained").glob("*/model.safetensors")):
        steps.append([*build, "--outdir", str(dist), "pretrained"])
    for step in [*steps, ["-m", "twine", "check", "--strict", "dist/*"], ["-m", "pytest", "-q", "tests/test_wheel.py"]]:
        if status := run(python, step):
            raise SystemExit(status)
    (wheel,) = dist.glob("modeling_dlr-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        empty = environment_python(Path(folder))
        for step in (
            ["-m", "pip", "install", "--quiet", str(wheel)],
            ["-c", "import modeling_dlr, hub_upload"],
            ["-m", "modeling_dlr.cli", "--help"],
        ):
            subprocess.run([str(empty), *step], cwd=folder, check=True)
    if "Source" not in tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"].get("urls", {}):
        print(
            "pyproject.toml names no repository, so links of README.md to files became plain words: see CONTRIBUTING.md"
        )
    version = wheel.name.split("-")[1]
    print("dist/ is ready. Tag and upload it:")
    print(f"git tag -a v{version} -m v{version} && git push origin v{version} && python -m twine upload dist/*")


FUNCTIONS: dict[str, Callable[[list[str]], None]] = {
    "release": release,
    "test-versions": test_versions,
    "upgrade": upgrade,
}


def main() -> None:
    """Run one command, after setting up what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, *FUNCTIONS])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the last program the command runs")
    options = parser.parse_args()
    if options.command in FUNCTIONS:
        FUNCTIONS[options.command](options.arguments)
    else:
        run_command(options.command, options.arguments)


if __name__ == "__main__":
    main()
