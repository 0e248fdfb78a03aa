"""The mathematics of diagonal linear RNNs: pure functions on tensors, no module and no configuration.

    x_t = Λ x_{t-1} + u_t ,   y_t = Re(W x_t) + D u_t          (DLR, arXiv 2212.00768, §3)

Three forms compute the same outputs, with one signature, (modes, skip, u, state) -> (y, state):

    convolution   all steps at once, y = K * u + D u, plus the response to the initial state
    scan          the same in chunks, for sequences whose Fourier transforms do not fit the memory
    step          one step of the recurrence above

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

Complex numbers are pairs of real tensors throughout, which can be sharded, exported and cast like any other tensor.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .checks_dlr import all_finite, check_finite, values_are_cheap
from .convolution_dlr import convolve
from .precision_dlr import in_float64
from .vandermonde_dlr import vandermonde_adjoint, vandermonde_product

# Steps in a chunk of `scan`.
CHUNK_LENGTH = 4096

# The arguments of `vandermonde_product` without ``known``.
VandermondeProduct = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
# A complex number as real and imaginary part.
Pair = tuple[Tensor, Tensor]


class State(NamedTuple):
    """The state x_t after some steps: ``real`` and ``imag``, each [B, H, N], float32 or float64."""

    real: Tensor
    imag: Tensor


class Modes(NamedTuple):
    """Poles and weights: what every parameterisation of a kernel computes, and the input of convolution, scan and step.

    Attributes:
        decay: Re log Λ, [N] or [H, N], nepers per step; at most 0, unless a parameterisation says otherwise.
        angle: Im log Λ, same shape, radians per step.
        weights_real: Re W, [C, H, N].
        weights_imag: Im W, [C, H, N].
        reverse_real: Re W', [C, H, N]: weights of Λ^(L-1-l), for modes that start at the last step; or None.
        reverse_imag: Im W', [C, H, N], or None.
    """

    decay: Tensor
    angle: Tensor
    weights_real: Tensor
    weights_imag: Tensor
    reverse_real: Tensor | None = None
    reverse_imag: Tensor | None = None


class Factors(NamedTuple):
    """Complex numbers Re z + i Im z in the form that `advance` multiplies by, nearly as exact as in float64.

    Attributes:
        rounded: [Re z, Im z, -Im z, Re z], [4, B or 1, H or 1, N].
        errors: what rounding has taken from them, likewise.
    """

    rounded: Tensor
    errors: Tensor


# A linear read-out multiplies the weights by a complex number: Im z = Re(-i z), and Re z + Im z = Re((1-i) z).
_READ_OUT_FACTORS: dict[str, tuple[int, int]] = {"real": (1, 0), "imag": (0, -1), "sum": (1, -1)}
_PRODUCTS = ("prod", "real_prod")


def with_read_out(modes: Modes, read_out: str) -> Modes:
    """Modes whose kernel is the linear read-out ("real", "imag" or "sum") of the given modes.

    Raises:
        KeyError: for a read-out that is not linear in the weights.
    """
    a, b = _READ_OUT_FACTORS[read_out]
    if (a, b) == (1, 0):
        return modes

    def scaled(real: Tensor, imag: Tensor) -> Pair:
        return a * real - b * imag, a * imag + b * real

    decay, angle, *weights, reverse_real, reverse_imag = modes
    if reverse_real is None or reverse_imag is None:
        return Modes(decay, angle, *scaled(*weights))
    return Modes(decay, angle, *scaled(*weights), *scaled(reverse_real, reverse_imag))


def _stacked(one: Modes, other: Modes) -> Modes:
    """Join two sets of modes with the same poles into one with twice the kernels."""
    pairs = zip(one[2:], other[2:], strict=True)
    return Modes(one.decay, one.angle, *(torch.cat([a, b]) for a, b in pairs if a is not None and b is not None))


def evaluate_read_out(
    modes: Modes, read_out: str, length: int, vandermonde: VandermondeProduct = vandermonde_product
) -> Tensor:
    """The real kernel [C, H, length] that a read-out makes of the complex kernel z[c,h,l] = Σ_n W[c,h,n] Λ_n^l.

    "real", "imag" and "sum" are Re z, Im z and Re z + Im z. "prod" is Re z · Im z. "real_prod" is Re z for the first
    ⌊H/2⌋ channels and Re z · Im z for the others (`kernel_to_real` of the official code).

    Raises:
        ValueError: for another read-out, and as `evaluate_kernel`.
    """
    if read_out in _READ_OUT_FACTORS:
        return evaluate_kernel(with_read_out(modes, read_out), length, vandermonde)
    if read_out not in _PRODUCTS:
        raise ValueError(f"read_out must be one of {[*_READ_OUT_FACTORS, *_PRODUCTS]}, got {read_out!r}.")
    real, imag = evaluate_kernel(_stacked(modes, with_read_out(modes, "imag")), length, vandermonde).chunk(2)
    half = 0 if read_out == "prod" else real.shape[1] // 2
    return torch.cat([real[:, :half], real[:, half:] * imag[:, half:]], dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half types to float32. float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def evaluate_kernel(modes: Modes, length: int, vandermonde: VandermondeProduct = vandermonde_product) -> Tensor:
    """The convolution kernel K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l) for l = 0 … length-1.

    Args:
        modes: poles and weights, float32 or float64.
        length: number of steps, at least 1.
        vandermonde: computes `vandermonde_product`; a kernel passes a function that remembers the last result.

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
    if modes.reverse_real is not None and modes.reverse_imag is not None:
        real = torch.cat([modes.weights_real, modes.reverse_real])
        imag = torch.cat([modes.weights_imag, modes.reverse_imag])
        both = evaluate_kernel(Modes(modes.decay, modes.angle, real, imag), length, vandermonde)
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
    kernel = vandermonde(decay, angle, real, imag, length)
    _check_finite(kernel, modes)
    return kernel.reshape(C, H, length) if shared else kernel.transpose(0, 1)


def convolution(modes: Modes, skip: Tensor, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Compute all steps at once, by one long convolution.

    Args:
        modes: poles and weights of a kernel with a recurrence, float32 or float64.
        skip: D, [C, H].
        u: [B, L, H].
        state: state after the previous steps; None for zero.

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
    """Compute one chunk after another by `convolution`. The memory needed does not grow with the number of chunks.

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
    modes: Modes, skip: Tensor, u: Tensor, state: State | None = None, factors: Factors | None = None
) -> tuple[Tensor, State]:
    """Compute one step, u [B, H] to y [B, C, H]. Poles are as exact as float64, so that errors do not accumulate.

    ``factors`` is `powers_of(modes, 1)`; None computes it. A caller that takes many steps computes it once.

    Raises:
        ValueError: if shapes do not fit, u is not in floating point, or the modes have no recurrence.
    """
    _check_recurrence(modes)
    _check_step(modes, skip, u, state)
    if state is None:
        zero = u.new_zeros(*u.shape, modes.decay.shape[-1])
        state = State(zero + u.unsqueeze(-1), zero)
    else:
        moved = advance(powers_of(modes, 1) if factors is None else factors, state)
        state = State(moved.real.add_(u.unsqueeze(-1)), moved.imag)
    real, imag = (part.unsqueeze(1) for part in state)  # [B, 1, H, N]
    y = (modes.weights_real * real).addcmul_(modes.weights_imag, imag, value=-1).sum(-1)
    return torch.addcmul(y, skip, u.unsqueeze(1)), state


def power(decay: Tensor, angle: Tensor, steps: int | Tensor, like: Tensor) -> Factors:
    """Λ^steps in the type of ``like``, for poles [N] or [H, N]; for steps [B], one power per sequence."""
    decay, angle = (in_float64(part).reshape(1, -1, part.shape[-1]) for part in (decay, angle))
    if isinstance(steps, Tensor):
        steps = steps.to(decay.device).view(-1, 1, 1)
    phase = angle * steps
    real, imag = phase.cos(), phase.sin()
    numbers = torch.exp(decay * steps) * torch.stack([real, imag, -imag, real])
    rounded = numbers.to(like.dtype)
    return Factors(rounded.to(like.device), (numbers - rounded).to(like.dtype).to(like.device))


def powers_of(modes: Modes, steps: int | Tensor) -> Factors:
    """`power` of the poles, in the type of the weights."""
    return power(modes.decay, modes.angle, steps, modes.weights_real)


def response(modes: Modes, state: State, length: int) -> Tensor:
    """The outputs of the next ``length`` steps for a state and no input, Re(W Λ^{l+1} x): [B, length, C, H].

    They are computed as a kernel with weights W Λ x.
    """
    _check_recurrence(modes)
    C, H, N = modes.weights_real.shape
    real, imag = (part.unsqueeze(1) for part in advance(powers_of(modes, 1), state))  # [B, 1, H, N]
    W_real, W_imag = modes.weights_real, modes.weights_imag
    of_state = Modes(
        modes.decay,
        modes.angle,
        (W_real * real - W_imag * imag).reshape(-1, H, N),
        (W_real * imag + W_imag * real).reshape(-1, H, N),
    )
    return evaluate_kernel(of_state, length).unflatten(0, (-1, C)).permute(0, 3, 1, 2)


def final_state(modes: Modes, u: Tensor, state: State | None = None, steps: Tensor | None = None) -> State:
    """The state after the steps u [B, L, H]: Λ^L x + Σ_j Λ^{L-1-j} u_j, in O(L) work per pole without an N × L array.

    ``steps`` [B] replaces the exponent L if only the last ``steps`` of a sequence are real, and u is 0 before them.
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
    before = advance(powers_of(modes, L if steps is None else steps), state)
    return State(before.real + real, before.imag + imag)


def check_length(length: int) -> None:
    """Refuse a kernel without steps (ValueError), and `torch.jit.trace`, which fixes the length (RuntimeError)."""
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


def _check_finite(kernel: Tensor, modes: Modes) -> None:
    """Refuse modes that are not finite, which their kernel shows."""
    if values_are_cheap(kernel) and not all_finite(kernel.detach()):
        named = zip(Modes._fields, modes, strict=True)
        check_finite((f"The {name} of a kernel", part) for name, part in named if part is not None)


def _check_step(modes: Modes, skip: Tensor, u: Tensor, state: State | None) -> None:
    C, H, N = modes.weights_real.shape
    if u.dim() != 2 or u.shape[1] != H or not u.is_floating_point():
        raise ValueError(f"A step is u [B, {H}] in floating point, got {list(u.shape)} in {u.dtype}.")
    if skip.shape != (C, H):
        raise ValueError(f"skip must have the shape {[C, H]} of kernels and channels, got {list(skip.shape)}.")
    B = u.shape[0]
    if state is not None and any(part.shape != (B, H, N) for part in state):
        raise ValueError(
            f"A state of {B} sequences has the shape {[B, H, N]}, got {list(state.real.shape)}: continue with "
            "the same batch."
        )


def _check_recurrence(modes: Modes) -> None:
    if modes.reverse_real is not None:
        raise ValueError("Modes with reverse weights have no recurrence: use a convolution.")


def advance(factors: Factors, x: State) -> State:
    """Multiply a state by powers of the poles, as exactly as in float64 and as fast as in float32."""
    rounded, errors = factors
    # The small terms come first, because they would be lost if they were added to the large ones.
    product = errors[:2] * x.real
    product.addcmul_(errors[2:], x.imag).addcmul_(rounded[:2], x.real).addcmul_(rounded[2:], x.imag)
    return State(product[0], product[1])


def roots_of_unity(count: int) -> Tensor:
    """2πn/N, [N] float32: the initial angles 'omega' of DLR (arXiv 2212.00768, §3)."""
    return 2 * math.pi / count * torch.arange(count, dtype=torch.float32)


def multiples_of_pi(count: int) -> Tensor:
    """πn, [N] float32: the initial frequencies 'lin' of S4D (arXiv 2206.11893, §4) and DSS."""
    return math.pi * torch.arange(count, dtype=torch.float32)


def inverse_frequencies(count: int) -> Tensor:
    """(M/π)(M/(2n+1) - 1) with M = 2N, [N] float32: the initial frequencies 'inv' of S4D (arXiv 2206.11893, §4)."""
    full = 2 * count
    return (full / math.pi * (full / (2 * torch.arange(count, dtype=torch.float64) + 1) - 1)).float()


def hippo_frequencies(count: int) -> Tensor:
    """The N positive frequencies of the skew part of the 2N × 2N HiPPO-LegS matrix, decreasing, [N] float32.

    Source: DSS (arXiv 2203.14343, §4) and S4D-LegS (arXiv 2206.11893, §4).
    """
    root = torch.arange(1, 4 * count, 2, dtype=torch.float64, device="cpu").sqrt()
    lower = torch.outer(root, root).tril(-1)
    frequencies = torch.linalg.eigvals((lower - lower.mT) / 2).imag.sort(descending=True).values[:count]
    return torch.tensor(frequencies.tolist(), dtype=torch.float32)  # on the default device, which may be meta


def log_uniform(low: float, high: float, *shape: int) -> Tensor:
    """Draw logarithms that are uniform between log ``low`` and log ``high``, float32."""
    return math.log(low) + (math.log(high) - math.log(low)) * torch.rand(*shape, dtype=torch.float32)


def times(x: Pair, y: Pair) -> Pair:
    """The complex product."""
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def divided(x: Pair, y: Pair, *, floor: float = 0.0, epsilon: float = 0.0) -> Pair:
    """The complex quotient: x conj(y) / (max(|y|², floor) + epsilon)."""
    size = (y[0].square() + y[1].square()).clamp(min=floor) + epsilon
    real, imag = times(x, (y[0], -y[1]))
    return real / size, imag / size


def expm1(x: Pair) -> Pair:
    """exp(x) - 1, accurate for small x."""
    growth, half_sine = torch.expm1(x[0]), torch.sin(x[1] / 2)
    return growth * torch.cos(x[1]) - 2 * half_sine.square(), (growth + 1) * torch.sin(x[1])


def zero_order_hold(pole: Pair, log_pole: Pair, floor: float = 0.0) -> Pair:
    """(exp(log_pole) - 1) / pole, the gain for an input that is constant during a step; |pole|² >= ``floor``."""
    return divided(expm1(log_pole), pole, floor=floor)


def bilinear(pole: Pair, time_step: Tensor) -> tuple[Pair, Pair]:
    """The log-pole log((1 + aΔ/2) / (1 - aΔ/2)) and the gain Δ / (1 - aΔ/2) of a pole a and a time step Δ."""
    half = (pole[0] * time_step / 2, pole[1] * time_step / 2)
    below = (1 - half[0], -half[1])
    discrete = divided((1 + half[0], half[1]), below)
    log_pole = (torch.log(discrete[0].square() + discrete[1].square()) / 2, torch.atan2(discrete[1], discrete[0]))
    return log_pole, divided((time_step.expand_as(half[0]), torch.zeros_like(half[0])), below)


def logarithm(pole: Pair) -> Pair:
    """Log z as log |z| and the principal angle. Zero is treated as 1e-30, so that it has a logarithm."""
    real, imag = pole
    real = real + 1e-30 * ((real == 0) & (imag == 0))
    return (real.square() + imag.square()).log() / 2, torch.atan2(imag, real)
