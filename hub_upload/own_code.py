"""Check whether the Python code in a folder is this package's.

Comments and docstrings may differ, and types of results may be absent. They may not differ: they are code that runs.
"""

import ast
import re
from functools import cache
from pathlib import Path

import modeling_dlr

from .bounded_files import read_text
from .errors import InputError
from .file_kinds import uploaded_files

_MOST_CODE = 2**20
_HOME = Path(modeling_dlr.__file__).parent
# A comment by which Python reads a file in another encoding (PEP 263), in which other comments may be code.
_ENCODING = re.compile(r"^[ \t\f]*#.*?coding[:=]")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def foreign_code(folder: Path) -> list[str]:
    """Report Python files that differ from the installed package, as one problem that names them.

    The files are read but not run; loading the folder would run them.
    """
    files = [path for path in uploaded_files(folder) if path.suffix == ".py"]
    foreign = [path.relative_to(folder).as_posix() for path in files if not _is_own(path, folder)]
    if not foreign:
        return []
    return [
        f"its code is not that of this version of the package, in {', '.join(foreign)}: save the model again; or read "
        "that code, and let it run in a process without tokens, by --trust-folder-code"
    ]


def _is_own(path: Path, folder: Path) -> bool:
    if path.parent != folder or not (_HOME / path.name).is_file():
        return False
    try:
        text = read_text(path, _MOST_CODE)
        if text == read_text(_HOME / path.name):
            return True
        encoded = any(_ENCODING.search(line) for line in text.split("\n")[:2])
        return not encoded and _program(text) in _own_programs(path.name)
    except (InputError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def without_types_of_results(tree: ast.Module) -> ast.Module:
    """Remove the types of what functions without decorators return, which nothing reads. Changes the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            node.returns = None
    return tree


@cache
def _own_programs(name: str) -> tuple[str, str]:
    """The program, and the same without types of results."""
    source = read_text(_HOME / name)
    shorter = ast.unparse(without_types_of_results(ast.parse(source)))
    return _program(source), _program(shorter)


def _program(source: str) -> str:
    """The program without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
