"""The base class of tasks: options, columns, and rows that depend on a seed, a split and an index."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from .seeds import Split


@dataclass(frozen=True)
class Task(ABC):
    """A task of `load_task`; the fields of the class are the task's options."""

    @property
    @abstractmethod
    def features(self) -> datasets.Features:
        """The columns of a row."""

    @abstractmethod
    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """Yield rows for place ``index`` of a split, without end; the first with a new `identity` is used."""

    def identity(self, row: dict[str, Any]) -> Hashable:  # noqa: B027
        """A key that no two examples of a split may share; None if examples never repeat."""

    def tokenizer(self) -> Any:  # noqa: B027
        """The tokenizer to save with a model; None if the task has no text."""

    def check(self, num_examples: int) -> None:  # noqa: B027
        """Raise ValueError if there are fewer different examples than ``num_examples``."""
