"""What was computed last from some tensors, and the signs by which a change of those tensors is seen.

Kernels, tables of decoding and blocks of tokens all follow one rule:

* What is kept for long is compared by value (`Memo.recall`): every number, on the CPU. So it cannot be out of date,
  however its inputs were changed. Elsewhere the comparison would synchronize: nothing is kept there.
* What is used for the few tokens of a block is compared by cheap signs (`Snapshot.is_untouched`), which take some
  microseconds and never synchronize.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

# Any NamedTuple of tensors would do; a tuple of one tensor is the plainest.
Result = TypeVar("Result", bound=tuple[Tensor, ...])

# Numbers of a tensor that a snapshot compares.
_SAMPLE_SIZE = 128


class _Part(NamedTuple):
    """One tensor as it was; `Snapshot` says what is compared."""

    tensor: Tensor  # shares its memory, which is not given to another tensor as long as this lives
    place: tuple[Any, ...]
    writes: int | None
    sample: Tensor | None
    sample_values: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> "_Part":
        """As it is now."""
        tensor = tensor.detach()
        sample = None
        if tensor.device.type == "cpu":
            # An odd distance, so that the sample has real and imaginary parts, and all modes, of weights [C, H, N, 2].
            every = -(-tensor.numel() // _SAMPLE_SIZE) | 1
            sample = tensor.view(-1)[::every] if tensor.is_contiguous() else tensor
        writes = None if tensor.is_inference() else tensor._version
        return cls(tensor, _place_of(tensor), writes, sample, None if sample is None else sample.clone())

    def is_untouched(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the same, as far as the signs say."""
        try:
            if _place_of(tensor) != self.place:
                return False
        except RuntimeError:  # under vmap
            return False
        if self.writes is not None and tensor._version != self.writes:
            return False
        # pyrefly: ignore[bad-argument-type] - both are there or neither is
        return self.sample is None or torch.equal(self.sample, self.sample_values)


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()


class Snapshot:
    """Some tensors as they are now, to tell later whether they have changed; without a wait, whatever the device.

    Seen are: another tensor or another place in memory (as when weights are assigned, moved, cast or loaded), every
    write that torch counts (in place, `load_state_dict`, optimizers except fused ones), and on the CPU every change of
    one of 128 numbers of each tensor, evenly spread over it (steps of fused optimizers, edits through ``.data``).
    Not seen are writes that torch does not count where they leave those numbers alone, or are made elsewhere than on
    the CPU.
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._parts = tuple(_Part.of(tensor) for tensor in tensors)

    def is_untouched(self, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether ``tensors`` are those of the snapshot, without a change that is seen."""
        if len(tensors) != len(self._parts):
            return False
        for part, tensor in zip(self._parts, tensors, strict=True):  # `all` takes half as long again
            if tensor is None or not part.is_untouched(tensor):
                return False
        return True


class _Remembered(NamedTuple, Generic[Result]):
    inputs: tuple[Tensor, ...]
    result: Result
    handed_out: Snapshot


class Memo(Generic[Result]):
    """The last result, with copies of its inputs, on the CPU.

    Copies of a memo start empty. Threads may share one: what is remembered is one tuple.
    """

    def __init__(self) -> None:
        self._last: _Remembered[Result] | None = None

    def __deepcopy__(self, memo: dict) -> "Memo[Result]":
        return Memo()

    def __reduce__(self) -> tuple[type, tuple]:
        return Memo, ()

    def recall(self, inputs: tuple[Tensor, ...]) -> Result | None:
        """The result of ``inputs``, or None if it is not remembered.

        None, too, if a number of the inputs has changed, or if the result was written into by whom it was given.
        """
        last = self._last
        if last is None or len(last.inputs) != len(inputs):
            return None
        same = all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(last.inputs, inputs, strict=True)
        )
        return last.result if same and last.handed_out.is_untouched(last.result) else None

    def keep(self, inputs: tuple[Tensor, ...], result: Result) -> None:
        """Remember a result in the place of the last one, if its inputs are on the CPU."""
        if all(part.device.type == "cpu" for part in inputs):
            copies = tuple(part.detach().clone() for part in inputs)
            self._last = _Remembered(copies, result, Snapshot(result))

    def forget(self) -> None:
        """Let go of the result."""
        self._last = None
