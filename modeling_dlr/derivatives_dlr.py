"""First derivatives in closed form, and the refusal of second ones."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_derivatives(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """The ``backward`` of a `torch.autograd.Function` whose results must not be differentiated.

    torch's `once_differentiable` forgets that they depend on what the forward pass kept, so that a second derivative
    by it came out as 0. Here any second derivative raises a RuntimeError.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *grads: torch.Tensor | None) -> tuple:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        return _NoSecond.apply(len(found), *found, *ctx.saved_tensors, *grads)

    return wrapper


class _NoSecond(torch.autograd.Function):
    """Hands on the first ``count`` values, as something that depends on all of them."""

    @staticmethod
    def forward(_ctx, count: int, *values: torch.Tensor | int | None) -> tuple:
        return values[:count]

    @staticmethod
    def backward(_ctx, *_):
        raise RuntimeError(
            "A DLR layer has no second derivatives: leave out create_graph=True, or take differences of gradients."
        )
