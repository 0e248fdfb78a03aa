"""Find a pretrained model of bytes: a folder, or the model of an installed distribution. Nothing is downloaded."""

import importlib.util
from pathlib import Path

# The modules of distributions that hold a model, in a folder of its name.
DISTRIBUTIONS = {"dlr-small-bytes-bidirectional": "modeling_dlr_bytes"}


def installed_model() -> Path | None:
    """The folder of a model that is installed, or None."""
    return next((folder for name in DISTRIBUTIONS if (folder := _installed(name)) is not None), None)


def _installed(name: str) -> Path | None:
    found = importlib.util.find_spec(DISTRIBUTIONS[name])
    folder = None if found is None or found.origin is None else Path(found.origin).resolve().with_name(name)
    return folder if folder is not None and (folder / "config.json").is_file() else None


def pretrained_folder(given: Path) -> Path:
    """The folder of a model that is given as a folder, or by the name of one that is installed.

    Raises:
        ValueError: if there is no such folder, or it holds no model; the message says what to install.
    """
    folder, module = given, DISTRIBUTIONS.get(str(given))
    if module is not None and not given.is_dir():
        found = _installed(str(given))
        if found is None:
            raise ValueError(f"--pretrained {given} is not installed: pip install {module.replace('_', '-')}")
        folder = found
    if not (folder / "config.json").is_file():
        raise ValueError(f"--pretrained must be a folder with a model, or one of {list(DISTRIBUTIONS)}, got {given}.")
    return folder
