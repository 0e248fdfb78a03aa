"""Block-lookahead decoding: token by token, exact, and with a fraction of the work per token where N is large.

The state is only touched once in T tokens. At the start of a block one matrix product tells what the state adds to the
next T outputs, Re(W Λ^{j+1} x); inside the block each token adds its share, K[j] u, to the outputs that are still to
come; at its end x <- Λ^T x + Σ_j Λ^{T-1-j} u_j, again one product. Poles are raised to the T-th power at once, so that
their rounding is applied T times less often than by stepping.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from .checks_dlr import has_memory
from .ops_dlr import Modes, State, advance, evaluate_kernel, power
from .vandermonde_dlr import table_of_powers

# Tokens of a block, and the numbers that its tables of powers may hold where poles are not shared: 4 MB each.
_LONGEST_BLOCK, _SHORTEST_BLOCK, _NUMBERS_PER_TABLE = 128, 8, 2**20


class LookaheadTables(NamedTuple):
    """What decoding needs of the modes of a kernel, computed once. Later changes of the parameters do not change it.

    Attributes:
        decay: Re log Λ, [N] or [H, N].
        angle: Im log Λ, likewise.
        weights_real: Re W, [C, H, N].
        weights_imag: Im W, [C, H, N].
        lookahead: [G, T, 2N], Λ^{j+1} as [Re, -Im] for j = 0 … T-1; G is 1 (shared poles) or H.
        history: [G, T, 2N], Λ^{T-1-j} as [Re, Im].
        kernel_plus_skip: [T, 1, C, H], K[j], and D added to K[0].
    """

    decay: Tensor
    angle: Tensor
    weights_real: Tensor
    weights_imag: Tensor
    lookahead: Tensor
    history: Tensor
    kernel_plus_skip: Tensor


def may_decode(tensors: tuple[Tensor | None, ...]) -> TypeGuard[tuple[Tensor, ...]]:
    """Whether a layer that is a function of these tensors may decode in blocks.

    Not where there are none, one is missing (None) or a shard, has no storage (under vmap), or does not count writes
    (made in inference mode).
    """
    plain = all(
        part is not None and type(part) in (Tensor, nn.Parameter) and not part.is_inference() and has_memory(part)
        for part in tensors
    )
    return bool(tensors) and plain


@dataclass
class Block:
    """Where decoding stands between two touches of the state: `next_output` writes into it.

    Attributes:
        tables: of its kernel.
        outputs: [T, B, C, H], as far as the state and the tokens so far make them.
        inputs: [T, B, H], the tokens so far.
        position: how many they are.
    """

    tables: LookaheadTables
    outputs: Tensor
    inputs: Tensor
    position: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the next token needs a new block."""
        return self.position == len(self.inputs)

    @property
    def is_writable(self) -> bool:
        """Whether a token may be written into it: what inference mode made can only be written into there."""
        return torch.is_inference_mode_enabled() or not self.inputs.is_inference()

    def take_sequences(self, indices: Tensor) -> None:
        """Keep some sequences, or repeat them, as beam search does."""
        self.outputs, self.inputs = self.outputs.index_select(1, indices), self.inputs.index_select(1, indices)


def lookahead_tables(modes: Modes, skip: Tensor, block_length: int | None = None) -> LookaheadTables:
    """The tables of the modes of a kernel, and of D [C, H], for blocks of ``block_length`` tokens.

    None for ``block_length`` takes 128 where all channels share their poles, and else as many as fit the cache.

    Raises:
        ValueError: if ``block_length`` is not positive, or a pole or weight is not finite.
    """
    N = modes.decay.shape[-1]
    decay, angle = modes.decay.reshape(-1, N), modes.angle.reshape(-1, N)
    fitting = _NUMBERS_PER_TABLE // decay.numel()
    T = min(max(fitting, _SHORTEST_BLOCK), _LONGEST_BLOCK) if block_length is None else block_length
    if T < 1:
        raise ValueError(f"A block has at least one token, got block_length={T}.")
    kernel_plus_skip = evaluate_kernel(modes, T).permute(2, 0, 1).unsqueeze(1).contiguous()
    kernel_plus_skip[0] += skip
    powers = table_of_powers(decay, angle, T + 1, kernel_plus_skip)  # [G, T+1, 2N]
    lookahead = powers[:, 1:].clone()
    lookahead[..., N:].neg_()

    return LookaheadTables(
        modes.decay.clone(),
        modes.angle.clone(),
        modes.weights_real.clone(memory_format=torch.contiguous_format),
        modes.weights_imag.clone(memory_format=torch.contiguous_format),
        lookahead,
        powers[:, :-1].flip(1),
        kernel_plus_skip,
    )


def begin_block(tables: LookaheadTables, state: State) -> Block:
    """A block of tokens from a recurrent state [B, H, N]."""
    W_real, W_imag, (T, _, C, H) = tables.weights_real, tables.weights_imag, tables.kernel_plus_skip.shape
    B = len(state.real)
    x_real, x_imag = state.real.unsqueeze(1), state.imag.unsqueeze(1)  # [B, 1, H, N]
    seen = x_real.new_empty(B, C, H, tables.lookahead.shape[-1])  # W x as [Re | Im]
    seen_real, seen_imag = seen.chunk(2, dim=-1)
    torch.mul(W_real, x_real, out=seen_real).addcmul_(W_imag, x_imag, value=-1)
    torch.mul(W_real, x_imag, out=seen_imag).addcmul_(W_imag, x_real)
    if len(tables.lookahead) == 1:
        outputs = (tables.lookahead[0] @ seen.flatten(0, -2).mT).view(T, B, C, H)
    else:
        outputs = torch.einsum("hjn,bchn->jbch", tables.lookahead, seen).contiguous()
    return Block(tables, outputs, seen.new_zeros(T, B, H))


def next_output(block: Block, u: Tensor) -> Tensor:
    """The output of one token, u [B, H] to y [B, C, H], in a block that is not full; the block is moved on by it."""
    j = block.position
    block.inputs[j] = u
    coming = block.outputs[j:]
    coming.addcmul_(block.tables.kernel_plus_skip[: len(coming)], u.unsqueeze(1))
    block.position = j + 1
    return coming[0]


def state_after(block: Block, start: State) -> State:
    """The state after the tokens of a block so far, [B, H, N], from the one at its start."""
    t, T = block.position, len(block.inputs)
    if t == 0:
        return start
    recent = block.tables.history[:, T - t :]  # Λ^{t-1-j} for j = 0 … t-1
    if len(recent) == 1:
        inputs = block.inputs[:t]
        sums = (inputs.flatten(1).mT @ recent[0]).unflatten(0, inputs.shape[1:])
    else:
        sums = torch.einsum("jbh,hjn->bhn", block.inputs[:t], recent)
    moved = advance(power(block.tables.decay, block.tables.angle, t, start.real), start)
    real, imag = sums.chunk(2, dim=-1)
    return State(moved.real.add_(real), moved.imag.add_(imag))
