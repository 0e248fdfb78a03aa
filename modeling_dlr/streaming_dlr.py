"""The next steps of a batch of sequences, from and to a state, where any step may be padding."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .convolution_dlr import convolve
from .layout_dlr import sort_steps, take_steps
from .ops_dlr import Modes, State, final_state, response, step


def stream(
    modes: Modes,
    skip: Tensor,
    u: Tensor,
    state: State | None,
    mask: Tensor | None,
    kernel: Callable[[], Tensor],
) -> tuple[Tensor, State]:
    """Convolution or step, whichever fits, of the steps that count; padding neither adds to a state nor moves it.

    Args:
        modes: poles and weights of a kernel with a recurrence.
        skip: D, [C, H].
        u: [B, L, H], zero where the mask says padding.
        state: after the steps before these; None is zero.
        mask: [B, L], False where a step is padding; None counts every step.
        kernel: gives the kernel [C, H, L] of these modes, where it is needed.

    Returns:
        y [B, L, C, H], of which padding is to be ignored, and the state after these steps.
    """
    L = u.shape[1]
    if L == 1:
        y, moved = step(modes, skip, u[:, 0], state)
        if mask is not None:
            before = State(*map(torch.zeros_like, moved)) if state is None else state
            moved = State(*(torch.where(mask.unsqueeze(2), new, old) for new, old in zip(moved, before, strict=True)))
        return y.unsqueeze(1), moved
    if mask is None:
        y = convolve(u, kernel(), None, skip)
        if state is not None:
            y = y + response(modes, state, L)
        return y, final_state(modes, u, state)
    # Steps that count go to the right end, where left padding has them already: the zeros before them are no input.
    order = sort_steps(~mask)
    counts = mask.sum(1)
    u = take_steps(u, order.steps)
    y = convolve(u, kernel(), None, skip)
    if state is not None:
        since = (torch.arange(L, device=u.device) - (L - counts).unsqueeze(1)).clamp(min=0)
        y = y + take_steps(response(modes, state, L), since)
    return take_steps(y, order.places), final_state(modes, u, state, counts)


def short_filter(
    x: Tensor, taps: Tensor, recent: Tensor | None = None, padding: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A causal filter of a few taps for each channel, y[t] = Σ_{s<S} taps[:,s] x[t-S+1+s], and what later steps need.

    As shifts: a convolution of torch takes several times as long on a CPU.

    Args:
        x: [B, L, C], zero where a step is padding.
        taps: [C, S]; the last one multiplies the present step.
        recent: [B, S-1, C], the inputs before these, the oldest first; None is zero.
        padding: [B], how many steps at the beginning of each row are padding where ``recent`` comes before the others;
            None is none.

    Returns:
        y [B, L, C], of which padding is to be ignored, and the last S-1 inputs that count, [B, S-1, C].
    """
    (B, L, C), before = x.shape, taps.shape[1] - 1
    if recent is None or padding is None:
        x = torch.cat([x.new_zeros(B, before, C) if recent is None else recent, x], dim=1)
    else:
        x = functional.pad(x, (0, 0, before, 0))
        places = padding.unsqueeze(1) + torch.arange(before, device=x.device)
        x = x.scatter(1, places.unsqueeze(-1).expand(-1, -1, C), recent)
    y = x[:, :L] * taps[:, 0]
    for shift in range(1, before + 1):
        y = torch.addcmul(y, x[:, shift : shift + L], taps[:, shift])
    return y, x[:, L:].clone()
