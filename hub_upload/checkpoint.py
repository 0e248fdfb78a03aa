"""Read checkpoints as data, tensors and hyper-parameters, without running any code that a file names."""

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

# Imports allowed in a Lightning checkpoint: harmless containers, and libraries whose objects become `Inert`.
_CONTAINERS: dict[str, Any] = {
    "builtins.dict": dict,
    "builtins.int": int,
    "builtins.list": list,
    "collections.defaultdict": defaultdict,
}
_INERT_LIBRARIES = {"argparse", "lightning", "lightning_fabric", "omegaconf", "pathlib", "pytorch_lightning", "typing"}
_MOST_SETTINGS = 100_000
_LONGEST_NAME = 500

# Other formats that are mistaken for a checkpoint, by their first bytes.
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
    """The state dict of a file, with the names in the file, and its hyper-parameters if there are any."""

    tensors: dict[str, Tensor]
    hyper_parameters: dict[str, Any] | None


class Inert:
    """A placeholder for an object of a library that is not imported: accepts any arguments and does nothing."""

    def __new__(cls, *_args: Any, **_keywords: Any):
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_keywords: Any):
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep the state that would become the attributes."""
        self.state = state if isinstance(state, dict) else {}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read tensors and hyper-parameters of a Lightning checkpoint, a bare state dict, or a safetensors file.

    Raises:
        InputError: for a file that is missing or damaged, names code to run, has no tensors, or is in a format without
            checksums. Safetensors has no checksums either; it is read with a warning.
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
    others = [name for name, value in tensors.items() if not isinstance(name, str) or not _is_plain(value)]
    if others or not tensors:
        raise InputError(
            f"{path} holds no state dict: it must map names to tensors (or have one under 'state_dict' or 'model'), "
            f"but {f'{reprlib.repr(others[0])} is not a plain tensor' if others else 'it is empty'}."
        )
    bad_name = next((name for name in tensors if len(name) > _LONGEST_NAME or not name.isprintable()), None)
    if bad_name is not None:
        raise InputError(
            f"{path} has a tensor of the name {reprlib.repr(bad_name)}, of {len(bad_name):,} characters: is it a state "
            "dict?"
        )
    # Tensors can share storage, so a small file could describe weights too large for the memory.
    if sum(value.nbytes for value in tensors.values()) > size:
        raise InputError(
            f"{path} has tensors of more bytes than the file, which share their numbers: save each with its own."
        )
    return Checkpoint(dict(tensors), _read_settings(path, loaded.get("hyper_parameters")))


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins like safetensors: with the length of a JSON header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") + 8 <= size


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file; its library checks names, sizes and offsets, but there are no checksums.

    Raises:
        InputError: if the header is damaged, or does not describe every following byte exactly once.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # a damaged header can raise several kinds of errors
        raise InputError(f"{path} is not a complete safetensors file ({reason_of(error)}): fetch it again.") from error
    logger.warning(
        "%s has no checksums, so damaged numbers in it cannot be seen. Compare its SHA-256 with its source's: %s",
        path,
        sha256_of(path),
    )
    return tensors


def sha256_of(path: Path) -> str:
    """The SHA-256 that the Hub shows for a weight file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_format(path: Path, start: bytes) -> NoReturn:
    """Raise an error that names the format of a file that is neither an archive nor safetensors."""
    what = next((kind for magic, kind in _FORMATS.items() if start.startswith(magic)), None)
    if not start:
        what = "empty"
    elif what is None:
        what = _FORMATS[b"ustar"] if start[257:262] == b"ustar" else "of no format that is known here"
    raise InputError(
        f"{path} cannot be read as data, and is never run as code: it is not a torch.save archive or a complete "
        f"safetensors file, but {what}."
    )


def _load_archive(path: Path) -> Any:
    """Load the pickle of an archive.

    Raises:
        InputError: if it names code to run, or is not a pickle of tensors.
    """
    try:
        return _load_pickle(path)
    except InputError:
        raise
    except (Exception, MemoryError) as error:  # an untrusted file can make the unpickler raise anything
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise InputError(f"{path} cannot be read as data, and is never run as code: {_refusal(error)}") from error
        raise InputError(
            f"{path} is not a complete PyTorch checkpoint ({reason_of(error)}): fetch it again."
        ) from error


def _load_pickle(path: Path) -> Any:
    """Load with torch's weights-only unpickler, with placeholders for the libraries in the table."""
    stand_ins: list[Any] = []
    for name in get_unsafe_globals_in_checkpoint(path):
        if name not in _CONTAINERS and name.split(".")[0] not in _INERT_LIBRARIES:
            raise InputError(
                f"{path} asks to import {reprlib.repr(name)}, which a checkpoint of numbers has no use for. It was "
                "not run, and nothing was loaded."
            )
        stand_ins.append((_CONTAINERS.get(name, Inert), name))
    with safe_globals(stand_ins), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the error gives the same information
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)


def _refusal(error: BaseException) -> str:
    """The reason why torch's unpickler refused the file, without its advice to run it."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks to import {reprlib.repr(asked[1])}."
    return "it is no archive of torch.save with tensors and plain values only. Save the model's state dict in one."


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense CPU tensor with all its numbers in the file, and without extra attributes."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and not vars(value)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def read_hyper_parameters(path: Path) -> dict[str, Any]:
    """Read hyper-parameters from a YAML or JSON file.

    Raises:
        InputError: for a file that is missing, too large, cannot be parsed, or is not a mapping.
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
    """The entries of a JSON object; duplicate names are refused."""
    found: dict[str, Any] = {}
    for name, value in entries:
        if name in found:
            raise ValueError(f"{name[:80]!r} occurs twice")
        found[name] = value
    return found


def _read_settings(path: Path, given: Any) -> dict[str, Any] | None:
    """Convert hyper-parameters to plain values and resolve references; None if they are not a mapping."""
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
    """Count a value, because shared values can expand to far more than the file."""
    if next(budget, None) is None:
        raise RecursionError


def _plain(value: Any, budget: Iterator[int]) -> Any:
    """Convert OmegaConf's containers and nodes to dictionaries, lists and values; other placeholders to None."""
    _spend(budget)
    if isinstance(value, Inert):
        return _plain(value.state.get("_content", value.state.get("_val")), budget)
    if isinstance(value, dict):
        return {name: _plain(entry, budget) for name, entry in value.items() if isinstance(name, str)}
    if isinstance(value, list | tuple):
        return [_plain(entry, budget) for entry in value]
    return value


def _resolved(config: dict[str, Any], budget: Iterator[int]) -> dict[str, Any]:
    """Replace every reference "${a.b}" by the entry it names; unresolvable references do not change."""

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
