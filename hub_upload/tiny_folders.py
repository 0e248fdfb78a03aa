"""Make a tiny random model of every head, for tests of programs that load models from the Hub.

    python -m hub_upload.tiny_folders                                   # all of them, into outputs/tiny
    python -m hub_upload.tiny_folders outputs/tiny DLRForMaskedLM       # one

A folder has the processor, a card and the code of the models without documentation: 200 KB at most. Each is verified
in a process without this package; upload it with `modeling-dlr push`.
"""

import argparse
import ast
import io
import json
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modeling_dlr import DLRConfig, StripedHyenaConfig
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES
from modeling_dlr.processing import pixel_processor, sound_extractor
from modeling_dlr.tokenization import byte_tokenizer, evo_tokenizer

from .card import CardOptions, write_card
from .errors import HubUploadError, VerificationError
from .folders import disk_errors, replaced_folder
from .own_code import without_types_of_results
from .verify import verify

# Syntax nodes that can have a docstring.
Documented = ast.Module | ast.ClassDef | ast.FunctionDef

# Bytes of a folder, its code included.
LARGEST = 200_000
# The model classes, by name, with the Auto class of each.
MODELS: dict[str, tuple[Any, str]] = {
    model.__name__: (model, auto_class) for auto_class, model in [*AUTO_CLASSES.items(), *STRIPED_HYENA_CLASSES.items()]
}
_SIZES: dict[str, Any] = {"hidden_size": 4, "num_hidden_layers": 1, "state_size": 3, "num_labels": 3}
_STRIPED_SIZES: dict[str, Any] = {
    "hidden_size": 8, "num_layers": 2, "attn_layer_idxs": [1], "num_attention_heads": 2, "inner_mlp_size": 4,
    "state_size": 3, "num_labels": 3, "pad_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
_SIDE = 8


def make_tiny(name: str, folder: Path) -> int:
    """Make a folder in a temporary place, verify it, and move it to its place.

    Args:
        name: of the model's class.
        folder: to be made, or replaced.

    Returns:
        Its size in bytes.

    Raises:
        VerificationError: if the folder is not ready for the Hub, or too large.
        InputError: if the disk is full.
    """
    with disk_errors(folder), replaced_folder(folder) as made:
        write_tiny(name, made)
        verify(made)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise VerificationError(f"{folder.name} must have at most {LARGEST:,} bytes, got {size:,}.")
    return size


def write_tiny(name: str, folder: Path) -> None:
    """Save a random model with its processor, its code without documentation, and its card."""
    model_class, auto_class = MODELS[name]
    torch.manual_seed(0)
    if model_class in STRIPED_HYENA_CLASSES.values():
        model_class(StripedHyenaConfig(**_STRIPED_SIZES)).save_pretrained(folder)
        evo_tokenizer().save_pretrained(folder)
    else:
        fields, processor = _inputs_of(auto_class)
        model_class(DLRConfig(**_SIZES | fields)).save_pretrained(folder)
        processor.save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.write_text(without_documentation(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in folder.glob("tokenizer.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False), encoding="utf-8")
    limits = [
        "Its weights are random: use it only to test programs that load models.",
        "Its code is the code of every model of the family, without documentation.",
    ]
    write_card(folder, CardOptions(picture=False, title=f"tiny-random-{name}", limits=limits))


def _inputs_of(auto_class: str) -> tuple[dict[str, Any], Any]:
    """The fields of a configuration that say what is read, and the processor that makes it."""
    if "Audio" in auto_class:
        return {"input_size": 1}, sound_extractor(16000)
    if "Image" in auto_class or "Segmentation" in auto_class:
        return {"input_size": 3, "bidirectional": True}, pixel_processor(_SIDE, _SIDE)
    tokens = {"vocab_size": 261, "pad_token_id": 0, "bidirectional": auto_class != "AutoModelForCausalLM"}
    return tokens, byte_tokenizer()


def without_documentation(source: str) -> str:
    """Remove comments, and docstrings and types of results that no code reads: about a third of the bytes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None and not _is_read(node):
            node.body = node.body[1:] or [ast.Pass()]
    return _indented_by_one(ast.unparse(without_types_of_results(tree)) + "\n")


def _indented_by_one(source: str) -> str:
    """Indent the program by one space per level; multi-line strings do not change."""
    lines, depth, begun = source.splitlines(keepends=True), 0, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if (
            token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.NL)
            and token.string
            and token.start[0] > begun
        ):
            row = token.start[0] - 1
            lines[row] = " " * depth + lines[row].lstrip(" ")
        if token.type not in (tokenize.INDENT, tokenize.DEDENT):
            begun = max(begun, token.end[0])
    return "".join(lines)


def _is_read(node: Documented) -> bool:
    """Whether transformers reads the docstring at import; it then reports arguments that the docstring lacks."""
    decorators = [] if isinstance(node, ast.Module) else node.decorator_list
    return any(ast.unparse(decorator).startswith("auto_docstring") for decorator in decorators)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folders, print the size of each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs/tiny"), help="where they are made")
    parser.add_argument("model", nargs="*", help="classes of models; by default all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.model if name not in MODELS]
    if unknown:
        parser.error(f"There is no model {unknown[0]!r}; the models are {', '.join(MODELS)}.")
    for name in options.model or MODELS:
        folder = options.folder / f"tiny-random-{name}"
        try:
            print(f"{folder}: {make_tiny(name, folder):,} bytes, verified")
        except HubUploadError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
