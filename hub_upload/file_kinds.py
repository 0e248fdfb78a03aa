"""Which files of a folder are uploaded, and which types of file a model folder may have."""

import os
import pickletools
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from .bounded_files import open_regular

# Files that are not uploaded, by name; names with a slash are folders at any depth. They are hidden files, temporary
# files of editors and Python, and the state, logs and pickled options of a training run.
_NOT_UPLOADED = [
    ".*",
    "*.pyc",
    "*.tmp",
    "*tfevents*",
    "__pycache__/",
    "checkpoint-*/",
    "runs/",
    "trainer_state.json",
    "training_args.bin",
    "wandb/",
]
# The only hidden file that is uploaded.
_UPLOADED = ".gitattributes"

# Files that are read as text, and files that are not: weights, vocabularies, pictures and recordings.
_TEXTS = {
    *(".bib", ".cff", ".css", ".csv", ".html", ".jinja", ".json", ".jsonl", ".md", ".py", ".rst", ".svg", ".toml"),
    *(".tsv", ".txt", ".yaml", ".yml"),
}
_OTHERS = {
    *(".safetensors", ".onnx", ".onnx_data", ".model", ".tiktoken"),
    *(".flac", ".gif", ".ico", ".jpeg", ".jpg", ".mp3", ".mp4", ".ogg", ".png", ".wav", ".webm", ".webp"),
}
_WITHOUT_ENDING = {_UPLOADED, "AUTHORS", "CHANGELOG", "CITATION", "COPYING", "LICENSE", "NOTICE", "README"}
# Files that are recognised by their whole name.
_LOADED = [
    "*config*.json",
    "*tokenizer*",
    "*.index.json",
    "*.jinja",
    "*.model",
    "*.py",
    "*.safetensors",
    "*tokens*.json",
]
_LOADED += ["merges.txt", "results.json", "vocab*"]
# Vocabularies are the largest texts.
_LARGEST_TEXT = 2**26
_MOST_FILES = 10_000

# First bytes of files whose content does not match their name.
_BEGINNINGS: dict[bytes, str] = {
    b"PK\x03\x04": "an archive",
    b"PK\x05\x06": "an archive",
    b"\x1f\x8b": "an archive",
    b"BZh": "an archive",
    b"\xfd7zXZ\x00": "an archive",
    b"7z\xbc\xaf\x27\x1c": "an archive",
    b"Rar!": "an archive",
    b"\x28\xb5\x2f\xfd": "an archive",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "a database",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
}
# Pickle opcodes that import; a pickle without them creates plain values only.
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
_LONGEST_PICKLE = 2**20


def uploaded_files(folder: Path) -> list[Path]:
    """The files of a folder that a push uploads, in order."""
    return [path for path in _entries(folder) if path.is_file()]


def _entries(folder: Path) -> list[Path]:
    """All entries of a folder that a push uploads, without the folders themselves."""
    entries = []
    for root, folders, files in os.walk(folder):
        parent = Path(root)
        folders[:] = sorted(name for name in folders if not is_left_out((parent / name).relative_to(folder) / "x"))
        links = [name for name in folders if (parent / name).is_symlink()]
        entries += [parent / name for name in [*links, *files] if not is_left_out((parent / name).relative_to(folder))]
    return sorted(entries)


def is_left_out(path: Path) -> bool:
    """Whether the name of a file, or of a folder that contains it, excludes it from uploads."""
    names = [*(f"{folder}/" for folder in path.parts[:-1]), path.name]
    return any(fnmatchcase(name, pattern) for name in names if name != _UPLOADED for pattern in _NOT_UPLOADED)


def unreadable_entries(folder: Path, *, loaded: bool = False) -> Iterator[str]:
    """Describe entries that cannot be read, or not in bounded time and memory.

    Args:
        folder: a model folder.
        loaded: check only files that are read when the model is loaded or its card is written.
    """
    entries = [path for path in _entries(folder) if not loaded or _is_loaded(path.relative_to(folder))]
    if len(entries) > _MOST_FILES:
        yield f"{len(entries):,} files, where a model has some thirty"
        return
    for path in entries:
        name = path.relative_to(folder).as_posix()
        try:
            status = path.stat()
        except OSError as error:
            yield f"{name}, a link to nothing ({error.strerror})"
            continue
        if stat.S_ISDIR(status.st_mode):
            yield f"{name}, a link to a folder"
        elif not stat.S_ISREG(status.st_mode):
            yield f"{name}, a pipe, a socket or a device"
        elif status.st_size > _LARGEST_TEXT and path.suffix.lower() not in _OTHERS:
            yield f"{name} of {status.st_size:,} bytes, where such a file has at most {_LARGEST_TEXT:,}"


def _is_loaded(path: Path) -> bool:
    return len(path.parts) == 1 and any(fnmatchcase(path.name, pattern) for pattern in _LOADED)


def inspect_kinds(folder: Path) -> Iterator[str]:
    """Check that every file has a type that a model folder needs, by name and first bytes, and is not a pickle."""
    for path in uploaded_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in _TEXTS | _OTHERS and path.name not in _WITHOUT_ENDING:
            yield f"{name} has a type that a model folder does not need: remove it"
            continue
        with open_regular(path) as file:
            begin = file.read(_LONGEST_PICKLE)
        kind = next((kind for start, kind in _BEGINNINGS.items() if begin.startswith(start)), None)
        if begin[257:262] == b"ustar":
            kind = "an archive"
        if kind is None and _is_pickle(begin):
            kind = "a pickle, which may run code when it is read"
        if kind is not None:
            yield f"{name} is {kind}: remove it"


def _is_pickle(content: bytes) -> bool:
    """Whether a file begins with a pickle of protocol 2 or later, or is an older pickle that imports."""
    if content[:1] == b"\x80" and 2 <= int.from_bytes(content[1:2], "little") <= 5:
        return True
    imports, last = False, 0
    try:
        for opcode, _, position in pickletools.genops(content):
            imports, last = imports or opcode.name in _IMPORTS, position or 0
    except Exception:  # it ends like no pickle, unless only its beginning has been read
        return imports and len(content) == _LONGEST_PICKLE and last > _LONGEST_PICKLE // 2
    return imports
