"""How sequence heads reduce the steps that count to one vector, in one go or chunk by chunk."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .ops_dlr import at_least_float32


class Pooled(NamedTuple):
    """What pooling knows of the steps so far.

    Attributes:
        value: [B, H], the sum, maximum, first or last of the steps that count; anything where there was none.
        count: [B, 1], how many there were.
    """

    value: Tensor
    count: Tensor


class Pooling(NamedTuple):
    """A way to pool: of one chunk, [B, L, H] and [B, L] to [B, H], and of two chunks, earlier and later."""

    reduce: Callable[[Tensor, Tensor], Tensor]
    join: Callable[[Pooled, Pooled], Tensor]


def _sum(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return hidden_states.masked_fill(~mask.unsqueeze(-1), 0).sum(1)


def _max(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return hidden_states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)


def _first(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return _pick(hidden_states, mask.int().argmax(1))


def _last(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return _pick(hidden_states, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))


def _pick(hidden_states: Tensor, steps: Tensor) -> Tensor:
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), steps]


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling(_sum, lambda earlier, later: earlier.value + later.value),
    "max": Pooling(_max, lambda earlier, later: torch.maximum(earlier.value, later.value)),
    "first": Pooling(_first, lambda earlier, later: torch.where(earlier.count > 0, earlier.value, later.value)),
    "last": Pooling(_last, lambda earlier, later: torch.where(later.count > 0, later.value, earlier.value)),
}


def pool(name: str, hidden_states: Tensor, mask: Tensor, earlier: Pooled | None = None) -> tuple[Tensor, Pooled]:
    """Pool the steps that count, and those of the chunks before.

    Args:
        name: "mean", "max", "first" or "last".
        hidden_states: [B, L, H].
        mask: [B, L], True where a step counts.
        earlier: what was returned for the chunks before.

    Returns:
        The features [B, H], in the type of the hidden states, zeros where no step has counted so far, and what the next
        chunk needs.
    """
    if not hidden_states.shape[1]:  # one step that does not count is no step, too
        hidden_states, mask = functional.pad(hidden_states, (0, 0, 0, 1)), functional.pad(mask, (0, 1))
    pooling = POOLINGS[name]
    states = at_least_float32(hidden_states)
    so_far = Pooled(pooling.reduce(states, mask), mask.sum(1, keepdim=True).to(states.dtype))
    if earlier is not None:
        so_far = Pooled(pooling.join(earlier, so_far), earlier.count + so_far.count)
    features = so_far.value / so_far.count.clamp(min=1) if name == "mean" else so_far.value
    return features.masked_fill(so_far.count == 0, 0).to(hidden_states.dtype), so_far
