"""Check whether the Python code in a folder is this package's; comments and docstrings may differ."""

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
        return not encoded and _program(text) == _own_program(path.name)
    except (InputError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False


@cache
def _own_program(name: str) -> str:
    return _program(read_text(_HOME / name))


def _program(source: str) -> str:
    """The program without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
