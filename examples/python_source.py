"""Load the source code of Python's standard library, with every byte labelled by `tokenize`."""

import io
import keyword
import sysconfig
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

LABELS = ["space", "keyword", "name", "number", "string", "comment", "operator"]
_CLASS_OF_TOKEN = {"NAME": "name", "NUMBER": "number", "STRING": "string", "COMMENT": "comment", "OP": "operator"}
_SKIPPED_FOLDERS = {"__pycache__", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}


def source_files() -> list[Path]:
    """The .py files of the running Python's standard library, without its tests, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    inside = (path.relative_to(root) for path in root.rglob("*.py"))
    return [root / path for path in sorted(inside) if not _SKIPPED_FOLDERS.intersection(path.parts)]


def label_characters(source: str) -> np.ndarray:
    """Classify every character of Python source: indices into `LABELS`, [characters], int64.

    Raises:
        tokenize.TokenError, SyntaxError: if the source cannot be tokenized.

    >>> "".join(LABELS[i][0] for i in label_characters("if x: # no"))
    'kksnoscccc'
    """
    classes = np.full(len(source), LABELS.index("space"))
    starts = [0] + [i + 1 for i, character in enumerate(source) if character == "\n"]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name.startswith(("FSTRING", "TSTRING")):  # parts of a formatted string, Python >= 3.12
            name = "STRING"
        if name in _CLASS_OF_TOKEN:
            label = "keyword" if keyword.iskeyword(token.string) else _CLASS_OF_TOKEN[name]
            (row, column), (last_row, last_column) = token.start, token.end
            classes[starts[row - 1] + column : starts[last_row - 1] + last_column] = LABELS.index(label)
    return classes


def labelled_file(path: Path) -> dict[str, Any] | None:
    """The text of a source file and the class of each of its UTF-8 bytes; None if the source is not valid."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        classes = label_characters(text)
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return None
    widths = 1 if text.isascii() else [len(character.encode()) for character in text]
    return {"text": text, "labels": np.repeat(classes, widths).tolist()}


def load_python_source(seed: int = 0, test_share: float = 0.1, max_files: int | None = None) -> DatasetDict:
    """Load files in train and test splits: columns ``path`` (in the library), ``text``, ``labels`` (one per byte)."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = source_files()
    order = np.random.default_rng(seed).permutation(len(paths))[:max_files]
    rows = []
    for path in (paths[i] for i in order):
        row = labelled_file(path)
        if row is not None and row["labels"]:
            rows.append({"path": path.relative_to(root).as_posix(), **row})
    return Dataset.from_list(rows).train_test_split(test_size=test_share, shuffle=False)
