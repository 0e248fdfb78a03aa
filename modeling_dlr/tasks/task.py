"""What a task is: options, columns, and the rows that a seed, a split and an index determine."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from .seeds import Split


@dataclass(frozen=True)
class Task(ABC):
    """A task of `load_task`: its fields are the task's options."""

    @property
    @abstractmethod
    def features(self) -> datasets.Features:
        """The columns."""

    @abstractmethod
    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """Rows for the place ``index`` of a split, without end: the first whose `identity` is not taken yet is it."""

    def identity(self, row: dict[str, Any]) -> Hashable:  # noqa: B027
        """What no two examples of a split may share; None where two of them never do."""

    def tokenizer(self) -> Any:  # noqa: B027
        """What makes rows of text, to be saved with a model; None where there is no text."""

    def check(self, num_examples: int) -> None:  # noqa: B027
        """Raise ValueError if there cannot be so many different examples."""
