"""Products with the Vandermonde matrix V[n,l] = Λ_n^l = exp(log Λ_n · l), without storing the matrix.

Let l = aT + b with 0 <= b < T. Then V[n,aT+b] = coarse[a,n] fine[b,n], so that

    Re Σ_n W[r,n] V[n,aT+b] = Re Σ_n (W[r,n] coarse[a,n]) fine[b,n]

is one matrix product. Both tables are outer products of smaller tables of powers, so that only about N (√T + √(L/T))
exponentials are computed. They are computed in float64 and rounded before they are multiplied, three roundings in all:
in float32, the product angle · l alone is off by a quarter of a radian after a million steps.

The adjoint sums over l instead of n. Both have their derivatives in common: the derivative of Σ_l g[l] Re(W Λ^l) is
Σ_l g[l] Λ^l with respect to W and W Σ_l l g[l] Λ^l with respect to log Λ, so that the backward pass is one adjoint.

G groups of rows share their poles: one group for DLR, one group per channel for DSS and S4D. A table of complex numbers
is one real tensor, [Re | Im] in the last dimension.

Products, tables of decoding and blocks of tokens are used again while the tensors they come from are unchanged. `Memo`
compares every number of these tensors; `Snapshot` compares a few signs of a change in some microseconds.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from .precision_dlr import in_float64, product_with_transposed, rounds_products

# Numbers of the fine table, and of X = W · coarse, that one matrix product reads: on a CPU 4 MB of float32 each, which
# fit the cache, on other devices 256 MB, because every chunk costs them tens of launches.
_NUMBERS_PER_CHUNK, _NUMBERS_PER_CHUNK_ELSEWHERE = 2**20, 2**26
# Shorter lifetimes are not distinguished, and no lifetimes in sequences shorter than four times this.
_SHORTEST_LIFETIME = 2**12
# Numbers of a result that a memo keeps at most: 256 MB of float32.
_LARGEST_RESULT = 2**26
# Numbers of each tensor that a snapshot compares.
_SAMPLE_SIZE = 128

Result = TypeVar("Result", bound=tuple[Tensor, ...])


def first_derivatives(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Decorate the ``backward`` of a `torch.autograd.Function` so that a second derivative raises a RuntimeError.

    torch's `once_differentiable` ignores that the first derivatives depend on the saved tensors: the second derivative
    with respect to a saved tensor is then silently 0.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> tuple:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        return _NoSecondDerivative.apply(len(found), *found, *ctx.saved_tensors, *grads)

    return wrapper


class _NoSecondDerivative(torch.autograd.Function):
    """Return the first ``count`` values as functions of all values."""

    @staticmethod
    def forward(_ctx, count: int, *values: Tensor | int | None) -> tuple:
        return values[:count]

    @staticmethod
    def backward(_ctx, *_):
        raise RuntimeError(
            "A DLR layer has no second derivatives: leave out create_graph=True, or take differences of gradients."
        )


def pole_powers(decay: Tensor, angle: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """exp((decay + i angle) · l) for every l of ``steps``.

    Args:
        decay: [..., N] real.
        angle: [..., N] real.
        steps: [S].

    Returns:
        The real and the imaginary part, each [..., S, N] float64, on the device that `in_float64` uses.
    """
    decay, angle = in_float64(decay).unsqueeze(-2), in_float64(angle).unsqueeze(-2)
    steps = steps.to(decay).unsqueeze(-1)
    magnitude, phase = torch.exp(decay * steps), angle * steps
    return magnitude * phase.cos(), magnitude * phase.sin()


def vandermonde_product(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, known: Tensor | None = None
) -> Tensor:
    """Re Σ_n W[g,r,n] exp((decay + i angle)[g,n] · l) for l = 0 … length-1.

    Args:
        decay: [G, N] real.
        angle: [G, N] real.
        real: Re W, [G, R, N], float32 or float64.
        imag: Im W, [G, R, N].
        length: number of columns.
        known: this product with at least as many columns, from an earlier call with the same values. It is not computed
            again, and only its derivatives are added.

    Returns:
        [G, R, length] in the type of W.
    """
    if torch.compiler.is_compiling():
        return _product_plainly(decay, angle, real, imag, length)
    return _Product.apply(decay, angle, real, imag, length, known)


def vandermonde_adjoint(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_l g[g,r,l] exp((decay + i angle)[g,n] · l): [G, N] poles and [G, R, L] to two [G, R, N]."""
    if torch.compiler.is_compiling():
        return _adjoint_plainly(decay, angle, g)
    return _Adjoint.apply(decay, angle, g)


def _plain_tables(decay: Tensor, angle: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the tables of all poles: real and imaginary part of coarse [G, 1, A, N], and fine [G, 1, 2N, T]."""
    T = 256
    # At least 2 for any length, because torch.export fixes a size that can be 1.
    A = length // T + 2
    steps = torch.arange(T, device=decay.device)
    blocks = T * torch.arange(A, device=decay.device)
    fine_real, fine_imag = pole_powers(decay, angle, steps)
    coarse_real, coarse_imag = (part.unsqueeze(1).to(like) for part in pole_powers(decay, angle, blocks))
    return coarse_real, coarse_imag, torch.cat([fine_real, -fine_imag], dim=-1).mT.unsqueeze(1).to(like)


def _product_plainly(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """`_Product` without chunks and in differentiable operations, for `torch.compile` and `torch.export`."""
    coarse_real, coarse_imag, fine = _plain_tables(decay, angle, length, real)
    real, imag = real.unsqueeze(2), imag.unsqueeze(2)  # [G, R, 1, N]
    X = torch.cat([real * coarse_real - imag * coarse_imag, real * coarse_imag + imag * coarse_real], dim=-1)
    return _exact_product(X, fine).flatten(-2)[..., :length]


def _adjoint_plainly(decay: Tensor, angle: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """`_Adjoint` without chunks and in differentiable operations, for `torch.compile` and `torch.export`."""
    coarse_real, coarse_imag, fine = _plain_tables(decay, angle, g.shape[-1], g)
    T = fine.shape[-1]
    blocks = torch.nn.functional.pad(g, (0, coarse_real.shape[2] * T - g.shape[-1])).unflatten(-1, (-1, T))
    real, minus_imag = _exact_product(blocks, fine.mT).chunk(2, dim=-1)  # [G, R, A, N]
    sums = real * coarse_real + minus_imag * coarse_imag, real * coarse_imag - minus_imag * coarse_real
    return sums[0].sum(2), sums[1].sum(2)


def _exact_product(x: Tensor, y: Tensor) -> Tensor:
    """X @ y, in float64 where torch would round the factors, which a compiled program cannot keep it from."""
    return (x.double() @ y.double()).to(x) if rounds_products() else x @ y


class _Product(torch.autograd.Function):
    """`vandermonde_product`, chunk by chunk. Only its inputs are saved for the backward pass."""

    @staticmethod
    def forward(
        ctx, decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int, known: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(decay, angle, real, imag)
        return _product(decay, angle, real, imag, length) if known is None else known[..., :length]

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


def _gradients(
    decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of Σ_l g[l] Re(W Λ^l) with respect to decay, angle, Re W and Im W."""
    parts = _lifetimes(decay, g.shape[-1], g.dtype)
    if len(parts) == 1:
        moments = _moments(decay, angle, g, 2)
    else:
        moments = g.new_empty(2, 2, *real.shape)
        for poles, steps in parts:
            moments[..., poles] = _moments(decay[:, poles], angle[:, poles], g[..., :steps], 2)
    (d_real, l_real), (d_imag, l_imag) = moments
    d_decay = (real * l_real).addcmul_(imag, l_imag).sum(1)
    d_angle = (real * l_imag).addcmul_(imag, l_real, value=-1).sum(1)
    return d_decay.to(decay), d_angle.to(angle), d_real, d_imag


def _product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """The product, with every mode cut after its lifetime."""
    product = real.new_empty(0)
    for poles, steps in _lifetimes(decay, length, real.dtype):
        part = _product_of_all(decay[:, poles], angle[:, poles], real[..., poles], imag[..., poles], steps)
        if steps == length:
            product = part
        else:
            product[..., :steps] += part
    return product


def _lifetimes(decay: Tensor, length: int, dtype: torch.dtype) -> list[tuple[Tensor | slice, int]]:
    """Pairs of poles and of the steps after which they have decayed: all of ``length``, a quarter, a sixteenth, ….

    The rest of a mode is smaller than the rounding error of its first step. Modes without decay, or with NaN, are never
    cut. Poles that are not shared by all rows form one group.
    """
    quarters = int(math.log2(length / _SHORTEST_LIFETIME)) // 2
    if quarters < 1 or len(decay) > 1 or decay.device.type != "cpu":
        return [(slice(None), length)]
    lifetime = (4 - math.log(torch.finfo(dtype).eps)) / (-decay[0].double()).clamp(min=1e-300)
    times = (length / lifetime).log2().div(2).floor().clamp(0, quarters).nan_to_num(0)
    found = [(times == quarter).nonzero().squeeze(-1) for quarter in range(quarters + 1)]
    return [(poles, -(-length // 4**i)) for i, poles in enumerate(found) if i == 0 or len(poles) > 0]


def _product_of_all(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """The product with all steps of every mode."""
    chunks, X_buffer = _Chunks(real.shape, length, real), _Buffer(real)
    shape = chunks.G, chunks.R, chunks.A * chunks.T
    product = real.new_empty(0) if chunks.are_one else real.new_zeros(shape)
    for groups, poles in chunks.tables:
        coarse, fine = chunks.powers(decay[groups, poles], angle[groups, poles])
        for rows in chunks.rows:
            W = real[groups, rows, poles], imag[groups, rows, poles]
            part = product_with_transposed(_outer_product(W, coarse, X_buffer).flatten(1, 2), fine)
            if chunks.are_one:
                return part.view(shape)[..., :length]
            product[groups, rows].view(part.shape).add_(part)
    return product[..., :length]


def _moments(decay: Tensor, angle: Tensor, g: Tensor, count: int) -> Tensor:
    """Σ_l l^m g[g,r,l] conj(Λ_n)^l for m = 0 … count-1: real and imaginary parts, [2, count, G, R, N]."""
    chunks, g_buffer = _Chunks((*g.shape[:2], decay.shape[-1]), g.shape[-1], g, count), _Buffer(g)
    L = g.shape[-1]
    steps = torch.arange(L, dtype=g.dtype, device=g.device)
    moments = g.new_empty(2, count, chunks.G, chunks.R, chunks.N)
    for groups, poles in chunks.tables:
        coarse, fine = chunks.powers(decay[groups, poles], angle[groups, poles])
        for rows in chunks.rows:
            few = g[groups, rows]
            blocks = g_buffer.part(len(few), count, few.shape[1], chunks.A * chunks.T)
            if blocks.shape[-1] > L:
                blocks[..., L:] = 0
            blocks[:, 0, :, :L] = few
            for m in range(1, count):
                torch.mul(blocks[:, m - 1, :, :L], steps, out=blocks[:, m, :, :L])
            Y = product_with_transposed(blocks.view(len(few), -1, chunks.T), fine.mT)
            Y = Y.view(*blocks.shape[:3], chunks.A, fine.shape[-1])
            sums = torch.stack(_sums_over_blocks(Y, coarse)).transpose(1, 2)
            if chunks.are_one:
                return sums
            moments[:, :, groups, rows, poles] = sums
    return moments


class _Chunks:
    """How G groups × R rows × L steps and N poles are cut into chunks that fit the cache, and memory for their tables.

    Attributes:
        T: steps in a block.
        A: blocks, A · T >= L.
        tables: chunks of groups and poles, each with one pair of tables.
        rows: chunks of the rows of a group.
        are_one: whether one chunk holds everything.

    Args:
        shape: (G, R, N).
        length: L.
        like: gives the type and the device of the tables.
        count: number of moments of every row.
    """

    def __init__(self, shape: tuple[int, ...], length: int, like: Tensor, count: int = 1):
        self.G, self.R, self.N = shape
        # X has R·L/T numbers per pole and the fine table T: they balance at T = sqrt(R L). Fastest in 64 … 1024.
        balanced = 1 << max(0, round((count * self.R * length) ** 0.5) - 1).bit_length()
        self.T = min(max(balanced, 64), 1024, length)
        self.A = -(-length // self.T)
        numbers = numbers_per_chunk(like.device.type)
        poles = _slices(self.N, numbers // (2 * self.T))
        pole_size = poles[0].stop if poles else 1  # none if no mode lasts all steps
        table, row = 2 * pole_size * self.T, count * self.A * max(2 * pole_size, self.T)
        groups = _slices(self.G, numbers // max(table, self.R * row))
        self.tables = [(g, n) for g in groups for n in poles]
        self.rows = _slices(self.R, numbers // row)
        self.are_one = len(self.tables) == len(self.rows) == 1
        self.coarse, self.fine = _Buffer(like), _Buffer(like)

    def powers(self, decay: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """The coarse table, [g, A, 2n], and the conjugate of the fine table, [g, T, 2n]."""
        T, A = self.T, self.A
        parts = [*_factors(range(T)), *_factors(range(0, A * T, T))]
        powers = _powers_at(decay, angle, parts, self.fine.memory)
        powers[:, : len(parts[0]) + len(parts[1]), decay.shape[-1] :].neg_()
        factors = powers.split([len(part) for part in parts], dim=1)
        return _table(factors[2:], self.coarse)[:, :A], _table(factors[:2], self.fine)[:, :T]


def numbers_per_chunk(device_type: str) -> int:
    """The numbers that a table or a factor of a matrix product holds at most on a type of device."""
    return _NUMBERS_PER_CHUNK if device_type == "cpu" else _NUMBERS_PER_CHUNK_ELSEWHERE


def _slices(total: int, largest: int) -> list[slice]:
    """Cut ``total`` into as few parts of equal size as possible, of at most ``largest`` and at least 1."""
    parts = max(1, -(-total // max(1, largest)))
    size = max(1, -(-total // parts))
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


class _Buffer:
    """Memory that all chunks use in turn. Allocating memory for each would take as long as the arithmetic."""

    def __init__(self, like: Tensor):
        self.memory = like.new_empty(0)

    def part(self, *shape: int) -> Tensor:
        """A tensor of this shape, with arbitrary values."""
        if math.prod(shape) > self.memory.numel():
            self.memory = self.memory.new_empty(math.prod(shape))
        return self.memory[: math.prod(shape)].view(shape)


def table_of_powers(decay: Tensor, angle: Tensor, count: int, like: Tensor) -> Tensor:
    """exp((decay + i angle) · l) for l = 0 … count-1: [G, N] to [G, count, 2N] as [Re | Im], typed as ``like``."""
    parts = _factors(range(count))
    powers = _powers_at(decay, angle, parts, like)
    return _table(powers.split([len(part) for part in parts], dim=1), _Buffer(like))[:, :count]


def _factors(steps: range) -> tuple[range, range]:
    """Two ranges of about √len(steps), whose sums begin with ``steps``: Λ^(i + j) is then an outer product."""
    size = 1 << (len(steps).bit_length() // 2)
    return steps[::size], steps[:size]


def _powers_at(decay: Tensor, angle: Tensor, parts: Sequence[range], like: Tensor) -> Tensor:
    """exp((decay + i angle) · l) for l in all parts: [G, N] to [G, S, 2N], rounded to the type of ``like``.

    On CPUs, which are slow with the tiny products of small numbers, those below 1e-15 (in float32) are 0.
    """
    decay, angle = in_float64(decay), in_float64(angle)
    steps = [torch.arange(x.start, x.stop, x.step, dtype=decay.dtype, device=decay.device) for x in parts]
    powers = torch.cat(pole_powers(decay, angle, torch.cat(steps)), dim=-1).to(like)
    if powers.device.type != "cpu":
        return powers
    return functional.hardshrink(powers, torch.finfo(powers.dtype).tiny ** 0.4)


def _table(factors: Sequence[Tensor], buffer: _Buffer) -> Tensor:
    """The complex products of two factors [G, p, 2N] and [G, q, 2N]: [G, p·q, 2N]."""
    x, y = factors
    return _outer_product(x.chunk(2, dim=-1), y, buffer).flatten(1, 2)


def _outer_product(x: tuple[Tensor, ...], y: Tensor, buffer: _Buffer) -> Tensor:
    """The complex products x[g,p,n] y[g,q,n] of two [g, p, n] and [g, q, 2n]: [g, p, q, 2n]."""
    x_real, x_imag = (part.unsqueeze(2) for part in x)
    y_real, y_imag = y.unsqueeze(1).chunk(2, dim=-1)
    product = buffer.part(*x_real.shape[:2], *y.shape[1:])
    real, imag = product.chunk(2, dim=-1)
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


class Snapshot:
    """The signs of some tensors as they are now. Later it tells whether the tensors have changed.

    It detects another tensor or place in memory (weights that were assigned, moved, cast or loaded), writes that torch
    counts (in place, `load_state_dict`, most optimizers), and on the CPU a change of 128 numbers spread over the tensor
    (fused optimizers, edits of ``.data``). It does not detect other writes that torch does not count.
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._parts = []
        for tensor in tensors:
            x, sample = tensor.detach(), None
            if x.device.type == "cpu":
                # An odd step, so that the sample has real and imaginary parts of all modes of weights [C, H, N, 2].
                every = -(-x.numel() // _SAMPLE_SIZE) | 1
                sample = x.view(-1)[::every] if x.is_contiguous() else x
            writes = None if x.is_inference() else x._version
            # x keeps its memory alive, so that no other tensor can take its place.
            self._parts.append((x, _place_of(x), writes, sample, None if sample is None else sample.clone()))

    def is_untouched(self, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether ``tensors`` are those of the snapshot, without a change that it detects."""
        if len(tensors) != len(self._parts):
            return False
        for tensor, (_, place, writes, sample, values) in zip(tensors, self._parts, strict=True):
            if tensor is None or _place_of(tensor) != place or (writes is not None and tensor._version != writes):
                return False
            if sample is not None and not torch.equal(sample, values):
                return False
        return True


def _place_of(tensor: Tensor) -> tuple[Any, ...] | None:
    try:
        return tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()
    except RuntimeError:  # under vmap a tensor has no memory
        return None


class Memo(Generic[Result]):
    """The last result of a computation, with copies of its inputs, of which every number is compared.

    It keeps results on the CPU only, because the comparison would synchronize other devices, and at most 2^26 numbers.
    A copy of a memo is empty. Threads may share a memo, because its entry is one tuple.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Tensor, ...], Result, Snapshot] | None = None

    def __reduce__(self) -> tuple[type, tuple]:
        return Memo, ()

    def get(
        self,
        inputs: tuple[Tensor, ...],
        compute: Callable[[], Result],
        fits: Callable[[Result], bool] = lambda _: True,
    ) -> Result:
        """The last result, if the inputs have the same values, it ``fits``, and no caller wrote into it.

        Otherwise compute it, without a gradient and as tensors that are no inference tensors.
        """
        if (last := self._last) is not None and len(last[0]) == len(inputs):
            same = all(
                old.dtype == new.dtype and old.device == new.device and torch.equal(old, new)
                for old, new in zip(last[0], inputs, strict=True)
            )
            if same and fits(last[1]) and last[2].is_untouched(last[1]):
                return last[1]
        self._last = last = None  # frees the memory of the last result
        with torch.inference_mode(False), torch.no_grad():
            result = compute()
            small = sum(part.numel() for part in result) <= _LARGEST_RESULT
            if small and all(part.device.type == "cpu" for part in inputs):
                self._last = tuple(part.detach().clone() for part in inputs), result, Snapshot(result)
        return result
