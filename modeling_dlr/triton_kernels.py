"""Products with the Vandermonde matrix by Triton, for NVIDIA and AMD devices: no table of powers in memory.

    from modeling_dlr.triton_kernels import use_triton

    with use_triton():
        trainer.train()

Each program computes the powers Λ_n^l that it needs in registers. The phase angle · l is an integer product modulo
2^64, where 2^64 is a full turn: exact to 1e-9 radians after a million steps, without float64. Products are in full
float32, whatever torch's settings say.

It is not used unless it is asked for, because its speed has not been measured on a device. Nothing else imports this
file, and Triton is no dependency: it comes with torch for CUDA and ROCm. Configurations and checkpoints do not name it.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from modeling_dlr import vandermonde_dlr

# Poles and steps of a tile, and most rows of it. `tl.dot` needs at least 16 of each.
_POLES, _STEPS, _FEWEST_ROWS, _MOST_ROWS = 32, 64, 16, 64
# Parts of a long sequence whose moments are summed separately, and steps of a part at least.
_MOST_PARTS, _SHORTEST_PART = 16, 1024


@contextlib.contextmanager
def use_triton(*device_types: str) -> Iterator[None]:
    """In this context, all threads compute kernels in float32 and their gradients by Triton.

    Models that run code of a saved folder (``trust_remote_code=True``), and compiled ones, are not affected.

    Args:
        device_types: on which devices; none is "cuda", which is ROCm's name, too.
    """
    usual = vandermonde_dlr._product, vandermonde_dlr._moments

    def is_there(x: Tensor) -> bool:
        return x.device.type in (device_types or ("cuda",)) and x.dtype == torch.float32

    def any_product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
        return (product if is_there(real) else usual[0])(decay, angle, real, imag, length)

    def any_moments(decay: Tensor, angle: Tensor, g: Tensor, count: int) -> Tensor:
        return (moments if is_there(g) else usual[1])(decay, angle, g, count)

    # The files that travel with weights stay small: they do not know of this one.
    vandermonde_dlr._product, vandermonde_dlr._moments = any_product, any_moments
    try:
        yield
    finally:
        vandermonde_dlr._product, vandermonde_dlr._moments = usual


def product(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
    """`vandermonde_product` without its derivatives: [G, N] poles and [G, R, N] weights to [G, R, length] float32."""
    G, R, N = real.shape
    result = real.new_empty(G, R, length)
    if result.numel():
        rows = _rows_of_tile(R)
        grid = (triton.cdiv(length, _STEPS), triton.cdiv(R, rows), G)
        parts = (part.contiguous() for part in (_with_nan_of(angle, decay), turns(angle), real, imag))
        # pyrefly: ignore - it does not know that Triton turns numbers into constants
        _product[grid](*parts, result, R, N, length, ROWS=rows, POLES=_POLES, STEPS=_STEPS)
    return result


def moments(decay: Tensor, angle: Tensor, g: Tensor, count: int) -> Tensor:
    """Σ_l l^m g[g,r,l] conj(Λ_n)^l for m = 0 … count-1 (1 or 2): real and imaginary parts, [2, count, G, R, N]."""
    (G, R, L), N = g.shape, decay.shape[-1]
    steps = max(_SHORTEST_PART, triton.next_power_of_2(triton.cdiv(L, _MOST_PARTS)))
    parts = triton.cdiv(L, steps)
    result = g.new_empty(parts, 2, count, G, R, N)
    if result.numel():
        rows = _rows_of_tile(R)
        grid = (triton.cdiv(N, _POLES) * triton.cdiv(R, rows), parts, G)
        inputs = (part.contiguous() for part in (_with_nan_of(angle, decay), turns(angle), g))
        sizes = {"COUNT": count, "PART": steps, "ROWS": rows, "POLES": _POLES, "STEPS": _STEPS}
        # pyrefly: ignore - likewise
        _moments[grid](*inputs, result, R, N, L, **sizes)
    return result.sum(0)


def turns(angle: Tensor) -> Tensor:
    """Angles in units of 2^-64 of a turn, modulo a full turn: int64."""
    fraction = angle.double() / (2 * math.pi)
    fraction = fraction - fraction.round()  # -1/2 … 1/2
    return (fraction * 2.0**64).clamp(max=2.0**63 - 1024).long()  # 2^63 itself is no int64


def _with_nan_of(angle: Tensor, decay: Tensor) -> Tensor:
    """Decays in float32, NaN where an angle is not finite: `turns` has no number for that."""
    return (decay + 0 * angle).float()


def _rows_of_tile(R: int) -> int:
    return min(max(triton.next_power_of_2(R), _FEWEST_ROWS), _MOST_ROWS)


@triton.jit
def _powers(decay, angle, steps):
    """Re Λ^l and Im Λ^l of decay and angle, in units of `turns`, and int64 steps l."""
    phase = ((angle * steps) >> 32).to(tl.float32) * 1.4629180792671596e-09  # 2π / 2^32
    magnitude = tl.exp(decay * steps.to(tl.float32))
    return magnitude * tl.cos(phase), magnitude * tl.sin(phase)


@triton.jit
def _product(decay, angle, real, imag, result, R, N, L, ROWS: tl.constexpr, POLES: tl.constexpr, STEPS: tl.constexpr):
    """One tile of rows and steps of the product: the sum over all poles."""
    group = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    steps = tl.program_id(0).to(tl.int64) * STEPS + tl.arange(0, STEPS)[None, :]
    reached = tl.minimum(steps, L - 1)  # no power of a growing pole overflows beyond the end
    total = tl.zeros((ROWS, STEPS), dtype=tl.float32)
    for first in range(0, N, POLES):
        column, row = first + tl.arange(0, POLES)[:, None], first + tl.arange(0, POLES)[None, :]
        a = tl.load(decay + group * N + column, mask=column < N, other=0.0)
        b = tl.load(angle + group * N + column, mask=column < N, other=0)
        there = (rows < R) & (row < N)
        w_real = tl.load(real + (group * R + rows) * N + row, mask=there, other=0.0)
        w_imag = tl.load(imag + (group * R + rows) * N + row, mask=there, other=0.0)
        p_real, p_imag = _powers(a, b, reached)
        total = tl.dot(w_real, p_real, total, input_precision="ieee")
        total = tl.dot(-w_imag, p_imag, total, input_precision="ieee")
    tl.store(result + (group * R + rows) * L + steps, total, mask=(rows < R) & (steps < L))


@triton.jit
def _moments(
    decay,
    angle,
    g,
    result,
    R,
    N,
    L,
    COUNT: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    POLES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """One tile of rows and poles of the moments: the sum over one part of the steps."""
    tiles = tl.cdiv(N, POLES)
    group, part = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    poles = (tl.program_id(0) % tiles) * POLES + tl.arange(0, POLES)[None, :]
    a = tl.load(decay + group * N + poles, mask=poles < N, other=0.0)
    b = tl.load(angle + group * N + poles, mask=poles < N, other=0)
    real, imag = tl.zeros((ROWS, POLES), dtype=tl.float32), tl.zeros((ROWS, POLES), dtype=tl.float32)
    l_real, l_imag = tl.zeros((ROWS, POLES), dtype=tl.float32), tl.zeros((ROWS, POLES), dtype=tl.float32)
    for first in range(0, PART, STEPS):
        column = part * PART + first + tl.arange(0, STEPS)[:, None]
        row = part * PART + first + tl.arange(0, STEPS)[None, :]
        few = tl.load(g + (group * R + rows) * L + row, mask=(rows < R) & (row < L), other=0.0)
        p_real, p_imag = _powers(a, b, tl.minimum(column, L - 1))
        real = tl.dot(few, p_real, real, input_precision="ieee")
        imag = tl.dot(-few, p_imag, imag, input_precision="ieee")
        if COUNT == 2:
            few = few * row.to(tl.float32)
            l_real = tl.dot(few, p_real, l_real, input_precision="ieee")
            l_imag = tl.dot(-few, p_imag, l_imag, input_precision="ieee")
    size = tl.num_programs(2).to(tl.int64) * R * N
    place = result + part * 2 * COUNT * size + (group * R + rows) * N + poles
    there = (rows < R) & (poles < N)
    tl.store(place, real, mask=there)
    tl.store(place + COUNT * size, imag, mask=there)
    if COUNT == 2:
        tl.store(place + size, l_real, mask=there)
        tl.store(place + 3 * size, l_imag, mask=there)
