"""Checkpoints as data: tensors and hyper-parameters come out, and nothing that a file asks for is ever called."""

import hashlib
import json
import logging
import os
import pickle
import re
import reprlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .archive import MAGIC, check_archive
from .bounded_files import open_regular, read_text
from .bounded_yaml import parse_yaml
from .errors import InputError, reason_of

# What a Lightning checkpoint may name besides tensors: harmless containers, and libraries whose objects become `Inert`.
_CONTAINERS: dict[str, Any] = {
    "builtins.dict": dict,
    "builtins.int": int,
    "builtins.list": list,
    "collections.defaultdict": defaultdict,
}
_INERT_LIBRARIES = {"argparse", "lightning", "lightning_fabric", "omegaconf", "pathlib", "pytorch_lightning", "typing"}
_MOST_SETTINGS = 100_000
_LONGEST_NAME = 500

# What else is found under the name of a checkpoint, by its first bytes.
_RESAVE = "and has no checksums that would show damage. Save its state dict again with the PyTorch that wrote it"
_FORMATS = {
    b"version https://git-lfs": "the pointer that Git LFS leaves: run git lfs pull",
    b"<": "a web page or XML: fetch the file itself",
    b"\x89HDF": "HDF5, as Keras writes it",
    b"ustar": f"of PyTorch's format before 0.1.10, {_RESAVE}",
    b"\x80": f"a plain pickle, or of PyTorch's format before 1.6, {_RESAVE}",
    b"{": "a JSON text: name the file of weights itself",
}

logger = logging.getLogger(__name__)


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
        InputError: for a file that is missing, damaged, names code to run, holds no tensors, or is in a format without
            checksums that would show damage. Of the formats without them only safetensors is read, with a warning.
    """
    with open_regular(path) as file:
        start, size = file.read(512), os.fstat(file.fileno()).st_size
    if _is_safetensors(start, size):
        loaded: Any = _load_safetensors(path)
    elif start.startswith(MAGIC):
        check_archive(path)
        loaded = _load_archive(path)
    else:
        _refuse_format(path, start)
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors.")
    tensors = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), dict)), loaded)
    strangers = [name for name, value in tensors.items() if not isinstance(name, str) or not _is_plain(value)]
    if strangers or not tensors:
        raise InputError(
            f"{path} holds no state dict: it must map names to tensors (or have one under 'state_dict' or 'model'), "
            f"but {f'{reprlib.repr(strangers[0])} is not a plain tensor' if strangers else 'it is empty'}."
        )
    odd = next((name for name in tensors if len(name) > _LONGEST_NAME or not name.isprintable()), None)
    if odd is not None:
        raise InputError(
            f"{path} has a tensor of the name {reprlib.repr(odd)}, of {len(odd):,} characters: is it a state dict?"
        )
    # Tensors may share their numbers, so that a small file could describe weights that no memory holds.
    if sum(value.nbytes for value in tensors.values()) > size:
        raise InputError(
            f"{path} has tensors of more bytes than the file, which share their numbers: save each with its own."
        )
    return Checkpoint(dict(tensors), _read_settings(path, loaded.get("hyper_parameters")))


def _is_safetensors(start: bytes, size: int) -> bool:
    """A safetensors file begins with the length of its header, which is JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") + 8 <= size


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose library checks names, sizes and offsets: there are no checksums.

    Raises:
        InputError: for a header that is damaged, or does not describe every byte after it once.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # a header of random bytes is answered by several kinds of errors
        raise InputError(f"{path} is no whole safetensors file ({reason_of(error)}): fetch it again.") from error
    logger.warning(
        "%s has no checksums, so damaged numbers in it cannot be seen. Compare its SHA-256 with its source's: %s",
        path,
        sha256_of(path),
    )
    return tensors


def sha256_of(path: Path) -> str:
    """The digest that the Hub shows for a file of weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_format(path: Path, start: bytes) -> NoReturn:
    """Say what a file is that is neither an archive nor safetensors."""
    what = next((kind for magic, kind in _FORMATS.items() if start.startswith(magic)), None)
    if not start:
        what = "empty"
    elif what is None:
        what = _FORMATS[b"ustar"] if start[257:262] == b"ustar" else "of no format that is known here"
    raise InputError(
        f"{path} cannot be read as data, and is never run as code: it is no archive of torch.save and no whole "
        f"safetensors file, but {what}."
    )


def _load_archive(path: Path) -> Any:
    """What the pickle of an archive holds.

    Raises:
        InputError: for one that names code to run, or is no pickle of tensors.
    """
    try:
        return _load_pickle(path)
    except InputError:
        raise
    except (Exception, MemoryError) as error:  # a file of a stranger can make the unpickler raise anything
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise InputError(f"{path} cannot be read as data, and is never run as code: {_refusal(error)}") from error
        raise InputError(f"{path} is no whole PyTorch checkpoint ({reason_of(error)}): fetch it again.") from error


def _load_pickle(path: Path) -> Any:
    """The same by torch's weights-only unpickler, with stand-ins for the libraries of the table."""
    stand_ins: list[Any] = []
    for name in get_unsafe_globals_in_checkpoint(path):
        if name not in _CONTAINERS and name.split(".")[0] not in _INERT_LIBRARIES:
            raise InputError(
                f"{path} asks to import {reprlib.repr(name)}, which a checkpoint of numbers has no use for. It was "
                "not run, and nothing was loaded."
            )
        stand_ins.append((_CONTAINERS.get(name, Inert), name))
    with safe_globals(stand_ins), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it says what the error will
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)


def _refusal(error: BaseException) -> str:
    """What torch's unpickler did not accept, without its advice to run the file."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks to import {reprlib.repr(asked[1])}."
    return "it is no archive of torch.save with tensors and plain values only. Save the model's state dict in one."


def _is_plain(value: Any) -> bool:
    """A dense tensor in memory that has all of its numbers in the file, and no attributes of its own."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and not vars(value)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def read_hyper_parameters(path: Path) -> dict[str, Any]:
    """Hyper-parameters from a YAML or JSON file.

    Raises:
        InputError: for a file that is missing, too large, cannot be parsed, or holds no mapping.
    """
    text = read_text(path)
    if path.suffix == ".json":
        try:
            given = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON: {reason_of(error)}.") from error
    else:
        given = parse_yaml(text, str(path))
    settings = _read_settings(path, given)
    if settings is None:
        raise InputError(f"{path} must hold a mapping of names to values, got a {type(given).__name__}.")
    return settings


def _once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of a JSON object, none of them given twice."""
    found: dict[str, Any] = {}
    for name, value in entries:
        if name in found:
            raise ValueError(f"{name[:80]!r} is there twice")
        found[name] = value
    return found


def _read_settings(path: Path, given: Any) -> dict[str, Any] | None:
    """Hyper-parameters as plain values with every reference followed; None if they are no mapping."""
    budget = iter(range(_MOST_SETTINGS))
    try:
        plain = _plain(given, budget)
        return _resolved(plain, budget) if isinstance(plain, dict) else None
    except RecursionError:
        raise InputError(
            f"The hyper-parameters of {path} refer to themselves, or are more than {_MOST_SETTINGS:,}, where those of "
            "a model are some hundred. Remove what is not of the model."
        ) from None


def _spend(budget: Iterator[int]) -> None:
    """Count a value: what is shared and repeated can be far more than the file that it comes from."""
    if next(budget, None) is None:
        raise RecursionError


def _plain(value: Any, budget: Iterator[int]) -> Any:
    """OmegaConf's containers and nodes as dictionaries, lists and values; other stand-ins as None."""
    _spend(budget)
    if isinstance(value, Inert):
        return _plain(value.state.get("_content", value.state.get("_val")), budget)
    if isinstance(value, dict):
        return {name: _plain(entry, budget) for name, entry in value.items() if isinstance(name, str)}
    if isinstance(value, list | tuple):
        return [_plain(entry, budget) for entry in value]
    return value


def _resolved(config: dict[str, Any], budget: Iterator[int]) -> dict[str, Any]:
    """With every "${a.b}" that names another entry replaced by it; what cannot be resolved stays as it is."""

    def follow(value: Any) -> Any:
        _spend(budget)
        if isinstance(value, dict):
            return {key: follow(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [follow(entry) for entry in value]
        named = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if named is None:
            return value
        target: Any = config
        for part in named[1].split("."):
            if not isinstance(target, dict) or part not in target:
                return value
            target = target[part]
        return follow(target)

    return follow(config)
