"""What a page asks for, and what an answer on it consists of. Nothing here knows Gradio."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

# What an answer shows beside its sentence: probabilities of labels, a text in colours, a picture in colours, spans.
Part = Literal["scores", "pieces", "regions", "table"]
# Pieces of a text in their order, with the label of each, or None.
Pieces = list[tuple[str, str | None]]


class Field(NamedTuple):
    """What a page asks for.

    Attributes:
        kind: a text, the path of a recording or of an image, a number within ``limits``, or yes or no.
        label: its name on the page.
        value: from the start.
        limits: the least value, the largest, and the step of a number.
    """

    kind: Literal["text", "sound", "image", "number", "switch"]
    label: str
    value: Any = None
    limits: tuple[float, float, float] = (0, 1, 1)


class Regions(NamedTuple):
    """An image [h, w, 3] of bytes, and for each label the pixels [h, w] that have it."""

    image: np.ndarray
    masks: dict[str, np.ndarray]


@dataclass
class Answer:
    """What a model says.

    Args:
        said: in one sentence.
        scores: the probability of each label.
        pieces: the text, piece by piece.
        regions: the image, with the pixels of each label.
        table: one row per span: start and end in seconds, label, score.
    """

    said: str
    scores: dict[str, float] = field(default_factory=dict)
    pieces: Pieces = field(default_factory=list)
    regions: Regions | None = None
    table: list[list[Any]] = field(default_factory=list)


class Answerer(ABC):
    """A model that answers what a reader gives.

    Attributes:
        model: with its head, in evaluation mode.
        asks: what a reader gives, in the order of the arguments of a call.
        shows: the parts that answers have.
        labels: those that pieces may have, in the order of their colours.
        instruction: what a reader does, in one sentence.
    """

    model: Any
    asks: tuple[Field, ...]
    shows: tuple[Part, ...]
    labels: tuple[str, ...] = ()
    instruction: str

    @abstractmethod
    def __call__(self, *values: Any) -> Answer:
        """Answer a value for each field.

        Raises:
            ValueError: for what cannot be answered, in words for the reader.
        """


def coloured(text: str, spans: list[tuple[int, int, str]]) -> Pieces:
    """A text as pieces, by the start, the end and the label of spans that do not overlap.

    >>> coloured("in Rome, now", [(3, 7, "place")])
    [('in ', None), ('Rome', 'place'), (', now', None)]
    """
    pieces, at = [], 0
    for start, end, label in sorted(spans):
        pieces += [(text[at:start], None), (text[start:end], label)]
        at = end
    pieces.append((text[at:], None))
    return [piece for piece in pieces if piece[0]]


def require(condition: object, message: str) -> None:
    """Refuse what a reader gave.

    Raises:
        ValueError: with the message, unless the condition holds.
    """
    if not condition:
        raise ValueError(message)


def percent(score: float) -> str:
    """A probability for readers.

    >>> percent(0.98765)
    '98.8 %'
    """
    return f"{100 * score:.1f} %"
