"""Products with the Vandermonde matrix V[n,l] = Λ_n^l = exp(log Λ_n · l), without ever storing it.

With l = aT + b and 0 <= b < T the matrix factors, V[n,aT+b] = C[a,n] F[n,b], so that

    Re Σ_n W[r,n] V[n,aT+b] = Re Σ_n (W[r,n] C[a,n]) F[n,b]

is one matrix product after N (L/T + T) exponentials. The exponents are taken in float64: in float32 the product
angle · l alone is off by a quarter of a radian after a million steps.

G groups of rows share their poles: one group for DLR, a group per channel for DSS and S4D.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers of X = W C that one matrix product works on: 4 MB of float32, so that they stay in the cache.
_NUMBERS_PER_CHUNK = 2**20
_LARGEST_REMEMBERED = 2**26


class _Remembered(NamedTuple):
    inputs: tuple[Tensor, ...]
    product: Tensor
    version: int


class Memo:
    """The last product and its inputs, so that it is computed once per optimizer step and once per frozen model.

    Inputs are compared by value, so that it cannot be stale, however they were changed; only on the CPU, where that
    costs a thousandth of the product. A shorter product is the beginning of a longer one. Copies start empty, and
    `forget` frees the memory, at most 256 MB of float32. Threads may share one: what is remembered is one tuple.
    """

    def __init__(self) -> None:
        self._last: _Remembered | None = None

    def __deepcopy__(self, memo: dict) -> "Memo":
        return Memo()

    def __reduce__(self) -> tuple[type, tuple]:
        return Memo, ()

    def recall(self, inputs: tuple[Tensor, ...], length: int) -> Tensor | None:
        """The product of ``inputs`` if it is remembered, long enough and unchanged, else None."""
        last = self._last
        if last is None or last.product.shape[-1] < length or last.product._version != last.version:
            return None
        same = all(
            old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
            for old, new in zip(last.inputs, inputs, strict=True)
        )
        return last.product[..., :length] if same else None

    def forget(self) -> None:
        """Let go of the product."""
        self._last = None

    def keep(self, inputs: tuple[Tensor, ...], product: Tensor) -> None:
        """Remember a product, unless it is large, or made in inference mode, where tensors do not count changes."""
        if product.device.type == "cpu" and not product.is_inference() and product.numel() <= _LARGEST_REMEMBERED:
            copies = tuple(part.detach().clone() for part in inputs)
            self._last = _Remembered(copies, product.detach(), product._version)


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


def vandermonde_product(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, memo: Memo | None = None
) -> Tensor:
    """Re Σ_n W[g,r,n] exp((decay + i angle)[g,n] · l) for l = 0 … length-1.

    Args:
        decay: [G, N] real.
        angle: [G, N] real.
        real: Re W, [G, R, N], float32 or float64.
        imag: Im W, [G, R, N].
        length: number of columns.
        memo: where the last product is kept; None keeps nothing.

    Returns:
        [G, R, length] in the type of W.
    """
    if torch.compiler.is_compiling():
        return _product_plainly(decay, angle, real, imag, length)
    return _Product.apply(decay, angle, real, imag, length, memo)


def vandermonde_adjoint(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_l g[g,r,l] exp((decay + i angle)[g,n] · l): [G, N] poles and [G, R, L] to two [G, R, N]."""
    if torch.compiler.is_compiling():
        return _adjoint_plainly(decay, angle, g)
    return _Adjoint.apply(decay, angle, g)


def _plain_tables(decay: Tensor, angle: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Re C and Im C [G, 1, A, N], and F [G, 1, 2N, T], in differentiable operations."""
    T = 256
    A = (length + T - 1) // T
    steps = torch.arange(T, dtype=torch.float64, device=decay.device)
    blocks = T * torch.arange(A, dtype=torch.float64, device=decay.device)
    decay, angle = decay.double().unsqueeze(-1), angle.double().unsqueeze(-1)
    fine_real, fine_imag = _exponentials(decay, angle, steps)
    coarse_real, coarse_imag = (part.mT.unsqueeze(1).to(dtype) for part in _exponentials(decay, angle, blocks))
    return coarse_real, coarse_imag, torch.cat([fine_real, -fine_imag], dim=-2).unsqueeze(1).to(dtype)


def _product_plainly(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """`_Product` in one piece, for `torch.compile` and `torch.export`."""
    C_real, C_imag, F = _plain_tables(decay, angle, length, real.dtype)
    real, imag = real.unsqueeze(2), imag.unsqueeze(2)  # [G, R, 1, N]
    X = torch.cat([real * C_real - imag * C_imag, real * C_imag + imag * C_real], dim=-1)
    return (X @ F).flatten(-2)[..., :length]


def _adjoint_plainly(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """`_Adjoint` in one piece, for `torch.compile` and `torch.export`."""
    C_real, C_imag, F = _plain_tables(decay, angle, g.shape[-1], g.dtype)
    T = F.shape[-1]
    blocks = torch.nn.functional.pad(g, (0, C_real.shape[2] * T - g.shape[-1])).unflatten(-1, (-1, T))
    real, minus_imag = (blocks @ F.mT).chunk(2, dim=-1)  # [G, R, A, N]
    return (real * C_real + minus_imag * C_imag).sum(2), (real * C_imag - minus_imag * C_real).sum(2)


class _Product(torch.autograd.Function):
    """`vandermonde_product`, chunk by chunk; only its inputs are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx, decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, memo: Memo | None
    ) -> Tensor:
        inputs = (decay, angle, real, imag)
        ctx.save_for_backward(*inputs)
        if memo is None:
            return _product(*inputs, length)
        product = memo.recall(inputs, length)
        if product is None:
            memo.forget()
            product = _product(*inputs, length)
            memo.keep(inputs, product)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        decay, angle, real, imag = ctx.saved_tensors
        return *_gradients(decay, angle, real, imag, grad), None, None


class _Adjoint(torch.autograd.Function):
    """`vandermonde_adjoint`. Product and adjoint are derivatives of one form, Σ_l g[l] Re(W Λ^l)."""

    @staticmethod
    def forward(ctx, decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(decay, angle, g)
        return _adjoint(decay, angle, g)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_real: Tensor, grad_imag: Tensor):
        decay, angle, g = ctx.saved_tensors
        W = (grad_real, -grad_imag)
        d_decay, d_angle, _, _ = _gradients(decay, angle, *W, g)
        return d_decay, d_angle, _product(decay, angle, *W, g.shape[-1])


def _product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    plan = _Plan(real.shape, length)
    product = real.new_empty(plan.G, plan.R, plan.A * plan.T)
    for groups in plan.group_chunks():
        tables = _Tables(decay[groups], angle[groups], plan, real.dtype)
        for rows in plan.row_chunks():
            X = tables.weighted(real[groups, rows], imag[groups, rows])
            torch.bmm(X.flatten(1, 2), tables.F, out=product[groups, rows].view(X.shape[0], -1, plan.T))
    return product[..., :length]


def _adjoint(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    plan = _Plan((*g.shape[:2], decay.shape[-1]), g.shape[-1])
    g = plan.padded(g)
    real, imag = g.new_empty(plan.G, plan.R, plan.N), g.new_empty(plan.G, plan.R, plan.N)
    for groups in plan.group_chunks():
        tables = _Tables(decay[groups], angle[groups], plan, g.dtype)
        for rows in plan.row_chunks():
            real[groups, rows], imag[groups, rows] = tables.unweighted(tables.correlate(g[groups, rows]))
    return real, imag.neg_()


def _gradients(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of Σ g · Re(W V) by decay, angle, Re W and Im W.

    The factor l of ∂V/∂log Λ splits into b, which meets the small table F, and aT, which meets X: neither needs an
    array of N × L numbers.
    """
    plan = _Plan(real.shape, g.shape[-1])
    g = plan.padded(g)
    d_decay, d_angle = torch.empty_like(decay), torch.empty_like(angle)
    d_real, d_imag = torch.empty_like(real), torch.empty_like(imag)
    for groups in plan.group_chunks():
        tables = _Tables(decay[groups], angle[groups], plan, real.dtype)
        d_F = torch.zeros_like(tables.F)
        log_gradient = real.new_zeros(2, *decay[groups].shape)
        for rows in plan.row_chunks():
            X = tables.weighted(real[groups, rows], imag[groups, rows])
            d_X = tables.correlate(g[groups, rows])
            d_F.baddbmm_(X.flatten(1, 2).mT, g[groups, rows].reshape(X.shape[0], -1, plan.T))
            d_real[groups, rows], d_imag[groups, rows] = tables.unweighted(d_X)
            log_gradient += tables.coarse_log_gradient(X, d_X)
        d_decay[groups], d_angle[groups] = log_gradient + tables.fine_log_gradient(d_F)
    return d_decay, d_angle, d_real, d_imag


class _Plan:
    """How a kernel of G groups × R rows × L steps is cut: blocks of T steps, chunks of groups and of rows."""

    def __init__(self, shape: tuple[int, ...], length: int):
        self.G, self.R, self.N = shape
        # Filling X costs R·L/T numbers per pole and F costs T: they balance at T = sqrt(R L). Measured: 64 … 1024.
        balanced = 1 << max(0, round((self.R * length) ** 0.5) - 1).bit_length()
        self.T = min(max(balanced, 64), 1024, length)
        self.A = -(-length // self.T)
        self.group_size = min(self.G, max(1, _NUMBERS_PER_CHUNK // (2 * self.N * (self.T + self.A * self.R))))
        self.row_size = max(1, min(self.R, _NUMBERS_PER_CHUNK // (2 * self.N * self.A)))

    def padded(self, g: Tensor) -> Tensor:
        """[G, R, L] to [G, R, A·T]."""
        return torch.nn.functional.pad(g, (0, self.A * self.T - g.shape[-1])).contiguous()

    def group_chunks(self) -> list[slice]:
        """The groups, a few at a time."""
        return [slice(g, min(g + self.group_size, self.G)) for g in range(0, self.G, self.group_size)]

    def row_chunks(self) -> list[slice]:
        """The rows of a group, a few at a time."""
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

    def correlate(self, g: Tensor) -> Tensor:
        """The gradient of X from that of X F: [g, r, A·T] to [g, r, A, 2N]."""
        T = self.F.shape[-1]
        return (g.reshape(g.shape[0], -1, T) @ self.F.mT).view(*g.shape[:2], -1, self.F.shape[1])

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
