"""Find a pretrained model of bytes: a folder, or the model of an installed distribution. Nothing is downloaded."""

import importlib.util
from pathlib import Path

# The modules of distributions that hold a model, in a folder of its name.
DISTRIBUTIONS = {"dlr-small-bytes-bidirectional": "modeling_dlr_bytes"}


def installed_model() -> Path | None:
    """The name of a model that is installed, or None."""
    return next((Path(name) for name, module in DISTRIBUTIONS.items() if importlib.util.find_spec(module)), None)


def pretrained_folder(given: Path) -> Path:
    """The folder of a model that is given as a folder, or by the name of one that is installed.

    Raises:
        ValueError: if there is no such folder, or it holds no model; the message says what to install.
    """
    folder, module = given, DISTRIBUTIONS.get(str(given))
    if module is not None and not given.is_dir():
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise ValueError(f"--pretrained {given} is not installed: pip install {module.replace('_', '-')}")
        folder = Path(found.origin).with_name(str(given))
    if not (folder / "config.json").is_file():
        raise ValueError(f"--pretrained must be a folder with a model, or one of {list(DISTRIBUTIONS)}, got {given}.")
    return folder
