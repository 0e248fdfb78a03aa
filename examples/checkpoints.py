"""Make model folders for the Hub: trained models of the recipes, and a tiny random model of every head for tests.

    python examples/checkpoints.py                    # all of them, into outputs/checkpoints
    python examples/checkpoints.py --only tiny        # the tiny random models
    python examples/checkpoints.py --only bbc-news --smoke

Each model is trained, gets a model card, and is verified in a process without this package. Upload a folder with
`python -m hub_upload push`.
"""

import argparse
import ast
import contextlib
import io
import json
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import colour_code
import fill_code
import quickstart
import torch
from common import check_place
from tqdm.auto import tqdm

from hub_upload.card import CardOptions, write_card
from hub_upload.errors import HubUploadError, VerificationError
from hub_upload.folders import disk_errors, replaced_folder
from hub_upload.verify import verify
from modeling_dlr import DLRConfig, StripedHyenaConfig
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES
from modeling_dlr.processing import pixel_processor, sound_extractor
from modeling_dlr.tokenization import byte_tokenizer, evo_tokenizer

# Syntax nodes that can have a docstring.
Documented = ast.Module | ast.ClassDef | ast.FunctionDef

# Maximum size of a folder in bytes, including its code.
LARGEST = {"trained": 10_000_000, "tiny": 200_000}

# One row per recipe: the example that runs it, and the options of its card.
TRAINED: dict[str, tuple[Callable[[Sequence[str]], dict[str, Any]], CardOptions]] = {
    "bbc-news": (
        quickstart.main,
        CardOptions(language=["en"], limits=["It knows only five topics of British news."]),
    ),
    "python-colours": (
        colour_code.main,
        CardOptions(limits=["It was trained only on the code of Python's standard library."]),
    ),
    "python-masked-lm": (
        fill_code.main,
        CardOptions(limits=["It fills single masked bytes; it was trained only on Python's standard library."]),
    ),
}

_SIZES: dict[str, Any] = {"hidden_size": 4, "num_hidden_layers": 1, "state_size": 3, "num_labels": 3}
_STRIPED_SIZES: dict[str, Any] = {
    "hidden_size": 8, "num_layers": 2, "attn_layer_idxs": [1], "num_attention_heads": 2, "inner_mlp_size": 4,
    "state_size": 3, "num_labels": 3, "pad_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
_SIDE = 8


def tiny_fields(auto_class: str) -> dict[str, Any]:
    """The configuration fields of a tiny model for an Auto class."""
    if "Audio" in auto_class:
        return {"input_size": 1}
    if "Image" in auto_class or "Segmentation" in auto_class:
        return {"input_size": 3, "bidirectional": True}
    return {"vocab_size": 261, "pad_token_id": 0, "bidirectional": auto_class != "AutoModelForCausalLM"}


def processor(auto_class: str) -> Any:
    """The processor that makes the model's inputs."""
    if "Audio" in auto_class:
        return sound_extractor(16000)
    if "Image" in auto_class or "Segmentation" in auto_class:
        return pixel_processor(_SIDE, _SIDE)
    return byte_tokenizer()


def without_documentation(source: str) -> str:
    """Remove comments, and docstrings that no code reads: about a third of the bytes."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None and not is_read(node):
            node.body = node.body[1:] or [ast.Pass()]
    return _indented_by_one(ast.unparse(tree) + "\n")


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


def is_read(node: Documented) -> bool:
    """Whether transformers reads the docstring at import; it then reports arguments that the docstring lacks."""
    decorators = [] if isinstance(node, ast.Module) else node.decorator_list
    return any(ast.unparse(decorator).startswith("auto_docstring") for decorator in decorators)


def make_tiny(model_class: Any, auto_class: str, folder: Path) -> None:
    """Save a tiny random model with its processor, its card, and its code without documentation."""
    torch.manual_seed(0)
    if model_class in STRIPED_HYENA_CLASSES.values():
        model_class(StripedHyenaConfig(**_STRIPED_SIZES)).save_pretrained(folder)
        evo_tokenizer().save_pretrained(folder)
    else:
        model_class(DLRConfig(**_SIZES | tiny_fields(auto_class))).save_pretrained(folder)
        processor(auto_class).save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.write_text(without_documentation(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in folder.glob("tokenizer.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False), encoding="utf-8")
    limits = [
        "Its weights are random: use it only to test programs that load models.",
        "Its code is the code of every model of the family, without documentation.",
    ]
    write_card(folder, CardOptions(picture=False, title=folder.name, limits=limits))


def makers(kept: Path, smoke: bool) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """Yield kind, name and maker of every folder; a stopped run keeps its checkpoint in ``kept``."""
    said = ["--smoke"] if smoke else []
    for name, (run, options) in TRAINED.items():

        def train(folder: Path, name: str = name, run: Any = run, options: CardOptions = options) -> None:
            run(["--output-dir", str(folder), "--checkpoint-dir", str(kept / f"{name}-checkpoint"), *said])
            write_card(folder, options)

        yield "trained", name, train
    for auto_class, model_class in [*AUTO_CLASSES.items(), *STRIPED_HYENA_CLASSES.items()]:

        def tiny(folder: Path, model_class: Any = model_class, auto_class: str = auto_class) -> None:
            make_tiny(model_class, auto_class, folder)

        yield "tiny", f"tiny-random-{model_class.__name__}", tiny


def make(kind: str, folder: Path, maker: Callable[[Path], None]) -> int:
    """Make a folder in a temporary place, verify it, and move it to its place; return its size in bytes.

    Raises:
        VerificationError: if the folder is not ready for the Hub, or is larger than its kind allows.
        InputError: if the disk is full.
    """
    with disk_errors(folder), replaced_folder(folder) as made:
        maker(made)
        verify(made)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST[kind]:
            raise VerificationError(f"{folder.name} must have at most {LARGEST[kind]:,} bytes, got {size:,}.")
    return size


def main(arguments: Sequence[str] | None = None) -> dict[str, int]:
    """Make the folders; return the size of each in bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/checkpoints"))
    parser.add_argument("--only", help="make only folders whose name contains this, such as tiny or bbc-news")
    parser.add_argument("--smoke", action="store_true", help="train for a few steps only")
    options = parser.parse_args(arguments)
    there_are = list(makers(options.output_dir, options.smoke))
    wanted = [row for row in there_are if options.only is None or options.only in row[1]]
    if not wanted:
        names = [name for _, name, _ in there_are]
        parser.error(f"--only must be a part of one of these names, got {options.only!r}: {names}.")
    sizes = {}
    with command_line("checkpoints.py", HubUploadError):
        check_place("--output-dir", str(options.output_dir))
        for kind, name, maker in tqdm(wanted, desc="checkpoints"):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    sizes[name] = make(kind, options.output_dir / name, maker)
            except HubUploadError as error:
                parser.exit(error.exit_code, f"{name}: {error}\n")
            print(f"{options.output_dir / name}: {sizes[name]:,} bytes, verified")
    return sizes


if __name__ == "__main__":
    main()
