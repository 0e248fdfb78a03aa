"""The folders of recipes and of what they write."""

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from modeling_dlr.presets import preset_folder


def load_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the model fields and the training options of ``configuration/recipes/NAME``."""
    config, training = (
        json.loads((preset_folder("recipes", name) / file).read_text(encoding="utf-8"))
        for file in ("config.json", "training.json")
    )
    config.pop("model_type")
    return config, training


def check_place(option: str, path: str) -> None:
    """Check, before any work, that ``path`` is a folder or can become one.

    Raises:
        ValueError: if it cannot; the message gives the reason.
    """
    shown = path if len(path) <= 80 else f"{path[:80]}…"
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(Path(path).stat().st_mode):
                raise NotADirectoryError(None, "it is a file")
        nearest = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise PermissionError(None, f"{nearest} is not a writable folder")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{option} must be a folder that can be written, got {shown!r}: {reason}.") from error


def last_part(value: Any) -> Any:
    """Reduce an absolute path to its last part, which says nothing about the machine; keep other values."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
