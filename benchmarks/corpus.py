"""The texts on which the small bytes model is pretrained: English, code, and documentation in other languages.

    python benchmarks/corpus.py          # build it in outputs/corpus, and say what it holds

They are files of the packages that `SOURCES` names; `packages.py` downloads them and states their licences. Lines of 40
and more characters that occur in a data set on which models are evaluated are left out, and so is a document that
occurs twice. One document in a hundred is held out, chosen by its content.
"""

import gzip
import hashlib
import html
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from packages import PACKAGES, folder_of
from real_texts import LABELLED

FOLDER = Path("outputs/corpus")
KINDS = ("english", "code", "other")
# Between documents, and the bytes of one document at most.
SEPARATOR, LONGEST = b"\n\n", 100_000
# Shorter lines may occur anywhere.
SHORT = 40


class Source(NamedTuple):
    """Files of a package: their kind, a pattern of paths, and how many megabytes of them are taken at most."""

    package: str
    kind: str
    pattern: str
    most: float


SOURCES = [
    Source("speeches", "english", "**/sotu/data/*.txt", 20),
    Source("speeches", "english", "**/moby-dick/data/*.txt", 2),
    Source("factbook", "english", "**/*.json", 8),
    Source("anarchism", "english", "**/*.html", 12),
    Source("handbook", "english", "**/html/en-US/*.html", 3),
    Source("policy", "english", "**/*.txt.gz", 2),
    Source("history", "english", "**/*.en.html", 1),
    Source("gcide", "english", "**/*.dict.dz", 10),
    Source("wordnet", "english", "**/*.dict.dz", 5),
    Source("foldoc", "english", "**/*.dict.dz", 4),
    Source("kernel", "english", "**/Documentation/**/*.rst.gz", 8),
    Source("python-doc", "english", "**/_sources/**/*.txt", 6),
    Source("postgresql", "english", "**/*.html", 5),
    Source("go", "code", "**/src/**/*.go", 8),
    Source("boost", "code", "**/*.hpp", 6),
    Source("ruby", "code", "**/*.rb", 4),
    Source("perl", "code", "**/*.p[ml]", 4),
    Source("rust", "code", "**/library/**/*.rs", 6),
    Source("django", "code", "**/*.py", 4),
    Source("sympy", "code", "**/*.py", 5),
    Source("three", "code", "**/src/**/*.js", 3),
    Source("handbook", "other", "**/html/[a-df-z]*/*.html", 10),
    *(Source(name, "other", "**/man*/*.gz", 4) for name in PACKAGES if name.startswith("manpages-")),
    *(Source(name, "other", "**/*.txt.gz", 2) for name in PACKAGES if name.startswith("debian-reference-")),
    *(Source(name, "other", "**/*.html", 1) for name in PACKAGES if name.startswith("aptitude-doc-")),
]


def text_of_html(page: str) -> str:
    """The words of a page, without its scripts, styles and tags."""
    page = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", "", page)
    page = re.sub(r"(?i)<(br|p|div|li|tr|h\d|pre|dt|dd)\b[^>]*>", "\n", page)
    return re.sub(r"\s*\n\s*", "\n", html.unescape(re.sub(r"(?s)<[^>]*>", "", page)))


def text_of_manual(source: str) -> str:
    """The words of a manual page, without requests and fonts."""
    lines = [line for line in source.split("\n") if not line.startswith((".\\", "'\\"))]
    lines = [re.sub(r'^\.[A-Za-z]{1,2} ?"?', "", line) for line in lines]
    return re.sub(r"\\f(?:\(..|\[\w*\]|.)|\\[&/,]", "", "\n".join(lines)).replace("\\-", "-")


def strings_of(value: Any) -> Iterator[str]:
    """The long strings of a JSON document."""
    if isinstance(value, str):
        if len(value) > SHORT:
            yield value
    else:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from strings_of(each)


def text_of(path: Path) -> str:
    """The text of a file by its ending."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix in (".gz", ".dz") else raw).decode(errors="replace")
    if path.suffix == ".html":
        return text_of_html(text)
    if path.suffix == ".json":
        return "\n".join(map(html.unescape, strings_of(json.loads(text))))
    return text_of_manual(text) if re.search(r"\.\d\w*\.gz$", path.name) else text


def documents_of(source: Source) -> Iterator[str]:
    """Documents of a source in a fixed random order: whole files, or parts of long ones."""
    paths = sorted(path for path in folder_of(source.package).glob(source.pattern) if path.is_file())
    random.Random(0).shuffle(paths)
    left = int(source.most * 1e6)
    for path in paths:
        text = text_of(path)
        for start in range(0, len(text), LONGEST):
            if left <= 0:
                return
            part = text[start : start + LONGEST]
            left -= len(part.encode())
            yield part


def key_of(text: str) -> bytes:
    """What two equal texts have in common, whatever their spaces and case."""
    return hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=8).digest()


def long_lines(texts: Iterable[str]) -> set[bytes]:
    """The keys of the lines that are not short."""
    return {key_of(line) for text in texts for line in text.splitlines() if len(line.strip()) >= SHORT}


def cleaned(text: str, left_out: set[bytes]) -> str:
    """The text without the lines that are left out."""
    return "\n".join(
        line for line in text.splitlines() if len(line.strip()) < SHORT or key_of(line) not in left_out
    ).strip()


def build(sources: Iterable[Source], evaluated: Iterable[str], folder: Path) -> list[dict[str, Any]]:
    """Write the bytes to train on and, by kind, the held-out ones; return what each source gave.

    Args:
        sources: where documents come from.
        evaluated: texts of data sets on which models are evaluated.
        folder: gets ``train.npy`` and ``held_out_KIND.npy``, uint8, and ``sources.json``.
    """
    left_out, seen = long_lines(evaluated), set[bytes]()
    train, held_out = list[bytes](), {kind: list[bytes]() for kind in KINDS}
    found = []
    for source in sources:
        count, size, dropped = 0, 0, 0
        for document in documents_of(source):
            text = cleaned(document, left_out)
            dropped += len(document.strip()) - len(text)
            key, raw = key_of(text), text.encode()
            if len(raw) < 200 or key in seen:
                continue
            seen.add(key)
            (held_out[source.kind] if key[0] * 256 + key[1] < 655 else train).append(raw)
            count, size = count + 1, size + len(raw)
        archive = (folder_of(source.package) / "ARCHIVE").read_text(encoding="utf-8").strip()
        facts = {"kind": source.kind, "archive": archive, "licence": PACKAGES[source.package].licence}
        found.append(facts | {"documents": count, "bytes": size, "characters_left_out": dropped})
    random.Random(0).shuffle(train)
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in {"train": train, **{f"held_out_{kind}": parts for kind, parts in held_out.items()}}.items():
        joined = np.frombuffer(SEPARATOR.join(parts), dtype=np.uint8)
        np.save(folder / f"{name}.npy", joined)
        found.append({"array": name, "bytes": len(joined), "sha256": hashlib.sha256(joined.tobytes()).hexdigest()})
    (folder / "sources.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    texts = (text for read in LABELLED.values() for text in read().texts)
    json.dump(build(SOURCES, texts, FOLDER), sys.stdout, indent=1)
