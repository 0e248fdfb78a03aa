"""Block-lookahead decoding: token by token, exact, and with a fraction of the work per token where N is large.

The state is only touched once in T tokens. At the start of a block one matrix product tells what the state adds to the
next T outputs, Y[j] = Re(W Λ^{j+1} x); inside the block a token costs a convolution with the at most T tokens of the
block before it; at its end x <- Λ^T x + Σ_j Λ^{T-1-j} u_j, again one product. Poles are raised to the T-th power at
once, so that their rounding is applied T times less often than by stepping.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .ops_dlr import Spectrum, State, evaluate_kernel, product, split
from .vandermonde_dlr import pole_powers

# Tokens of a block.
BLOCK_LENGTH = 128


class LookaheadTables(NamedTuple):
    """What decoding needs of a spectrum, computed once.

    Attributes:
        lookahead: [G, 2N, T], Λ^{j+1} as [Re; -Im] for j = 0 … T-1; G is 1 (shared poles) or H.
        history: [G, T, 2N], Λ^{T-1-j} as [Re, Im].
        jump: Λ^T as (Re, Im), each rounded and with what rounding lost, [4, G, N]: Re, Im, rest of Re, rest of Im.
        weights: W as (Re, Im), each [C, H, N].
        taps: K[0 … T-1] reversed, [C, H, T].
    """

    lookahead: Tensor
    history: Tensor
    jump: Tensor
    weights: tuple[Tensor, Tensor]
    taps: Tensor


class LookaheadState(NamedTuple):
    """The state of a decoder inside a block.

    Attributes:
        start: the recurrent state at the start of the block.
        ahead: [B, C, H, T], what it adds to the outputs of the block.
        inputs: [B, H, T], the tokens of the block so far, the last one last; before them 0.
        position: tokens of the block so far.
    """

    start: State
    ahead: Tensor
    inputs: Tensor
    position: int


def lookahead_tables(spectrum: Spectrum, block_length: int = BLOCK_LENGTH) -> LookaheadTables:
    """The tables of a spectrum for blocks of ``block_length`` tokens.

    Raises:
        ValueError: if ``block_length`` is not positive.
    """
    if block_length < 1:
        raise ValueError(f"A block has at least one token, got block_length={block_length}.")
    N, dtype = spectrum.decay.shape[-1], spectrum.weights_real.dtype
    steps = torch.arange(block_length + 1, dtype=torch.float64, device=spectrum.decay.device)
    real, imag = pole_powers(spectrum.decay.reshape(-1, N), spectrum.angle.reshape(-1, N), steps)  # [G, T+1, N]
    lookahead = torch.cat([real[:, 1:], -imag[:, 1:]], dim=-1).mT
    history = torch.cat([real[:, :-1], imag[:, :-1]], dim=-1).flip(1)
    return LookaheadTables(
        lookahead.to(dtype).contiguous(),
        history.to(dtype).contiguous(),
        split(real[:, -1], imag[:, -1], dtype),
        (spectrum.weights_real.contiguous(), spectrum.weights_imag.contiguous()),
        evaluate_kernel(spectrum, block_length).flip(-1).contiguous(),
    )


def lookahead_start(tables: LookaheadTables, state: State) -> LookaheadState:
    """Begin a block from a recurrent state [B, H, N]."""
    (W_real, W_imag), (B, H, _), T = tables.weights, state.real.shape, tables.taps.shape[-1]
    x_real, x_imag = state.real.unsqueeze(1), state.imag.unsqueeze(1)  # [B, 1, H, N]
    seen = x_real.new_empty(B, *W_real.shape[:-1], 2 * W_real.shape[-1])  # W x as [Re | Im], [B, C, H, 2N]
    seen_real, seen_imag = seen.chunk(2, dim=-1)
    torch.mul(W_real, x_real, out=seen_real).addcmul_(W_imag, x_imag, value=-1)
    torch.mul(W_real, x_imag, out=seen_imag).addcmul_(W_imag, x_real)
    if len(tables.lookahead) == 1:
        ahead = seen @ tables.lookahead[0]
    else:
        ahead = torch.einsum("bchn,hnt->bcht", seen, tables.lookahead)
    return LookaheadState(state, ahead, seen.new_zeros(B, H, T), 0)


def lookahead_step(
    tables: LookaheadTables, skip: Tensor, u: Tensor, state: LookaheadState
) -> tuple[Tensor, LookaheadState]:
    """One token: u [B, H] to y [B, C, H], and the next state; ``state`` itself is left as it was."""
    t = state.position
    inputs = torch.cat([state.inputs[..., 1:], u.unsqueeze(-1)], dim=-1)
    inside = torch.linalg.vecdot(tables.taps, inputs.unsqueeze(1))
    y = inside.add_(state.ahead[..., t]).addcmul_(skip, u.unsqueeze(1))
    advanced = LookaheadState(state.start, state.ahead, inputs, t + 1)
    if t + 1 < tables.taps.shape[-1]:
        return y, advanced
    return y, lookahead_start(tables, recurrent_state(tables, advanced))


def recurrent_state(tables: LookaheadTables, state: LookaheadState) -> State:
    """The state after the tokens seen so far, [B, H, N]: what scan, step and convolution go on from."""
    t, T = state.position, tables.taps.shape[-1]
    if t == 0:
        return state.start
    N = state.start.real.shape[-1]
    if t == T:
        jump = tables.jump
    else:  # Λ^t is column t-1 of the lookahead
        column = tables.lookahead[..., t - 1].double()
        jump = split(column[..., :N], -column[..., N:], state.start.real.dtype)
    recent = tables.history[:, T - t :]  # Λ^{t-1-j} for j = 0 … t-1
    if len(recent) == 1:
        sums = state.inputs[..., T - t :] @ recent[0]
    else:
        sums = torch.einsum("bht,htn->bhn", state.inputs[..., T - t :], recent)
    moved, (real, imag) = product(jump, state.start), sums.chunk(2, dim=-1)
    return State(moved.real.add_(real), moved.imag.add_(imag))
