"""The mathematics of diagonal linear RNNs: pure functions on tensors, no module and no configuration.

    x_t = Λ x_{t-1} + u_t ,   y_t = Re(W x_t) + D u_t          (DLR, arXiv 2212.00768, §3)

Three forms compute the same thing, with one signature, (modes, skip, u, state) -> (y, state):

    convolution   all steps at once, y = K * u + D u, and what the state at the start adds
    scan          the same in chunks, for sequences whose transforms would not fit
    step          the line above, once

Glossary
--------
==================  =====================================================================================
``B``               sequences in a batch
``L``               steps in a sequence
``H``               channels of the hidden state (``hidden_size``)
``N``               poles, i.e. complex states, of a kernel (``state_size``)
``C``               kernels per channel
``Λ`` (``Lambda``)  the diagonal of the recurrence. Kept as log Λ = ``decay`` + i ``angle``, both real,
                    [N] when all channels share their poles (DLR) or [H, N] (DSS, S4D)
``W``               read-out weights, [C, H, N] complex, kept as a real and an imaginary tensor
``K``               the convolution kernel, K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l)
``x``               the state, [B, H, N] complex, kept as a real and an imaginary tensor
==================  =====================================================================================

Complex numbers are pairs of real tensors throughout: they shard, export and cast as any other tensor.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .checks_dlr import check_finite
from .convolution_dlr import convolve
from .memo_dlr import Memo
from .precision_dlr import in_float64
from .vandermonde_dlr import vandermonde_adjoint, vandermonde_product

# Steps that `scan` takes at a time.
CHUNK_LENGTH = 4096


class State(NamedTuple):
    """The state x_t after some steps: ``real`` and ``imag``, each [B, H, N], float32 or float64."""

    real: Tensor
    imag: Tensor


class Modes(NamedTuple):
    """What every parameterisation hands over, and all that convolution, scan and step know of it.

    Attributes:
        decay: Re log Λ, [N] or [H, N], nepers per step; not positive, unless a parameterisation says so.
        angle: Im log Λ, same shape, radians per step.
        weights_real: Re W, [C, H, N].
        weights_imag: Im W, [C, H, N].
        reverse_real: Re W', [C, H, N]: weights of Λ^(L-1-l) for modes that are read from the end; or None.
        reverse_imag: Im W', likewise.
    """

    decay: Tensor
    angle: Tensor
    weights_real: Tensor
    weights_imag: Tensor
    reverse_real: Tensor | None = None
    reverse_imag: Tensor | None = None


# Linear read-outs multiply the weights by a complex number a + bi: Im z = Re(-i z), and Re z + Im z = Re((1-i) z).
_READ_OUT_FACTORS: dict[str, tuple[int, int]] = {"real": (1, 0), "imag": (0, -1), "sum": (1, -1)}
_PRODUCTS = ("prod", "real_prod")


def with_read_out(modes: Modes, read_out: str) -> Modes:
    """The modes whose kernel is the linear read-out ("real", "imag" or "sum") of the given modes.

    Raises:
        KeyError: for a read-out that is not linear in the weights.
    """
    a, b = _READ_OUT_FACTORS[read_out]

    def scaled(real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
        return a * real - b * imag, a * imag + b * real

    if a == 1 and b == 0:
        return modes
    decay, angle, *weights, reverse_real, reverse_imag = modes
    if reverse_real is None or reverse_imag is None:
        return Modes(decay, angle, *scaled(*weights))
    return Modes(decay, angle, *scaled(*weights), *scaled(reverse_real, reverse_imag))


def _stacked(one: Modes, other: Modes) -> Modes:
    """Two sets of modes with the same poles as one with twice the kernels."""
    weights = torch.cat([one.weights_real, other.weights_real]), torch.cat([one.weights_imag, other.weights_imag])
    pairs = zip(one[4:], other[4:], strict=True)
    reverse = [torch.cat([a, b]) for a, b in pairs if a is not None and b is not None]
    return Modes(one.decay, one.angle, *weights, *reverse)


def evaluate_read_out(modes: Modes, read_out: str, length: int, memo: Memo[tuple[Tensor]] | None = None) -> Tensor:
    """The real kernel [C, H, length] that a read-out makes of the complex one, z[c,h,l] = Σ_n W[c,h,n] Λ_n^l.

    "real", "imag" and "sum" are Re z, Im z and Re z + Im z; "prod" is Re z · Im z; "real_prod" is Re z for the first
    ⌊H/2⌋ channels and the product for the others (`kernel_to_real` of the official code).

    Raises:
        ValueError: for another read-out, and as `evaluate_kernel`.
    """
    if read_out in _READ_OUT_FACTORS:
        return evaluate_kernel(with_read_out(modes, read_out), length, memo)
    if read_out not in _PRODUCTS:
        raise ValueError(f"read_out must be one of {[*_READ_OUT_FACTORS, *_PRODUCTS]}, got {read_out!r}.")
    real, imag = evaluate_kernel(_stacked(modes, with_read_out(modes, "imag")), length, memo).chunk(2)
    half = 0 if read_out == "prod" else real.shape[1] // 2
    return torch.cat([real[:, :half], real[:, half:] * imag[:, half:]], dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half types become float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def evaluate_kernel(modes: Modes, length: int, memo: Memo[tuple[Tensor]] | None = None) -> Tensor:
    """The convolution kernel K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l) for l = 0 … length-1.

    Args:
        modes: poles and weights, float32 or float64.
        length: number of steps, at least 1.
        memo: where the last kernel is kept, so that the same one is not computed twice; None keeps nothing.

    Returns:
        [C, H, length] in the dtype of the weights, within 1e-5 of float64 at every length up to 2^20.

    Raises:
        ValueError: if ``length`` is not positive, shapes do not fit, or a pole or weight is not finite.

    Source: DLR §3 (the kernel of a diagonal linear RNN).

    >>> import math, torch
    >>> decay, angle = torch.tensor([-0.5]), torch.tensor([math.pi])
    >>> evaluate_kernel(Modes(decay, angle, torch.ones(1, 1, 1), torch.zeros(1, 1, 1)), 3)
    tensor([[[ 1.0000, -0.6065,  0.3679]]])
    """
    check_length(length)
    _check_modes(modes)
    named = zip(Modes._fields, modes, strict=True)
    check_finite((f"The {name} of a kernel", part) for name, part in named if part is not None)
    if modes.reverse_real is not None and modes.reverse_imag is not None:
        real = torch.cat([modes.weights_real, modes.reverse_real])
        imag = torch.cat([modes.weights_imag, modes.reverse_imag])
        both = evaluate_kernel(Modes(modes.decay, modes.angle, real, imag), length, memo)
        forward, backward = both.chunk(2)
        return forward + backward.flip(-1)
    C, H, N = modes.weights_real.shape
    shared = modes.decay.dim() == 1
    # G groups of R rows that share their poles: one group of C·H rows, or H groups of C rows.
    decay, angle = modes.decay.reshape(-1, N), modes.angle.reshape(-1, N)
    real, imag = (
        part.reshape(1, C * H, N) if shared else part.transpose(0, 1)
        for part in (modes.weights_real, modes.weights_imag)
    )
    kernel = vandermonde_product(decay, angle, real, imag, length, memo)
    return kernel.reshape(C, H, length) if shared else kernel.transpose(0, 1)


def convolution(modes: Modes, skip: Tensor, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """All steps at once, by one long convolution.

    Args:
        modes: poles and weights of a kernel with a recurrence, float32 or float64.
        skip: D, [C, H].
        u: [B, L, H].
        state: after the steps before these; None is zero.

    Returns:
        y [B, L, C, H], and the state after these steps.
    """
    y = convolve(u, evaluate_kernel(modes, u.shape[1]), None, skip)
    if state is not None:
        y = y + response(modes, state, u.shape[1])
    return y, final_state(modes, u, state)


def scan(
    modes: Modes, skip: Tensor, u: Tensor, state: State | None = None, chunk_length: int = CHUNK_LENGTH
) -> tuple[Tensor, State]:
    """`convolution` of one chunk after another, each from the state of the last: memory grows with the chunk only.

    Raises:
        ValueError: if ``chunk_length`` is not positive, or ``u`` has no steps.
    """
    if chunk_length < 1 or u.shape[1] < 1:
        raise ValueError(f"A scan needs at least one step per chunk, got {chunk_length} for {u.shape[1]} steps.")
    outputs = []
    for chunk in u.split(chunk_length, dim=1):
        y, state = convolution(modes, skip, chunk, state)
        outputs.append(y)
    assert state is not None  # noqa: S101 - there was at least one chunk; this tells the type checker
    return torch.cat(outputs, dim=1), state


def step(
    modes: Modes, skip: Tensor, u: Tensor, state: State | None = None, factors: Tensor | None = None
) -> tuple[Tensor, State]:
    """One step: u [B, H] to y [B, C, H]. The poles act as if in float64, so that their rounding does not compound.

    ``factors`` is `powers_of(modes, 1)`, for who takes many steps; None computes it.

    Raises:
        ValueError: if shapes do not fit, u is not in floating point, or the modes have no recurrence.
    """
    _check_recurrence(modes)
    _check_step(modes, skip, u, state)
    if state is None:
        zero = u.new_zeros(*u.shape, modes.decay.shape[-1])
        state = State(zero + u.unsqueeze(-1), zero)
    else:
        moved = product(powers_of(modes, 1) if factors is None else factors, state)
        state = State(moved.real.add_(u.unsqueeze(-1)), moved.imag)
    real, imag = (part.unsqueeze(1) for part in state)  # [B, 1, H, N]
    y = torch.linalg.vecdot(modes.weights_real, real) - torch.linalg.vecdot(modes.weights_imag, imag)
    return y + skip * u.unsqueeze(1), state


def power(decay: Tensor, angle: Tensor, steps: int | Tensor, like: Tensor) -> Tensor:
    """Λ^steps as `split` has it, [4, N] or [4, H, N]; for steps [B], one power per sequence, [4, B, 1 or H, N]."""
    if isinstance(steps, Tensor):
        steps = steps.to(decay.device).view(-1, 1, 1)
    magnitude, phase = torch.exp(in_float64(decay) * steps), in_float64(angle) * steps
    return split(magnitude * phase.cos(), magnitude * phase.sin(), like)


def powers_of(modes: Modes, steps: int | Tensor) -> Tensor:
    """`power` of the poles, of the kind of the weights."""
    return power(modes.decay, modes.angle, steps, modes.weights_real)


def response(modes: Modes, state: State, length: int) -> Tensor:
    """What a state adds to the next ``length`` outputs, Re(W Λ^{l+1} x): [B, length, C, H].

    It is a kernel whose weights are W Λ x.
    """
    _check_recurrence(modes)
    C, H, N = modes.weights_real.shape
    real, imag = (part.unsqueeze(1) for part in product(powers_of(modes, 1), state))  # [B, 1, H, N]
    W_real, W_imag = modes.weights_real, modes.weights_imag
    seen = Modes(
        modes.decay,
        modes.angle,
        (W_real * real - W_imag * imag).reshape(-1, H, N),
        (W_real * imag + W_imag * real).reshape(-1, H, N),
    )
    return evaluate_kernel(seen, length).unflatten(0, (-1, C)).permute(0, 3, 1, 2)


def final_state(modes: Modes, u: Tensor, state: State | None = None, steps: Tensor | None = None) -> State:
    """The state after the steps u [B, L, H]: Λ^L x + Σ_j Λ^{L-1-j} u_j, in O(L) work per pole and no N × L array.

    ``steps`` [B] says of how many steps Λ^L is the power where some of the L do not count; those have u = 0.
    """
    _check_recurrence(modes)
    B, L, H = u.shape
    N = modes.decay.shape[-1]
    reversed_u = u.transpose(1, 2).flip(-1)
    shared = modes.decay.dim() == 1
    rows = reversed_u.reshape(1, B * H, L) if shared else reversed_u.transpose(0, 1)
    sums = vandermonde_adjoint(modes.decay.reshape(-1, N), modes.angle.reshape(-1, N), rows)
    real, imag = (part.reshape(B, H, N) if shared else part.transpose(0, 1) for part in sums)
    if state is None:
        return State(real, imag)
    before = product(powers_of(modes, L if steps is None else steps), state)
    return State(before.real + real, before.imag + imag)


def check_length(length: int) -> None:
    """Refuse kernels without a step, and those of a traced program, which would keep the length of its example.

    Raises:
        ValueError: naming the length.
        RuntimeError: naming what takes every length.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace would fix the length of sequences: use torch.export, or torch.onnx.export(dynamo=True)."
        )
    if length < 1:
        raise ValueError(f"A kernel has at least one step, got length={length}: pass a sequence that is not empty.")


def _check_modes(modes: Modes) -> None:
    (C, H, N), poles = modes.weights_real.shape, modes.decay.shape
    weights = [part.shape for part in modes[2:] if part is not None]
    if poles not in ((N,), (H, N)) or modes.angle.shape != poles or any(s != (C, H, N) for s in weights):
        raise ValueError(
            "Modes have decay and angle [N] or [H, N] and weights [C, H, N], got "
            f"{[list(part.shape) for part in modes if part is not None]}."
        )


def _check_step(modes: Modes, skip: Tensor, u: Tensor, state: State | None) -> None:
    C, H, N = modes.weights_real.shape
    if u.dim() != 2 or u.shape[1] != H or not u.is_floating_point():
        raise ValueError(f"A step is u [B, {H}] in floating point, got {list(u.shape)} in {u.dtype}.")
    if skip.shape != (C, H):
        raise ValueError(f"skip must have the shape {[C, H]} of kernels and channels, got {list(skip.shape)}.")
    B = u.shape[0]
    if state is not None and any(part.shape != (B, H, N) for part in state):
        raise ValueError(
            f"A state of {B} sequences has the shape {[B, H, N]}, got {list(state.real.shape)}: go on with "
            "the same batch."
        )


def _check_recurrence(modes: Modes) -> None:
    if modes.reverse_real is not None:
        raise ValueError("Modes that are read from the end have no recurrence: only convolve with them.")


def split(real: Tensor, imag: Tensor, like: Tensor) -> Tensor:
    """Float64 numbers as sums of two of the type of ``like``, [4, ...]: Re and Im rounded, then what rounding lost."""
    parts = torch.stack([real, imag])
    rounded = parts.to(like.dtype)
    return torch.cat([rounded, (parts - rounded).to(like.dtype)]).to(like.device)


def product(factors: Tensor, x: State) -> State:
    """The product z x with factors z from `split`: as exact as float64, at the speed of float32."""
    real, imag, real_rest, imag_rest = factors
    # The rests first: after the large products they would be lost to rounding.
    return State(
        (real_rest * x.real)
        .addcmul_(imag_rest, x.imag, value=-1)
        .addcmul_(real, x.real)
        .addcmul_(imag, x.imag, value=-1),
        (real_rest * x.imag).addcmul_(imag_rest, x.real).addcmul_(real, x.imag).addcmul_(imag, x.real),
    )
