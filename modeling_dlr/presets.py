"""The named models and recipes that come with the package: folders with a ``config.json``.

>>> from modeling_dlr import DLRConfig
>>> DLRConfig.from_pretrained(preset_folder("models", "dlr-tiny")).model_type
'dlr'
"""

from pathlib import Path
from typing import Literal

from .kernel_parameters_dlr import refuse_unknown_names

Kind = Literal["models", "recipes"]


def preset_names(kind: Kind) -> list[str]:
    """The names of the models, or of the recipes, which also hold a ``training.json``."""
    return sorted(folder.name for folder in (_root() / kind).iterdir() if folder.is_dir())


def preset_folder(kind: Kind, name: str) -> Path:
    """The folder of a named model or recipe, as `DLRConfig.from_pretrained` reads it.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    refuse_unknown_names(kind, [name], preset_names(kind))
    return _root() / kind / name


def _root() -> Path:
    """Within an installed package, or beside the package in a checkout."""
    installed = Path(__file__).with_name("configuration")
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configuration"
