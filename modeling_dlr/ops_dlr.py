"""The mathematics of diagonal linear RNNs: pure functions on tensors, no module and no configuration.

    x_t = Λ x_{t-1} + u_t ,   y_t = Re(W x_t) + D u_t          (DLR, arXiv 2212.00768, §3)

Glossary
--------
==================  =====================================================================================
``B``               sequences in a batch
``L``               steps in a sequence
``H``               channels of the hidden state (``hidden_size``)
``N``               poles, i.e. complex states, of a kernel (``state_size``)
``C``               kernels per channel: one per direction
``Λ`` (``Lambda``)  the diagonal of the recurrence. Kept as log Λ = ``decay`` + i ``angle``, both real,
                    [N] when all channels share their poles (DLR) or [H, N] (DSS, S4D)
``W``               read-out weights, [C, H, N] complex, kept as a real and an imaginary tensor
``K``               the convolution kernel, K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l)
==================  =====================================================================================

Complex numbers are pairs of real tensors throughout: they shard, export and cast as any other tensor.

The kernel is a matrix product. With l = aT + b and 0 <= b < T,

    K[c,h,aT+b] = Re Σ_n (W[c,h,n] exp(log Λ_n aT)) exp(log Λ_n b) = Re Σ_n X[a,c,h,n] F[n,b] ,

so that only N (L/T + T) exponentials are needed, and nothing of size N × L is ever stored. The exponents are taken in
float64: in float32 the product angle · l alone is off by a quarter of a radian after a million steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of X (in numbers) that one matrix product works on: 4 MB of float32, so that they stay in the cache.
_NUMBERS_PER_CHUNK = 2**20


class Spectrum(NamedTuple):
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


# Linear read-outs are turns of the weights: Im z = Re(-i z), and Re z + Im z = Re((1-i) z).
_TURNS: dict[str, tuple[int, int]] = {"real": (1, 0), "imag": (0, -1), "sum": (1, -1)}


def turned(spectrum: Spectrum, read_out: str) -> Spectrum:
    """The spectrum whose real part is the linear read-out ("real", "imag" or "sum") of the given one.

    Raises:
        KeyError: for a read-out that is not linear in the weights.
    """
    a, b = _TURNS[read_out]

    def turn(real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
        return a * real - b * imag, a * imag + b * real

    if a == 1 and b == 0:
        return spectrum
    decay, angle, *weights, reverse_real, reverse_imag = spectrum
    if reverse_real is None or reverse_imag is None:
        return Spectrum(decay, angle, *turn(*weights))
    return Spectrum(decay, angle, *turn(*weights), *turn(reverse_real, reverse_imag))


def evaluate_read_out(spectrum: Spectrum, read_out: str, length: int) -> Tensor:
    """The real kernel [C, H, length] that a read-out makes of the complex one, z[c,h,l] = Σ_n W[c,h,n] Λ_n^l.

    "real", "imag" and "sum" are Re z, Im z and Re z + Im z; "prod" is Re z · Im z; "real_prod" is Re z for the first
    ⌊H/2⌋ channels and the product for the others (`kernel_to_real` of the official code).
    """
    if read_out in _TURNS:
        return evaluate_kernel(turned(spectrum, read_out), length)
    parts = zip(spectrum[2:], turned(spectrum, "imag")[2:], strict=True)
    stacked = [None if real is None or imag is None else torch.cat([real, imag]) for real, imag in parts]
    real, imag = evaluate_kernel(Spectrum(spectrum.decay, spectrum.angle, *stacked), length).chunk(2)
    half = 0 if read_out == "prod" else real.shape[1] // 2
    return torch.cat([real[:, :half], real[:, half:] * imag[:, half:]], dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half types become float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def powers(decay: Tensor, angle: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """exp((decay + i angle) · l) for l = 0 … count-1, in float64.

    Args:
        decay: [..., N] real.
        angle: [..., N] real.
        count: number of powers.

    Returns:
        The real and the imaginary part, each [..., N, count] float64.
    """
    decay, angle = decay.double().unsqueeze(-1), angle.double().unsqueeze(-1)
    if count <= 64:
        return _exponentials(decay, angle, torch.arange(count, dtype=torch.float64, device=decay.device))
    # l = iS + j: the table is the outer product of two tables of about sqrt(count) entries.
    inner = 1 << (count.bit_length() // 2)
    steps = torch.arange(0, count, inner, dtype=torch.float64, device=decay.device)
    outer_real, outer_imag = (part.unsqueeze(-1) for part in _exponentials(decay, angle, steps))
    steps = torch.arange(inner, dtype=torch.float64, device=decay.device)
    inner_real, inner_imag = (part.unsqueeze(-2) for part in _exponentials(decay, angle, steps))
    real = outer_real * inner_real - outer_imag * inner_imag
    imag = outer_real * inner_imag + outer_imag * inner_real
    return real.flatten(-2)[..., :count], imag.flatten(-2)[..., :count]


def _exponentials(decay: Tensor, angle: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    magnitude, phase = torch.exp(decay * steps), angle * steps
    return magnitude * phase.cos(), magnitude * phase.sin()


def evaluate_kernel(spectrum: Spectrum, length: int) -> Tensor:
    """The convolution kernel K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l) for l = 0 … length-1.

    Args:
        spectrum: poles and weights, float32 or float64.
        length: number of steps, at least 1.

    Returns:
        [C, H, length] in the dtype of the weights, within 1e-5 of float64 at every length up to 2^20.

    Raises:
        ValueError: if ``length`` is not positive.

    Source: DLR §3 (the kernel of a diagonal linear RNN).

    >>> import math, torch
    >>> decay, angle = torch.tensor([-0.5]), torch.tensor([math.pi])
    >>> evaluate_kernel(Spectrum(decay, angle, torch.ones(1, 1, 1), torch.zeros(1, 1, 1)), 3)
    tensor([[[ 1.0000, -0.6065,  0.3679]]])
    """
    if length < 1:
        raise ValueError(f"A kernel has at least one step, got length={length}: pass a sequence that is not empty.")
    if spectrum.reverse_real is not None and spectrum.reverse_imag is not None:
        real = torch.cat([spectrum.weights_real, spectrum.reverse_real])
        imag = torch.cat([spectrum.weights_imag, spectrum.reverse_imag])
        forward, backward = evaluate_kernel(Spectrum(spectrum.decay, spectrum.angle, real, imag), length).chunk(2)
        return forward + backward.flip(-1)
    C, H, N = spectrum.weights_real.shape
    shared = spectrum.decay.dim() == 1
    # G groups of R rows that share their poles: one group of C·H rows, or H groups of C rows.
    decay, angle = spectrum.decay.reshape(-1, N), spectrum.angle.reshape(-1, N)
    real, imag = (
        part.reshape(1, C * H, N) if shared else part.transpose(0, 1)
        for part in (spectrum.weights_real, spectrum.weights_imag)
    )
    if torch.compiler.is_compiling():
        kernel = _evaluate_plainly(decay, angle, real, imag, length)
    else:
        kernel = _KernelEvaluation.apply(decay, angle, real, imag, length)
    return kernel.reshape(C, H, length) if shared else kernel.transpose(0, 1)


def _evaluate_plainly(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """`_KernelEvaluation` in one piece and in differentiable operations, for `torch.compile` and `torch.export`."""
    T = 256
    A = (length + T - 1) // T
    steps = torch.arange(T, dtype=torch.float64, device=decay.device)
    blocks = T * torch.arange(A, dtype=torch.float64, device=decay.device)
    decay, angle = decay.double().unsqueeze(-1), angle.double().unsqueeze(-1)
    fine_real, fine_imag = (part.to(real.dtype) for part in _exponentials(decay, angle, steps))
    coarse = _exponentials(decay, angle, blocks)
    coarse_real, coarse_imag = (part.mT.unsqueeze(1).to(real.dtype) for part in coarse)  # [G, 1, A, N]
    real, imag = real.unsqueeze(2), imag.unsqueeze(2)  # [G, R, 1, N]
    X = torch.cat([real * coarse_real - imag * coarse_imag, real * coarse_imag + imag * coarse_real], dim=-1)
    F = torch.cat([fine_real, -fine_imag], dim=-2)  # [G, 2N, T]
    return (X @ F.unsqueeze(1)).flatten(-2)[..., :length]


class _KernelEvaluation(torch.autograd.Function):
    """[G, N] poles and [G, R, N] weights to [G, R, L] kernels, chunk by chunk, with the derivative in closed form.

    Only the inputs are kept for the backward pass. The factor l of ∂K/∂log Λ splits into b, which meets the small
    table F, and aT, which meets X; so neither pass needs an array of N × L numbers.
    """

    @staticmethod
    def forward(ctx, decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(decay, angle, real, imag)
        ctx.length = length
        plan = _Plan(decay, real, length)
        kernel = real.new_empty(real.shape[0], real.shape[1], plan.A * plan.T)
        for groups in plan.group_chunks():
            tables = _Tables(decay[groups], angle[groups], plan, real.dtype)
            for rows in plan.row_chunks():
                X = tables.weighted(real[groups, rows], imag[groups, rows])
                out = kernel[groups, rows].view(X.shape[0], -1, plan.T)
                torch.bmm(X.flatten(1, 2), tables.F, out=out)
        return kernel[..., :length]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        decay, angle, real, imag = ctx.saved_tensors
        plan = _Plan(decay, real, ctx.length)
        grad = torch.nn.functional.pad(grad, (0, plan.A * plan.T - ctx.length)).contiguous()
        d_decay, d_angle = torch.empty_like(decay), torch.empty_like(angle)
        d_real, d_imag = torch.empty_like(real), torch.empty_like(imag)
        for groups in plan.group_chunks():
            tables = _Tables(decay[groups], angle[groups], plan, real.dtype)
            d_F = torch.zeros_like(tables.F)
            log_gradient = real.new_zeros(2, *decay[groups].shape)
            for rows in plan.row_chunks():
                X = tables.weighted(real[groups, rows], imag[groups, rows])  # [g, r, A, 2N]
                G = grad[groups, rows].reshape(X.shape[0], -1, plan.T)
                d_X = (G @ tables.F.mT).view(X.shape)
                d_F.baddbmm_(X.flatten(1, 2).mT, G)
                d_real[groups, rows], d_imag[groups, rows] = tables.unweighted(d_X)
                log_gradient += tables.coarse_log_gradient(X, d_X)
            d_decay[groups], d_angle[groups] = log_gradient + tables.fine_log_gradient(d_F)
        return d_decay, d_angle, d_real, d_imag, None


class _Plan:
    """How a kernel of G groups × R rows × L steps is cut: blocks of T steps, chunks of groups and of rows."""

    def __init__(self, decay: Tensor, real: Tensor, length: int):
        self.G, self.R, self.N = real.shape
        # Filling X costs R·L/T numbers per pole and F costs T: they balance at T = sqrt(R L). Measured: 64 … 1024.
        balanced = 1 << max(0, round((self.R * length) ** 0.5) - 1).bit_length()
        self.T = min(max(balanced, 64), 1024, length)
        self.A = -(-length // self.T)
        self.group_size = min(self.G, max(1, _NUMBERS_PER_CHUNK // (2 * self.N * (self.T + self.A * self.R))))
        self.row_size = min(self.R, max(1, _NUMBERS_PER_CHUNK // (2 * self.N * self.A)))

    def group_chunks(self):
        return [slice(g, min(g + self.group_size, self.G)) for g in range(0, self.G, self.group_size)]

    def row_chunks(self):
        return [slice(r, min(r + self.row_size, self.R)) for r in range(0, self.R, self.row_size)]


class _Tables:
    """The exponentials of some groups: C [g, A, N] at l = aT, and F = [Re; -Im] [g, 2N, T] at l = b."""

    def __init__(self, decay: Tensor, angle: Tensor, plan: _Plan, dtype: torch.dtype):
        fine = powers(decay, angle, plan.T)
        coarse = powers(decay.double() * plan.T, angle.double() * plan.T, plan.A)
        self.F = torch.cat([fine[0], -fine[1]], dim=-2).to(dtype)
        self.C_real, self.C_imag = (part.mT.to(dtype).contiguous() for part in coarse)
        self.steps = torch.arange(plan.T, dtype=dtype, device=decay.device)
        self.blocks = plan.T * torch.arange(plan.A, dtype=dtype, device=decay.device)

    def weighted(self, real: Tensor, imag: Tensor) -> Tensor:
        """X = W C as [Re | Im], [g, r, A, 2N]."""
        g, r, N = real.shape
        X = real.new_empty(g, r, self.C_real.shape[1], 2 * N)
        real, imag, C_real, C_imag = real.unsqueeze(2), imag.unsqueeze(2), self.C_real[:, None], self.C_imag[:, None]
        torch.mul(real, C_real, out=X[..., :N]).addcmul_(imag, C_imag, value=-1)
        torch.mul(real, C_imag, out=X[..., N:]).addcmul_(imag, C_real)
        return X

    def unweighted(self, d_X: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of W from that of X, two [g, r, N]."""
        d_real, d_imag = d_X.chunk(2, dim=-1)
        C_real, C_imag = self.C_real[:, None], self.C_imag[:, None]
        return (
            (d_real * C_real).addcmul_(d_imag, C_imag).sum(2),
            (d_imag * C_real).addcmul_(d_real, C_imag, value=-1).sum(2),
        )

    def coarse_log_gradient(self, X: Tensor, d_X: Tensor) -> Tensor:
        """What the factors exp(log Λ aT) add to the gradient of (decay, angle), [2, g, N]."""
        (X_real, X_imag), (d_real, d_imag) = X.chunk(2, dim=-1), d_X.chunk(2, dim=-1)
        d_decay = (d_real * X_real).addcmul_(d_imag, X_imag).sum(1)  # [g, A, N]
        d_angle = (d_imag * X_real).addcmul_(d_real, X_imag, value=-1).sum(1)
        return torch.stack([torch.einsum("gan,a->gn", part, self.blocks) for part in (d_decay, d_angle)])

    def fine_log_gradient(self, d_F: Tensor) -> Tensor:
        """What the factors exp(log Λ b) add to the gradient of (decay, angle), [2, g, N]."""
        (F_real, minus_F_imag), (d_real, minus_d_imag) = self.F.chunk(2, dim=-2), d_F.chunk(2, dim=-2)
        d_decay = (d_real * F_real).addcmul_(minus_d_imag, minus_F_imag)
        d_angle = (d_real * minus_F_imag).addcmul_(minus_d_imag, F_real, value=-1)
        return torch.stack([d_decay @ self.steps, d_angle @ self.steps])
