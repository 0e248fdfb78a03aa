"""What was computed last from some tensors, until their values change."""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class _Remembered(NamedTuple, Generic[Result]):
    inputs: tuple[Tensor, ...]
    result: Result


class Memo(Generic[Result]):
    """The last result and copies of its inputs.

    Inputs are compared by value, so that a result cannot be stale, however they were changed. Copies of a memo start
    empty. Threads may share one: what is remembered is one tuple.
    """

    def __init__(self) -> None:
        self._last: _Remembered[Result] | None = None

    def __deepcopy__(self, memo: dict) -> "Memo[Result]":
        return Memo()

    def __reduce__(self) -> tuple[type, tuple]:
        return Memo, ()

    def recall(self, inputs: tuple[Tensor, ...]) -> Result | None:
        """The result of ``inputs``, if it is remembered and they have not changed, else None."""
        last = self._last
        if last is None or len(last.inputs) != len(inputs):
            return None
        same = all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(last.inputs, inputs, strict=True)
        )
        return last.result if same else None

    def keep(self, inputs: tuple[Tensor, ...], result: Result) -> None:
        """Remember a result in the place of the last one."""
        self._last = _Remembered(tuple(part.detach().clone() for part in inputs), result)

    def forget(self) -> None:
        """Let go of the result."""
        self._last = None
