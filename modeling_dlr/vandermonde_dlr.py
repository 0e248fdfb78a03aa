"""Products with the Vandermonde matrix V[n,l] = Λ_n^l = exp(log Λ_n · l), without ever storing it.

With l = aT + b and 0 <= b < T the matrix factors, V[n,aT+b] = coarse[a,n] fine[b,n], so that

    Re Σ_n W[r,n] V[n,aT+b] = Re Σ_n (W[r,n] coarse[a,n]) fine[b,n]

is one matrix product. Both tables are outer products of smaller tables of powers, so that only about N (√T + √(L/T))
exponentials are computed. They are computed in float64 and rounded before they are multiplied, three roundings in all:
in float32, the product angle · l alone is off by a quarter of a radian after a million steps.

The adjoint sums over l instead of n, and both share their derivatives: Σ_l g[l] Re(W Λ^l) by W is a sum of g[l] Λ^l,
and by log Λ one of l g[l] Λ^l, so that the backward pass is one more adjoint.

G groups of rows share their poles: one group for DLR, a group per channel for DSS and S4D. Complex numbers that are
multiplied lie side by side, [Re | Im] in the last dimension.
"""

import math

import torch
from torch import Tensor

from .derivatives_dlr import first_derivatives
from .memo_dlr import Memo
from .precision_dlr import in_float64
from .products_dlr import product_with_transposed

# Numbers of the fine table, and of X = W · coarse, that one matrix product reads: 4 MB of float32 each fit the cache.
_NUMBERS_PER_CHUNK = 2**20
_LARGEST_REMEMBERED = 2**26
# Modes that fade sooner are not told apart by how long they last, nor are those of sequences not four times as long.
_SHORTEST_LIFETIME = 2**12


def pole_powers(decay: Tensor, angle: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """exp((decay + i angle) · l) for every l of ``steps``.

    Args:
        decay: [..., N] real.
        angle: [..., N] real.
        steps: [S].

    Returns:
        The real and the imaginary part, each [..., S, N] float64, where `in_float64` has the poles.
    """
    decay, angle = in_float64(decay).unsqueeze(-2), in_float64(angle).unsqueeze(-2)
    steps = steps.to(decay).unsqueeze(-1)
    magnitude, phase = torch.exp(decay * steps), angle * steps
    return magnitude * phase.cos(), magnitude * phase.sin()


def vandermonde_product(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, memo: Memo[tuple[Tensor]] | None = None
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


def _plain_tables(decay: Tensor, angle: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coarse table as real and imaginary part [G, 1, A, N], fine table [G, 1, 2N, T], in differentiable operations."""
    T = 256
    # At least 2, whatever the length: torch.export fixes a size that may be 1.
    A = length // T + 2
    steps = torch.arange(T, device=decay.device)
    blocks = T * torch.arange(A, device=decay.device)
    fine_real, fine_imag = pole_powers(decay, angle, steps)
    coarse_real, coarse_imag = (part.unsqueeze(1).to(like) for part in pole_powers(decay, angle, blocks))
    return coarse_real, coarse_imag, torch.cat([fine_real, -fine_imag], dim=-1).mT.unsqueeze(1).to(like)


def _product_plainly(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """`_Product` in one piece, for `torch.compile` and `torch.export`."""
    coarse_real, coarse_imag, fine = _plain_tables(decay, angle, length, real)
    real, imag = real.unsqueeze(2), imag.unsqueeze(2)  # [G, R, 1, N]
    X = torch.cat([real * coarse_real - imag * coarse_imag, real * coarse_imag + imag * coarse_real], dim=-1)
    return (X @ fine).flatten(-2)[..., :length]


def _adjoint_plainly(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """`_Adjoint` in one piece, for `torch.compile` and `torch.export`."""
    coarse_real, coarse_imag, fine = _plain_tables(decay, angle, g.shape[-1], g)
    T = fine.shape[-1]
    blocks = torch.nn.functional.pad(g, (0, coarse_real.shape[2] * T - g.shape[-1])).unflatten(-1, (-1, T))
    real, minus_imag = (blocks @ fine.mT).chunk(2, dim=-1)  # [G, R, A, N]
    sums = real * coarse_real + minus_imag * coarse_imag, real * coarse_imag - minus_imag * coarse_real
    return sums[0].sum(2), sums[1].sum(2)


class _Product(torch.autograd.Function):
    """`vandermonde_product`, chunk by chunk; only its inputs are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx, decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, memo: Memo[tuple[Tensor]] | None
    ) -> Tensor:
        ctx.save_for_backward(decay, angle, real, imag)
        if memo is None or real.device.type != "cpu":
            return _product(decay, angle, real, imag, length)
        return _remembered_product(memo, (decay, angle, real, imag), length)

    @staticmethod
    @first_derivatives
    def backward(ctx, grad: Tensor):
        decay, angle, real, imag = ctx.saved_tensors
        return *_gradients(decay, angle, real, imag, grad), None, None


class _Adjoint(torch.autograd.Function):
    """`vandermonde_adjoint`."""

    @staticmethod
    def forward(ctx, decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(decay, angle, g)
        real, minus_imag = _moments(decay, angle, g, 1)[:, 0]
        return real, minus_imag.neg()

    @staticmethod
    @first_derivatives
    def backward(ctx, grad_real: Tensor, grad_imag: Tensor):
        decay, angle, g = ctx.saved_tensors
        W = (grad_real, -grad_imag)
        d_decay, d_angle, _, _ = _gradients(decay, angle, *W, g)
        return d_decay, d_angle, _product(decay, angle, *W, g.shape[-1])


def _remembered_product(
    memo: Memo[tuple[Tensor]], inputs: tuple[Tensor, Tensor, Tensor, Tensor], length: int
) -> Tensor:
    """`_product`, computed once per optimizer step and once per frozen model, on the CPU.

    There the comparison costs a thousandth of the product. A shorter product is the beginning of a longer one. At most
    256 MB of float32 are remembered, and nothing of inference mode, where tensors do not count changes.
    """
    kept = memo.recall(inputs)
    if kept is not None and kept[0].shape[-1] >= length:
        return kept[0][..., :length]
    memo.forget()
    product = _product(*inputs, length)
    if not product.is_inference() and product.numel() <= _LARGEST_REMEMBERED:
        memo.keep(inputs, (product.detach(),))
    return product


def _gradients(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of Σ_l g[l] Re(W Λ^l) by decay, angle, Re W and Im W."""
    moments = g.new_empty(2, 2, *real.shape)
    for poles, steps in _lifetimes(decay, g.shape[-1], g.dtype):
        moments[..., poles] = _moments(decay[:, poles], angle[:, poles], g[..., :steps], 2)
    (d_real, l_real), (d_imag, l_imag) = moments
    d_decay = (real * l_real).addcmul_(imag, l_imag).sum(1)
    d_angle = (real * l_imag).addcmul_(imag, l_real, value=-1).sum(1)
    return d_decay.to(decay), d_angle.to(angle), d_real, d_imag


def _product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    (poles, _), *fading = _lifetimes(decay, length, real.dtype)
    product = _whole_product(decay[:, poles], angle[:, poles], real[..., poles], imag[..., poles], length)
    for poles, steps in fading:
        product[..., :steps] += _whole_product(
            decay[:, poles], angle[:, poles], real[..., poles], imag[..., poles], steps
        )
    return product


def _lifetimes(decay: Tensor, length: int, dtype: torch.dtype) -> list[tuple[Tensor | slice, int]]:
    """Which poles count for how many steps: the first all ``length``, and others a quarter of it, or a quarter of that.

    What is left out of a mode is smaller than what rounding leaves of its beginning. Undamped modes never fade, and
    poles that are not shared by the rows are not told apart.
    """
    quarters = int(math.log2(length / _SHORTEST_LIFETIME)) // 2
    if quarters < 1 or len(decay) > 1 or decay.device.type != "cpu":
        return [(slice(None), length)]
    lifetime = (4 - math.log(torch.finfo(dtype).eps)) / (-decay[0].double()).clamp(min=1e-300)
    times = (length / lifetime).log2().div(2).floor().clamp(0, quarters)
    found = [(times == quarter).nonzero().squeeze(-1) for quarter in range(quarters + 1)]
    return [(poles, -(-length // 4**i)) for i, poles in enumerate(found) if i == 0 or len(poles) > 0]


def _whole_product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    plan = _Plan(real.shape, length)
    tables, X_buffer = _Tables(plan, real), _Buffer(real)
    product = real.new_zeros(plan.G, plan.R, plan.A * plan.T)
    for groups, poles in plan.table_chunks():
        coarse, fine = tables.of(decay[groups, poles], angle[groups, poles])
        for rows in plan.row_chunks():
            W = torch.cat([real[groups, rows, poles], imag[groups, rows, poles]], dim=-1)
            X = _outer_product(W, coarse, X_buffer).flatten(1, 2)
            product[groups, rows].view(*X.shape[:2], plan.T).add_(product_with_transposed(X, fine))
    return product[..., :length]


def _moments(decay: Tensor, angle: Tensor, g: Tensor, count: int) -> Tensor:
    """Σ_l l^m g[g,r,l] conj(Λ_n)^l for m = 0 … count-1: real and imaginary parts, [2, count, G, R, N]."""
    plan = _Plan((*g.shape[:2], decay.shape[-1]), g.shape[-1], count)
    tables, g_buffer = _Tables(plan, g), _Buffer(g)
    steps = torch.arange(plan.length, dtype=g.dtype, device=g.device)
    moments = g.new_empty(2, count, plan.G, plan.R, plan.N)
    for groups, poles in plan.table_chunks():
        coarse, fine = tables.of(decay[groups, poles], angle[groups, poles])
        for rows in plan.row_chunks():
            few = g[groups, rows]
            blocks = g_buffer.part(len(few), count, few.shape[1], plan.A * plan.T)
            blocks[..., plan.length :] = 0
            blocks[:, 0, :, : plan.length] = few
            for m in range(1, count):
                torch.mul(blocks[:, m - 1, :, : plan.length], steps, out=blocks[:, m, :, : plan.length])
            Y = product_with_transposed(blocks.view(len(few), -1, plan.T), fine.mT)
            Y = Y.view(*blocks.shape[:3], plan.A, fine.shape[-1])
            for part, sums in zip(moments, _sums_over_blocks(Y, coarse), strict=True):
                part[:, groups, rows, poles] = sums.transpose(0, 1)
    return moments


class _Plan:
    """How G groups × R rows × L steps and N poles are cut: blocks of T steps, and chunks of groups, poles and rows.

    ``count`` is the number of moments that are taken of every row.
    """

    def __init__(self, shape: tuple[int, ...], length: int, count: int = 1):
        (self.G, self.R, self.N), self.length = shape, length
        # X holds R·L/T numbers per pole and the fine table T: they balance at T = sqrt(R L). Measured: 64 … 1024.
        balanced = 1 << max(0, round((count * self.R * length) ** 0.5) - 1).bit_length()
        self.T = min(max(balanced, 64), 1024, length)
        self.A = -(-length // self.T)
        self.pole_size = _part_of(self.N, _NUMBERS_PER_CHUNK // (2 * self.T))
        table, row = 2 * self.pole_size * self.T, count * self.A * max(2 * self.pole_size, self.T)
        self.group_size = _part_of(self.G, _NUMBERS_PER_CHUNK // max(table, self.R * row))
        self.row_size = _part_of(self.R, _NUMBERS_PER_CHUNK // row)

    def table_chunks(self) -> list[tuple[slice, slice]]:
        """A few groups and poles at a time."""
        poles = _slices(self.N, self.pole_size)
        return [(groups, few) for groups in _slices(self.G, self.group_size) for few in poles]

    def row_chunks(self) -> list[slice]:
        """The rows of a group, a few at a time."""
        return _slices(self.R, self.row_size)


def _part_of(total: int, largest: int) -> int:
    """The size of equal parts of ``total``, as few as are not larger than ``largest``; at least 1."""
    parts = max(1, -(-total // max(1, largest)))
    return max(1, -(-total // parts))


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


class _Buffer:
    """Memory in which one chunk after another is computed: getting fresh memory costs as much as the arithmetic."""

    def __init__(self, like: Tensor):
        self.memory = like.new_empty(0)

    def part(self, *shape: int) -> Tensor:
        """A tensor of this shape, whose values are those of whatever was there before."""
        if math.prod(shape) > self.memory.numel():
            self.memory = self.memory.new_empty(math.prod(shape))
        return self.memory[: math.prod(shape)].view(shape)


class _Tables:
    """The powers of one chunk of poles after another."""

    def __init__(self, plan: _Plan, like: Tensor):
        self.plan, self.coarse, self.fine = plan, _Buffer(like), _Buffer(like)

    def of(self, decay: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """The powers at l = aT, [g, A, 2n], and the conjugate powers at l = b, [g, T, 2n]."""
        T, A = self.plan.T, self.plan.A
        return _table(in_float64(decay) * T, in_float64(angle) * T, A, self.coarse), _table(decay, -angle, T, self.fine)


def table_of_powers(decay: Tensor, angle: Tensor, count: int, like: Tensor) -> Tensor:
    """exp((decay + i angle) · l) for l = 0 … count-1: [G, N] to [G, count, 2N] as [Re | Im], as ``like`` is."""
    return _table(decay, angle, count, _Buffer(like))


def _table(decay: Tensor, angle: Tensor, count: int, buffer: _Buffer) -> Tensor:
    """`table_of_powers` in the memory and the type of a buffer."""
    # l = iS + j: the table is the outer product of two tables of about sqrt(count) entries.
    inner = 1 << (count.bit_length() // 2)
    outer = -(-count // inner)
    steps = torch.cat([inner * torch.arange(outer), torch.arange(inner)])
    small = torch.cat(pole_powers(decay, angle, steps), dim=-1).to(buffer.memory)
    return _outer_product(small[:, :outer], small[:, outer:], buffer).flatten(1, 2)[:, :count]


def _outer_product(x: Tensor, y: Tensor, buffer: _Buffer) -> Tensor:
    """The products of x [g, p, 2n] and y [g, q, 2n] pole by pole, [g, p, q, 2n]."""
    product = buffer.part(*x.shape[:2], *y.shape[1:])
    real, imag = product.chunk(2, dim=-1)
    (x_real, x_imag), (y_real, y_imag) = x.unsqueeze(2).chunk(2, dim=-1), y.unsqueeze(1).chunk(2, dim=-1)
    torch.mul(x_real, y_real, out=real).addcmul_(x_imag, y_imag, value=-1)
    torch.mul(x_real, y_imag, out=imag).addcmul_(x_imag, y_real)
    return product


def _sums_over_blocks(Y: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_a Y[a] conj(coarse[a]): [g, m, r, A, 2n] and [g, A, 2n] to two [g, m, r, n]."""
    (Y_real, Y_imag), (coarse_real, coarse_imag) = Y.chunk(2, dim=-1), coarse[:, None, None].chunk(2, dim=-1)
    return (
        (Y_real * coarse_real).addcmul_(Y_imag, coarse_imag).sum(-2),
        (Y_imag * coarse_real).addcmul_(Y_real, coarse_imag, value=-1).sum(-2),
    )
