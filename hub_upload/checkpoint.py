"""Checkpoints as data: tensors and hyper-parameters come out, and nothing that a file asks for is ever called."""

import json
import pickle
import re
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .errors import InputError

# What a Lightning checkpoint may name besides tensors: harmless containers, and libraries whose objects become `Inert`.
_CONTAINERS: dict[str, Any] = {
    "builtins.dict": dict,
    "builtins.int": int,
    "builtins.list": list,
    "collections.defaultdict": defaultdict,
}
_INERT_LIBRARIES = {"argparse", "lightning", "lightning_fabric", "omegaconf", "pathlib", "pytorch_lightning", "typing"}


class Checkpoint(NamedTuple):
    """The state dict of a file, under the names it has there, and its hyper-parameters, if it has any."""

    tensors: dict[str, Tensor]
    hyper_parameters: dict[str, Any] | None


class Inert:
    """Stands in for an object of a library that is not imported: takes any arguments and state, and does nothing."""

    def __new__(cls, *_args: Any, **_keywords: Any):
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_keywords: Any):
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep what would have been the attributes."""
        self.state = state if isinstance(state, dict) else {}


def read_checkpoint(path: Path) -> Checkpoint:
    """Tensors and hyper-parameters of a Lightning checkpoint, a bare state dict, or a safetensors file.

    Raises:
        InputError: for a file that is missing, corrupt, names code to run, or holds no tensors.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}: name a .ckpt, .pt or .safetensors file.")
    if path.suffix == ".safetensors":
        try:
            return Checkpoint(load_file(path), None)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no whole safetensors file ({error}): fetch it again.") from error
    loaded = _load_pickle(path)
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    tensors = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), dict)), loaded)
    strangers = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if strangers or not tensors:
        raise InputError(
            f"{path} holds no state dict: it must map names to tensors (or have one under 'state_dict' or 'model'), "
            f"but {str(strangers[0]) + ' is not a tensor' if strangers else 'it is empty'}."
        )
    given = loaded.get("hyper_parameters")
    return Checkpoint(dict(tensors), None if given is None else _resolved(_plain(given)))


def _load_pickle(path: Path) -> Any:
    """What a pickle holds, by torch's weights-only unpickler, with stand-ins for the libraries of the table."""
    try:
        stand_ins: list[Any] = []
        if zipfile.is_zipfile(path):
            for name in get_unsafe_globals_in_checkpoint(path):
                if name not in _CONTAINERS and name.split(".")[0] not in _INERT_LIBRARIES:
                    raise InputError(
                        f"{path} asks to import {name}, which a checkpoint of numbers has no use for. It was not run, "
                        "and nothing was loaded."
                    )
                stand_ins.append((_CONTAINERS.get(name, Inert), name))
        with safe_globals(stand_ins), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it says what the error will
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as data, and is never run as code: {reason}") from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no whole PyTorch checkpoint ({error}): fetch it again.") from error


def read_hyper_parameters(path: Path) -> dict[str, Any]:
    """Hyper-parameters from a YAML or JSON file.

    Raises:
        InputError: for a file that is missing, cannot be parsed, or holds no mapping; and for YAML without PyYAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The hyper-parameters {path} cannot be read: {error}.") from error
    if path.suffix == ".json":
        try:
            given = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}.") from error
    else:
        given = _parse_yaml(path, text)
    if not isinstance(given, dict):
        raise InputError(f"{path} must hold a mapping of names to values, got a {type(given).__name__}.")
    return _resolved(given)


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"Reading {path} needs PyYAML, which is not installed: pip install PyYAML, or write it as JSON."
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}.") from error


def _plain(value: Any) -> Any:
    """OmegaConf's containers and nodes as dictionaries, lists and values; other stand-ins as None."""
    if isinstance(value, Inert):
        return _plain(value.state.get("_content", value.state.get("_val")))
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _resolved(config: dict[str, Any]) -> dict[str, Any]:
    """With every "${a.b}" that names another entry replaced by it; what cannot be resolved stays as it is."""

    def follow(value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict):
            return {key: follow(entry, depth) for key, entry in value.items()}
        if isinstance(value, list):
            return [follow(entry, depth) for entry in value]
        named = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if named is None or depth > len(config):
            return value
        target: Any = config
        for part in named[1].split("."):
            if not isinstance(target, dict) or part not in target:
                return value
            target = target[part]
        return follow(target, depth + 1)

    return follow(config)
