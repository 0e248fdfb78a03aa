"""What is done with the rows of a table: in which order they are read, and what is computed of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modeling_dlr.finetuning import iter_rows

from .inputs import Row

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Table:
    """The rows of a source, which every loop reads anew, in any process.

    Attributes:
        source: as `iter_rows` takes it.
        encoding: of its texts.
    """

    source: str
    encoding: str = "utf-8"

    def __iter__(self) -> Iterator[Row]:
        return iter_rows(self.source, encoding=self.encoding)


@dataclass(frozen=True)
class Job:
    """What is done with rows.

    Attributes:
        rows: dictionaries by column; Ray reads them in another process, from the first one on.
        letters: how much work a row is, in letters.
        is_empty: whether a row has nothing to read.
        compute: makes the rows of a part of the output.
    """

    rows: Iterable[Row]
    letters: Callable[[Row], int]
    is_empty: Callable[[Row], bool]
    compute: Callable[[Sequence[Row]], Sequence[Row]]
