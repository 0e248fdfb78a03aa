"""The table "Private interfaces" of CONTRIBUTING.md lists what the code uses, and all of it has a test."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from test_private_interfaces import INTERFACES

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Row:
    """One row of the table in CONTRIBUTING.md."""

    names: set[str]
    test: str


def table() -> list[Row]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| .+ \| `(\w+)` \|$", text.split("## Private interfaces")[1], re.MULTILINE)
    return [Row(set(re.findall(r"`([\w.]+)`", names)), test) for names, test in rows]


def test_every_row_of_the_table_has_a_test():
    assert [row.test for row in table()] == list(INTERFACES)


# Submodules whose names are documented as public.
PUBLIC = {
    *("transformers", "transformers.activations", "transformers.modeling_outputs", "transformers.utils.logging"),
    *("torch", "torch.nn", "torch.nn.functional", "torch.autograd", "torch.autograd.function", "torch.utils.data"),
    "torch.autograd.forward_ad",
    *("torch.export", "torch.distributed", "torch.distributed.device_mesh", "torch.distributed.fsdp"),
    *("huggingface_hub", "huggingface_hub.errors", "huggingface_hub.utils", "huggingface_hub.hf_api"),
    *("transformers.utils", "transformers.trainer_utils", "safetensors", "safetensors.torch"),
    *("datasets", "datasets.exceptions", "accelerate", "evaluate", "tokenizers"),
}
LIBRARIES = {name.partition(".")[0] for name in PUBLIC}


PACKAGE = [path for folder in ("modeling_dlr", "hub_upload", "examples") for path in (ROOT / folder).rglob("*.py")]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE}
# Of the standard library.
STANDARD = {"_asdict", "_fields", "_replace", "_exit", "_actions"}


def set_in_classes(tree: ast.Module) -> set[str]:
    """The underscored names that the bodies of classes set: those by which a library asks, and our own."""
    statements = [statement for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for statement in node.body]
    targets = [
        target
        for statement in statements
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
    ]
    return {name.id for name in targets if isinstance(name, ast.Name) and re.match(r"_[a-z]", name.id)}


def own_names() -> set[str]:
    """The names of functions of this package, and of attributes that it sets on itself."""
    own = {"_problem_type_of"}
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            own.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
    return own


def private_names(path: Path, own: set[str]) -> set[str]:
    """What a file imports from submodules that are not public, and the underscored names that are not ``own``."""
    names = set_in_classes(TREES[path]) - own
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in LIBRARIES:
            names |= {alias.name for alias in node.names} if node.module not in PUBLIC else set()
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            names |= {node.attr} - own
    return names


def test_the_table_is_complete():
    known, own = {part for row in table() for name in row.names for part in name.split(".")}, own_names()
    unknown = {path.stem: private_names(path, own) - known - STANDARD for path in PACKAGE}
    assert {path: names for path, names in unknown.items() if names} == {}


def test_the_table_has_nothing_that_is_not_used():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE)
    names = {name.rpartition(".")[2] for row in table() for name in row.names}
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
