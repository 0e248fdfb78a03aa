"""Inspect the files of a model folder; each inspection returns its problems as sentences."""

import ast
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoFeatureExtractor, AutoImageProcessor
from transformers.dynamic_module_utils import get_relative_imports

from .bounded_files import read_text
from .errors import InputError, reason_of
from .families import FAMILIES, auto_class_of, family_of
from .file_kinds import inspect_kinds, is_left_out, uploaded_files
from .front_matter import read_front_matter
from .model_folder import read_config, saved_shapes
from .samples import load_tokenizer, task_of
from .secret_words import search

_LIBRARIES = {"huggingface_hub", "packaging", "safetensors", "torch", "transformers"}
_PACKAGE = "modeling_dlr"
# Errors of the parser for text that is not valid, or nested too deeply.
_NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
_SHOWN = 6  # number of names that an error shows
_PROCESSORS: dict[str, Any] = {"audio": AutoFeatureExtractor, "image": AutoImageProcessor}
# Vocabularies can contain parts of any text.
_WORD_LISTS = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"}


def config_of_folder(folder: Path) -> Any:
    """Load the configuration of an inspected folder."""
    return family_of(folder).config_class.from_pretrained(folder)


def inspect_config(folder: Path) -> Iterator[str]:
    """Check that the configuration is one of ours, and survives a round trip."""
    written = read_config(folder)
    if written.get("model_type") not in FAMILIES:
        yield f"config.json must have a model_type of {list(FAMILIES)}, got {written.get('model_type')!r}"
        return
    architectures = {model.__name__ for model in family_of(folder).auto_classes.values()}
    if not set(written.get("architectures") or []) & architectures:
        yield f"architectures must name one of {sorted(architectures)}, got {written.get('architectures')}"
    try:
        again = json.loads(config_of_folder(folder).to_json_string())
    except Exception as error:
        yield f"config.json cannot be loaded: {reason_of(error)}"
        return
    changed = [name for name in written if name != "transformers_version" and again.get(name) != written[name]]
    if changed:
        yield f"config.json changes when it is loaded and saved again, in {changed}: save the model again"


def inspect_auto_map(folder: Path) -> Iterator[str]:
    """Check that every Auto class of the family has its class in an existing file."""
    written = read_config(folder).get("auto_map") or {}
    missing = sorted(({"AutoConfig"} | family_of(folder).auto_classes.keys()) - written.keys())
    if missing:
        yield f"auto_map lacks {missing}: save the model again with this version"
    for auto_class, target in written.items():
        file, _, name = str(target).rpartition(".")
        path = folder / f"{file}.py"
        if not path.is_file():
            yield f"{auto_class} is said to be in {file}.py, which is not there"
        elif not any(isinstance(node, ast.ClassDef) and node.name == name for node in _tree(path).body):
            yield f"{auto_class} is said to be {name} of {file}.py, which has no such class"


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(read_text(path))
    except (InputError, *_NO_PYTHON):
        return ast.Module(body=[], type_ignores=[])


def inspect_code(folder: Path) -> Iterator[str]:
    """Check that code files parse, and import only each other and libraries that every user has."""
    for path in sorted(folder.glob("*.py")):
        try:
            ast.parse(read_text(path))
        except (InputError, *_NO_PYTHON):
            yield f"{path.name} is not valid Python"
            continue
        for name in get_relative_imports(path):
            if not (folder / f"{name}.py").is_file():
                yield f"{path.name} imports {name}.py, which is not in the folder"
        for name in sorted(_imported(_tree(path)) - _LIBRARIES - sys.stdlib_module_names):
            reason = (
                "which other users do not have" if name == _PACKAGE else "which is not one of the allowed libraries"
            )
            yield f"{path.name} imports {name}, {reason}"


def _imported(tree: ast.Module) -> set[str]:
    """The top-level packages of absolute imports."""
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {name.name.split(".", maxsplit=1)[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add((node.module or "").split(".", maxsplit=1)[0])
    return packages


def inspect_weights(folder: Path) -> Iterator[str]:
    """Check that the safetensors files are complete and have finite numbers."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        yield "there is no .safetensors file"
    for path in shards:
        try:
            with safe_open(path, framework="pt") as tensors:
                bad = [name for name in tensors.keys() if not _is_finite(tensors.get_tensor(name))]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            yield f"{path.name} is incomplete: {error}"
            continue
        if bad:
            yield f"{path.name} holds numbers that are not finite, in {_first(bad)}"


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite; checked in parts, so that a large tensor is not copied as a whole."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.flatten().split(2**24))


def inspect_architecture(folder: Path) -> Iterator[str]:
    """Check that the files have exactly the weights of the saved class; tied weights may be saved once."""
    if _problems_of("it is complete", inspect_config, folder) or not any(folder.glob("*.safetensors")):
        return  # another inspection reports why
    try:
        saved = saved_shapes(folder)
    except SafetensorError:
        return  # inspect_weights reports why
    with torch.device("meta"):
        model = family_of(folder).auto_classes[auto_class_of(folder)](config_of_folder(folder))
    own = model.state_dict(keep_vars=True)
    saved_ids = {id(own[name]) for name in own.keys() & saved.keys()}
    problems = {
        "missing": [name for name, value in own.items() if id(value) not in saved_ids],
        "left over": sorted(saved.keys() - own.keys()),
        "of another shape": [
            f"{name} {saved[name]} instead of {list(value.shape)}"
            for name, value in own.items()
            if name in saved and saved[name] != list(value.shape)
        ],
    }
    if any(problems.values()):
        lists = "; ".join(f"{kind}: {_first(names)}" for kind, names in problems.items() if names)
        yield f"its weights are not those of {type(model).__name__} ({lists}): save the model again"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def inspect_processor(folder: Path) -> Iterator[str]:
    """Check that a model of sound or images has its processor, and a model of tokens a fitting tokenizer.

    They must not need their own code.
    """
    task = task_of(folder)
    if task is not None and task.kind in _PROCESSORS:
        try:
            _PROCESSORS[task.kind].from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            yield f"no processor of {task.kind} loads ({reason_of(error)}): save one beside the model"
    config = read_config(folder)
    size, pad = config.get("vocab_size"), config.get("pad_token_id")
    if size is None:
        return
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:
        yield f"this model reads tokens, but no tokenizer loads ({reason_of(error)}): save one beside it"
        return
    if len(tokenizer) > size:
        yield f"the tokenizer has {len(tokenizer)} tokens, but the model knows {size}"
    if task is not None and task.name == "fill-mask" and tokenizer.mask_token is None:
        yield "this model fills in masks, but its tokenizer has no mask_token"
    if pad is not None and tokenizer.pad_token_id != pad:
        yield f"the tokenizer pads with {tokenizer.pad_token_id}, but the model with {pad}"


def inspect_card(folder: Path) -> Iterator[str]:
    """Check that README.md has front-matter with the fields that the Hub shows and searches."""
    path = folder / "README.md"
    if not path.is_file():
        yield "there is no README.md: write one with `python -m hub_upload card`"
        return
    try:
        data = read_front_matter(path)
    except InputError as error:
        yield f"its front-matter cannot be read: {error}"
        return
    task = task_of(folder)
    expected = {"library_name": "transformers"} | ({} if task is None else {"pipeline_tag": task.name})
    for field, value in expected.items():
        if data.get(field) != value:
            yield f"its front-matter must have {field}: {value}, got {data.get(field)}"
    if not data.get("license"):
        yield "its front-matter names no license"
    if "dlr" not in (data.get("tags") or []):
        yield "its front-matter must have the tag dlr"


def inspect_privacy(folder: Path) -> Iterator[str]:
    """Check that the folder has no link to outside files, no access token, and no local path."""
    for path in uploaded_files(folder):
        name = path.relative_to(folder).as_posix()
        if _is_elsewhere(path, folder):
            yield f"{name} is a link to a file elsewhere: put a copy in its place"
            continue
        for finding in search(path, paths=path.name not in _WORD_LISTS):
            yield f"{name} holds {finding}: remove it{', and revoke it' if 'token' in finding else ''}"


def _is_elsewhere(path: Path, folder: Path) -> bool:
    """Whether a file is a link to one outside the folder, or to one that is not uploaded."""
    target, root = path.resolve(), folder.resolve()
    return not target.is_relative_to(root) or is_left_out(target.relative_to(root))


def _problems_of(title: str, inspect: Callable[[Path], Iterator[str]], folder: Path) -> list[str]:
    """Run an inspection; report unexpected errors as a problem."""
    try:
        return list(inspect(folder))
    except Exception as error:
        return [
            f"it cannot be checked whether {title} ({type(error).__name__}: {reason_of(error)}): save the folder again"
        ]


# One row per inspection: the statement that is true if it finds no problem.
INSPECTIONS: dict[str, Callable[[Path], list[str]]] = {
    title: partial(_problems_of, title, inspect)
    for title, inspect in {
        "config.json is complete and survives a round trip": inspect_config,
        "auto_map names every Auto class": inspect_auto_map,
        "its code imports only what everybody has": inspect_code,
        "its files are of kinds that a model needs": inspect_kinds,
        "its weights are whole safetensors": inspect_weights,
        "its weights are those of its architecture": inspect_architecture,
        "its tokenizer or processor fits": inspect_processor,
        "its card has front-matter": inspect_card,
        "it holds no link, no token and no path of a machine": inspect_privacy,
    }.items()
}
