"""Which columns of a table are the text and the label, and what the text is."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from modeling_dlr.kernel_parameters_dlr import did_you_mean

from .options import TrainOptions
from .tables import IMAGES, SOUNDS, Row
from .task import InputName

TEXT_NAMES = (
    *("text", "sequence", "image", "sound", "audio", "sentence", "review", "content", "body", "message", "document"),
    *("description", "comment", "title", "question", "tokens", "words", "dna", "seq", "path", "file"),
)
PAIR_NAMES = (
    *(("text_a", "text_b"), ("text1", "text2"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("question", "answer"), ("query", "passage")),
)
LABEL_NAMES = (
    *(
        "label",
        "labels",
        "class",
        "classes",
        "category",
        "categories",
        "target",
        "topic",
        "topics",
        "tag",
        "tags",
        "ner_tags",
        "spans",
        "entities",
        "y",
    ),
    *("score", "rating", "stars", "sentiment", "annotation", "structure", "value"),
)
# Letters of DNA and RNA, with those of sets of bases.
DNA_LETTERS = frozenset("ACGTUNacgtun")


class Columns(NamedTuple):
    """The columns that are read.

    Attributes:
        texts: of the text; two where the task is about pairs.
        labels: of the label; several where each is one label, 0 or 1.
        is_pair: whether the texts are a pair.
        input: what the texts are.
    """

    texts: list[str]
    labels: list[str]
    is_pair: bool
    input: InputName


def choose_columns(sample: Sequence[Row], options: TrainOptions) -> Columns:
    """Choose by what is given, then by name, then by what the cells hold.

    Raises:
        ValueError: for a column that is not there, with the nearest one, and where no choice can be made.
    """
    names = list(dict.fromkeys(name for row in sample for name in row))
    texts = _given(options.text, "text", names)
    labels = _given(options.label, "label", names) or _label_of(names, texts)
    is_pair = options.task == "pairs" or (options.task is None and options.text is None)
    if not texts:
        pair = next((pair for pair in PAIR_NAMES if set(pair) <= set(names) - set(labels)), None)
        texts = list(pair) if is_pair and pair else [_text_of(sample, [name for name in names if name not in labels])]
    is_pair = is_pair and len(texts) == 2
    if options.task == "pairs" and not is_pair:
        raise ValueError(f"Pairs need two columns, --text ONE,OTHER, got {texts}; there are {names}.")
    if set(texts) & set(labels):
        raise ValueError(f"The column {labels[0]!r} cannot be both text and label; there are {names}.")
    cells = [row.get(name) for row in sample for name in texts]
    return Columns(texts, labels, is_pair, options.input or input_of(cells))


def check_column(name: str, option: str, names: Sequence[str]) -> None:
    """Refuse a column that is not there.

    Raises:
        ValueError: with the nearest name.
    """
    if name not in names:
        hint = did_you_mean(name, names, cutoff=0.5)
        listed = f"The columns are {list(names)}."
        raise ValueError(f"There is no column {name!r} for --{option}: {f'{hint} {listed}' if hint else listed}")


def input_of(cells: Sequence[Any]) -> InputName:
    """What texts are: paths of images or sounds, DNA, or any text."""
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if texts and all(text.lower().endswith(IMAGES) for text in texts):
        return "image"
    if texts and all(text.lower().endswith(SOUNDS) for text in texts):
        return "sound"
    letters = "".join(text[:10_000] for text in texts[:200])
    return "dna" if len(letters) > 10 * len(texts[:200]) and set(letters) <= DNA_LETTERS else "text"


def _given(named: str | None, option: str, names: Sequence[str]) -> list[str]:
    if named is None:
        return []
    # A name with a comma in it is taken as it stands.
    given = [named] if named in names else [part.strip() for part in named.split(",")]
    for name in given:
        check_column(name, option, names)
    return given


def _label_of(names: Sequence[str], texts: Sequence[str]) -> list[str]:
    others = [name for name in names if name not in texts]
    found = [name for known in LABEL_NAMES for name in others if name.lower() == known]
    rest = [name for name in others if name.lower() not in TEXT_NAMES]
    if found or len(rest) == 1:
        return (found or rest)[:1]
    raise ValueError(f"Name the column of the labels with --label: the columns are {list(names)}.")


def _text_of(sample: Sequence[Row], names: Sequence[str]) -> str:
    found = [name for known in TEXT_NAMES for name in names if re.sub(r"\W", "", name.lower()) == known]
    if found:
        return found[0]
    lengths = {name: [len(row[name]) for row in sample if isinstance(row.get(name), str)] for name in names}
    texts = {name: sum(each) / len(each) for name, each in lengths.items() if each}
    if not texts:
        raise ValueError(f"Name the column of the text with --text: the columns are {list(names)}.")
    return max(texts, key=lambda name: texts[name])
