"""Which files may import which, and other rules of the source, read from the files."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports

import modeling_dlr
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modeling_dlr"
HOME = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
SUB_PACKAGES = sorted(set(PACKAGE.rglob("*.py")) - set(HOME.values()))
CLOSURE = {name: path for name, path in HOME.items() if name.endswith(("_dlr", "_striped_hyena"))}

# What each file of the Hub closure may import; a dot marks a file beside it. One row per file.
MAY_IMPORT: dict[str, set[str]] = {
    "kernel_parameters_dlr": set(),
    "blocks_striped_hyena": {"torch", "transformers", ".configuration_striped_hyena"}
    | {f".{name}_dlr" for name in ("attention", "cache", "convolution", "layout", "ops", "precision", "vandermonde")},
    "configuration_base_dlr": {"huggingface_hub", "transformers", ".kernel_parameters_dlr"},
    "configuration_dlr": {"huggingface_hub", ".configuration_base_dlr", ".kernel_parameters_dlr"},
    "configuration_striped_hyena": {"huggingface_hub", ".configuration_base_dlr", ".kernel_parameters_dlr"},
    "checkpoint_striped_hyena": {"safetensors", "torch", "transformers"},
    "modeling_striped_hyena": {"torch", "transformers", ".blocks_striped_hyena"}
    | {".checkpoint_striped_hyena", ".configuration_striped_hyena"}
    | {f".{name}_dlr" for name in ("cache", "checks", "generation", "layout", "losses")},
    "precision_dlr": {"torch"},
    "vandermonde_dlr": {"torch", ".precision_dlr"},
    "convolution_dlr": {"torch", ".vandermonde_dlr"},
    "ops_dlr": {"torch", ".checks_dlr", ".convolution_dlr", ".precision_dlr", ".vandermonde_dlr"},
    "checks_dlr": {"torch", "transformers", ".kernel_parameters_dlr"},
    "blocks_dlr": {"torch", "transformers", ".configuration_dlr", ".kernel_parameters_dlr"}
    | {f".{name}_dlr" for name in ("attention", "cache", "convolution", "kernels", "layout", "ops", "vandermonde")},
    "layout_dlr": {"torch", "transformers", ".checks_dlr"},
    "losses_dlr": {"torch", ".configuration_base_dlr", ".configuration_dlr", ".checks_dlr", ".ops_dlr"},
    "kernels_dlr": {"torch", ".kernel_parameters_dlr"}
    | {f".{name}_dlr" for name in ("checks", "ops", "precision", "vandermonde")},
    "attention_dlr": {"torch", "transformers", ".configuration_dlr", ".layout_dlr", ".ops_dlr", ".precision_dlr"},
    "cache_dlr": {"torch", "transformers"}
    | {f".{name}_dlr" for name in ("checks", "layout", "ops", "precision", "vandermonde")},
    "generation_dlr": {"torch", "transformers", ".checks_dlr"},
    "modeling_dlr": {"torch", "transformers", ".configuration_dlr", ".attention_dlr", ".blocks_dlr", ".auto_dlr"}
    | {f".{name}_dlr" for name in ("cache", "checks", "generation", "kernels", "layout", "losses")},
    "heads_dlr": {"torch", "transformers", ".configuration_dlr"}
    | {f".{name}_dlr" for name in ("cache", "checks", "losses", "modeling")},
    "signal_heads_dlr": {"torch", "transformers", ".configuration_dlr"}
    | {f".{name}_dlr" for name in ("checks", "heads", "modeling")},
    "auto_dlr": {".heads_dlr", ".modeling_dlr", ".signal_heads_dlr"},
}
STANDARD_LIBRARY = {
    "abc",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "functools",
    "inspect",
    "json",
    "math",
    "numbers",
    "os",
    "pathlib",
    "reprlib",
    "sys",
    "threading",
    "typing",
}

# Folders whose Python files are held to the rules; those that nobody imports; and what may be imported of the package.
FOLDERS = ["modeling_dlr", "examples", "tests", "hub_upload", "benchmarks", "docs", "configuration"]
SCRIPTS = {path.stem for folder in ("examples", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")}
PUBLIC_MODULES = {
    "modeling_dlr",
    "modeling_dlr.auto_dlr",
    "modeling_dlr.cache_dlr",
    "modeling_dlr.figures",
    "modeling_dlr.finetuning",
    "modeling_dlr.finetuning.names",
    "modeling_dlr.finetuning.quiet",
    "modeling_dlr.finetuning.signals",
    "modeling_dlr.finetuning.tables",
    "modeling_dlr.finetuning.stopping",
    "modeling_dlr.demo",
    "modeling_dlr.inference",
    "modeling_dlr.kernel_parameters_dlr",
    "modeling_dlr.launch",
    "modeling_dlr.markdown",
    "modeling_dlr.memory",
    "modeling_dlr.metrics",
    "modeling_dlr.kernels_dlr",
    "modeling_dlr.modeling_dlr",
    "modeling_dlr.modeling_striped_hyena",
    "modeling_dlr.ops_dlr",
    "modeling_dlr.parallel",
    "modeling_dlr.plans",
    "modeling_dlr.presets",
    "modeling_dlr.processing",
    "modeling_dlr.recipes",
    "modeling_dlr.recipes.files",
    "modeling_dlr.recipes.folders",
    "modeling_dlr.results",
    "modeling_dlr.resuming",
    "modeling_dlr.scoring",
    "modeling_dlr.signal_heads_dlr",
    "modeling_dlr.tasks",
    "modeling_dlr.tokenization",
    "modeling_dlr.training",
    "modeling_dlr.triton_kernels",
    "modeling_dlr.weighted_loss",
    "modeling_dlr.whole_files",
}


def files_of(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    """Roots of absolute imports, and relative ones as they stand after ``from``."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def names_used(path: Path) -> set[str]:
    """Every identifier of the code, attributes, arguments and names of imports included."""
    found = set()
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                found.add(name)
    return found


by_name = pytest.mark.parametrize("name", CLOSURE)
by_path = pytest.mark.parametrize("path", files_of(*FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))


def test_every_file_has_a_row():
    """The table of imports lists exactly the files that travel with weights."""
    assert MAY_IMPORT.keys() == CLOSURE.keys()


@by_name
def test_imports_stay_within_the_table(name: str):
    """A file of the closure imports only what its row allows, and the standard library."""
    assert imports_of(CLOSURE[name]) <= MAY_IMPORT[name] | STANDARD_LIBRARY


def test_no_cycle():
    """Imports have no cycle, except those inside functions."""
    graph = {
        name: {node.module or "" for node in tree_of(path).body if isinstance(node, ast.ImportFrom) and node.level}
        for name, path in HOME.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", HOME)
def test_relative_imports_are_flat(name: str):
    """Files of the package import one another only as `from .name_dlr import x`."""
    relative = {module for module in imports_of(HOME[name]) if module.startswith(".")}
    assert relative <= {f".{name}" for name in CLOSURE}


@pytest.mark.parametrize("path", SUB_PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_of_sub_packages(path: Path):
    """Files of a sub-package import each other as `from .name import x`, and only public modules of the package.

    `modeling_dlr.parallel` takes models apart, so it may import every file of the closure.
    """
    relative = {module for module in imports_of(path) if module.startswith(".")}
    assert relative <= {f".{sibling.stem}" for sibling in path.parent.glob("*.py")}
    modules = PUBLIC_MODULES | (
        {f"modeling_dlr.{name}" for name in CLOSURE} if path.parent.name == "parallel" else set()
    )
    names = (node.module for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and not node.level)
    assert {name for name in names if (name or "").split(".")[0] == "modeling_dlr"} <= modules


def test_the_package_imports_the_hub_tool_in_one_place():
    """Only the command line does, in one function: who never calls it never loads what publishes."""
    found = {str(path.relative_to(PACKAGE)) for path in files_of("modeling_dlr") if "hub_upload" in imports_of(path)}
    assert found == {"cli/hub.py"}
    first_level = tree_of(PACKAGE / "cli" / "hub.py").body
    imports = [node for node in first_level if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in imports if "hub_upload" in ast.unparse(node)]


@pytest.mark.parametrize("folder", sorted({path.parent for path in SUB_PACKAGES}), ids=lambda folder: folder.name)
def test_no_cycle_in_a_sub_package(folder: Path):
    """Imports within a sub-package have no cycle."""
    graph = {
        path.stem: {module.strip(".") for module in imports_of(path) if module.startswith(".")}
        for path in folder.glob("*.py")
    }
    graphlib.TopologicalSorter(graph).prepare()


@by_name
def test_transformers_reads_the_same_imports(name: str):
    """The regular expression by which save_pretrained copies files finds the imports, and nothing in a docstring."""
    relative = {module.strip(".") for module in imports_of(CLOSURE[name]) if module.startswith(".")}
    assert set(get_relative_imports(CLOSURE[name])) == relative


@by_name
def test_no_postponed_annotations(name: str):
    """Annotations stay types: as text, `strict` would check nothing and transformers would lose config_class."""
    assert "__future__" not in imports_of(CLOSURE[name])


@by_path
def test_nobody_imports_scripts_or_data(path: Path):
    """No file imports examples, benchmarks or configuration; only scripts in the same folder import each other."""
    beside = {sibling.stem for sibling in path.parent.glob("*.py")}
    scripts = SCRIPTS | {"examples", "benchmarks", "configuration", "tests"}
    allowed = beside | (SCRIPTS if path.is_relative_to(ROOT / "tests") else set())
    assert not imports_of(path) & (scripts - allowed)


@pytest.mark.parametrize(
    "path", files_of("examples", "benchmarks", "hub_upload"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_scripts_use_public_names(path: Path):
    """Examples, benchmarks and hub_upload import public modules and names only."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "modeling_dlr":
            assert node.module in PUBLIC_MODULES
            names = {name.name for name in node.names}
            assert not {name for name in names if name.startswith("_")}
            assert node.module != "modeling_dlr" or names <= set(modeling_dlr.__all__)


def test_public_names():
    """Every public name exists, and every class of an Auto class is public."""
    assert all(vars(modeling_dlr)[name] is not None for name in modeling_dlr.__all__)
    classes = [*AUTO_CLASSES.values(), *STRIPED_HYENA_CLASSES.values()]
    assert {model.__name__ for model in classes} <= set(modeling_dlr.__all__)


@pytest.mark.parametrize(
    "name",
    ["ops_dlr", "convolution_dlr", "vandermonde_dlr", "precision_dlr", "checks_dlr", "layout_dlr"],
)
def test_functions_know_no_module_and_no_configuration(name: str):
    """The mathematics and the checks are functions of tensors and numbers: no nn.Module, no config."""
    assert not names_used(CLOSURE[name]) & {"Module", "nn.Module", "Parameter", "config", "DLRConfig"}


def test_model_knows_no_transform():
    """The model is composition only: no Fourier transform, no exponential, no complex number."""
    source = CLOSURE["modeling_dlr"].read_text(encoding="utf-8")
    assert "fft" not in source
    assert not re.search(r"\bexp\(", source)
    assert not [node for node in ast.walk(tree_of(CLOSURE["modeling_dlr"])) if is_complex_number(node)]
    assert not {name for name in names_used(CLOSURE["modeling_dlr"]) if "complex" in name}


def is_complex_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, complex)


@pytest.mark.parametrize("name", HOME)
def test_no_hasattr(name: str):
    """Attributes are declared by classes, not looked up."""
    assert "hasattr" not in names_used(HOME[name])


@by_path
def test_length_of_files(path: Path):
    """No file has more than 500 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_oracle_is_independent():
    """The reference implementation imports NumPy only."""
    assert imports_of(ROOT / "tests" / "oracle.py") - STANDARD_LIBRARY == {"numpy"}
