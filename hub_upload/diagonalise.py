"""Convert S4 kernels (arXiv 2111.00396, 2206.11893) to the minimal S4D, by an eigendecomposition in float64.

S4 has a state matrix A = diag(Λ) - Σ_r P_r P_r^* and its conjugate, an input B and an output C, discretised by the
bilinear rule. With A = V diag(λ) V^-1, a diagonal state space with poles λ and weights (C V)_n (V^-1 B)_n has the same
kernel. The eigenvectors of HiPPO-LegS are nearly parallel, so its weights are large and cancel. The resulting error in
the wanted precision is measured against the recurrence with the full matrix, and a large error is refused.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

# The tensors of a kernel with their axes. Axes with the same letter have the same size; complex numbers are pairs.
_AXES = {"C": "CHn2", "A_real": "Sn", "A_imag": "Sn", "B": "1Sn2", "P": "rSn2", "inv_dt": "H1", "l_kernel": ""}
_OPTIONAL = {"P", "l_kernel"}

LARGEST_RESIDUAL = 1e-4
# Maximum size of all full matrices of one layer (128 MiB in float64: 1,024 channels of 128 states), and of one matrix.
_MOST_NUMBERS = 2**24
_MOST_STATES = 2**10
_STEPS = 1024


class Diagonalised(NamedTuple):
    """A state dict with diagonal kernels only; discretisation and largest error of the converted ones."""

    tensors: dict[str, Tensor]
    discretization: str | None = None
    residual: float | None = None


class StateSpace(NamedTuple):
    """An S4 kernel: complex Λ and B [H, n], P [r, H, n] and C [C, H, n]; time steps [H]; and ``folded_at``.

    After its first call, S4 stores C (I - Ā^L) instead of C; ``folded_at`` is that L, or 0 before the first call.
    """

    diagonal: np.ndarray
    low_rank: np.ndarray
    B: np.ndarray
    C: np.ndarray
    time_step: np.ndarray
    folded_at: int


class Diagonal(NamedTuple):
    """The same kernel as 2 Re Σ_n weights_n B̄_n Ā_n^l: poles with Im >= 0, [H, m], and weights [C, H, m]."""

    poles: np.ndarray
    weights: np.ndarray


def diagonalise(tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Diagonalised:
    """Replace every S4 kernel by one of the minimal S4D; other state dicts do not change.

    Args:
        tensors: a state dict with official names.
        dtype: dtype in which poles and weights will be stored.

    Raises:
        InputError: if a diagonal kernel differs from that of the full matrix by more than 1e-4 of the largest value.
    """
    prefixes = [name.removesuffix("inv_dt") for name in tensors if re.search(r"\bkernel\.inv_dt$", name)]
    if not prefixes:
        return Diagonalised(tensors)
    try:
        with np.errstate(
            all="ignore"
        ):  # numbers that are not finite are refused later, by the residual or with the other parameters
            spaces = {prefix: _read(tensors, prefix) for prefix in prefixes}
            converted, residuals = _all_minimal(spaces, dtype)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"The kernels of S4 cannot be made diagonal ({error}): is the state dict as trained?"
        ) from error
    rest = {name: value for name, value in tensors.items() if not name.startswith(tuple(prefixes))}
    if not residuals:
        return Diagonalised(rest | converted)
    residual = float(np.max(residuals))  # NaN if one of them is NaN
    if not residual <= LARGEST_RESIDUAL:
        cure = "try --dtype float64" if dtype is torch.float32 else "it cannot be kept as a diagonal one"
        raise InputError(
            f"After diagonalisation a kernel of S4 is off by {residual:.1g} of its largest tap, more than "
            f"{LARGEST_RESIDUAL:g}, because the eigenvectors of its matrix are nearly parallel: {cure}."
        )
    return Diagonalised(rest | converted, "bilinear", residual)


def _all_minimal(spaces: dict[str, StateSpace], dtype: torch.dtype) -> tuple[dict[str, Tensor], list[float]]:
    """Compute the parameters of every kernel, and the errors of those that were not diagonal."""
    solved = {prefix: _solve(space) for prefix, space in spaces.items()}
    size = max(diagonal.poles.shape[-1] for diagonal in solved.values())
    converted, residuals = {}, []
    for prefix, space in spaces.items():
        kept = _minimal(solved[prefix], space.time_step, size, dtype)
        converted |= {prefix + name: value for name, value in kept.items()}
        if len(space.low_rank):
            residuals.append(_residual(space, kept))
    return converted, residuals


def _read(tensors: dict[str, Tensor], prefix: str) -> StateSpace:
    """Read the kernel whose tensor names begin with ``prefix``; poles shared by several channels are repeated."""
    _check(tensors, prefix)
    real = {name: tensors[prefix + name].double().numpy() for name in ("A_real", "A_imag", "inv_dt")}
    B, C = (_complex(tensors[prefix + name]) for name in ("B", "C"))
    H, n = C.shape[-2], C.shape[-1]
    P = _complex(tensors[prefix + "P"]) if prefix + "P" in tensors else np.zeros((0, 1, n), complex)
    folded = tensors.get(prefix + "l_kernel")
    return StateSpace(
        diagonal=_repeated(-np.exp(real["A_real"]) - 1j * real["A_imag"], H),
        low_rank=_repeated(P, H),
        B=_repeated(B, H)[0],
        C=C,
        time_step=np.exp(real["inv_dt"]).reshape(-1),
        folded_at=0 if folded is None else int(folded),
    )


def _check(tensors: dict[str, Tensor], prefix: str) -> None:
    """Refuse a kernel with a missing tensor, a wrong shape, or numbers that are not finite."""
    missing = [name for name in _AXES if name not in _OPTIONAL and prefix + name not in tensors]
    if missing:
        raise InputError(f"The kernel of S4 under {prefix!r} lacks {missing}: is the state dict whole?")
    sizes = {"1": 1, "2": 2}
    for name, axes in _AXES.items():
        if prefix + name in tensors:
            _check_tensor(prefix + name, tensors[prefix + name], axes, sizes)
    if sizes["H"] % sizes["S"]:
        raise InputError(
            f"{prefix}C has {sizes['H']} channels, which must be a multiple of the {sizes['S']} of {prefix}A_real."
        )
    states = 2 * sizes["n"]
    if prefix + "P" in tensors and (states > _MOST_STATES or sizes["H"] * states**2 > _MOST_NUMBERS):
        raise InputError(
            f"{prefix}C has {sizes['H']} channels of {states} states, which are too many to be made diagonal: at most "
            f"{_MOST_STATES:,} states, and {_MOST_NUMBERS:,} numbers in the matrices of a layer."
        )
    if prefix + "l_kernel" in tensors and tensors[prefix + "l_kernel"] < 0:
        raise InputError(f"{prefix}l_kernel must be a length, got {int(tensors[prefix + 'l_kernel'])}.")


def _check_tensor(name: str, value: Tensor, axes: str, sizes: dict[str, int]) -> None:
    """Refuse a tensor whose axes differ from ``sizes``; new axes are added to ``sizes``."""
    shape = list(value.shape)
    known = [sizes.get(axis, axis) for axis in axes]
    fits = len(shape) == len(axes) and 0 not in shape
    if not fits or any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)):
        raise InputError(f"{name} must be of shape {known}, got {shape}: is the state dict whole?")
    if value.is_complex() or not torch.isfinite(value).all():
        raise InputError(f"{name} must hold real, finite numbers, got {value.dtype}: is the state dict as trained?")


def _complex(value: Tensor) -> np.ndarray:
    return torch.view_as_complex(value.double().contiguous()).numpy()


def _repeated(value: np.ndarray, H: int) -> np.ndarray:
    """Repeat [..., S, n] to [..., H, n]: channel h has the poles with index h mod S."""
    return np.concatenate([value] * (H // value.shape[-2]), axis=-2)


def _matrices(space: StateSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build real A [H, 2n, 2n], B [H, 2n] and C [C, H, 2n] in the basis √2 (real parts, imaginary parts)."""
    n = space.diagonal.shape[-1]
    both = [np.concatenate([part, part.conj()], axis=-1) for part in (space.diagonal, space.low_rank)]
    A = both[0][:, :, None] * np.eye(2 * n) - np.einsum("rhn,rhm->hnm", both[1], both[1].conj())
    one = np.eye(n)
    unitary = np.block([[one, one], [-1j * one, 1j * one]]) / np.sqrt(2)
    A = (unitary @ A @ unitary.conj().T).real
    B = np.sqrt(2) * np.concatenate([space.B.real, space.B.imag], axis=-1)
    C = np.sqrt(2) * np.concatenate([space.C.real, -space.C.imag], axis=-1)
    return A, B, C


def _solve(space: StateSpace) -> Diagonal:
    """Compute poles and weights: for a conjugate pair, one pole and the mean weight; for a real pole, half its weight.

    The mean matters: rounding changes the weights of nearly parallel eigenvectors, but hardly their sum.
    """
    if not len(space.low_rank):
        return Diagonal(space.diagonal, space.B * space.C)
    A, B, C = _matrices(space)
    poles, vectors = (part.astype(complex) for part in np.linalg.eig(A))
    inputs = np.linalg.solve(vectors, B[..., None].astype(complex))[..., 0]
    weights = np.einsum("chm,hmn->chn", C, vectors) * inputs
    if space.folded_at:
        half = poles * space.time_step[:, None] / 2
        weights = weights / (1 - ((1 + half) / (1 - half)) ** space.folded_at)
    real = poles.imag == 0
    conjugate = np.where(
        real, weights, np.roll(weights, -1, axis=-1)
    ).conj()  # eig returns the two poles of a pair next to each other
    weights = np.where(real, 0.5, 1.0) * (weights + conjugate) / 2
    kept = max(int((row.imag >= 0).sum()) for row in poles)
    order = np.argsort(poles.imag < 0, axis=-1, kind="stable")[:, :kept]
    poles, weights = np.take_along_axis(poles, order, -1), np.take_along_axis(weights, order[None], -1)
    return Diagonal(poles, np.where(poles.imag < 0, 0, weights))


def _minimal(diagonal: Diagonal, time_step: np.ndarray, size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters of the minimal S4D, padded to ``size`` with poles of weight 0."""
    width = ((0, 0), (0, size - diagonal.poles.shape[-1]))
    poles = np.pad(diagonal.poles, width, constant_values=-1)
    weights = np.pad(diagonal.weights, ((0, 0), *width))
    found = {
        "C": np.stack([weights.real, weights.imag], axis=-1),
        "log_dt": np.log(time_step),
        "log_A_real": np.log(-poles.real),
        "A_imag": poles.imag,
    }
    return {name: torch.from_numpy(value).to(dtype) for name, value in found.items()}


def _residual(space: StateSpace, kept: dict[str, Tensor]) -> float:
    """The largest error of the stored kernel, relative to the largest value of the full matrix's kernel."""
    A, B, C = _matrices(space)
    steps = min(space.folded_at or _STEPS, _STEPS)
    time_step = space.time_step[:, None, None]
    half, one = A * time_step / 2, np.eye(A.shape[-1])
    forward = np.linalg.solve(one - half, one + half)
    state = np.linalg.solve(one - half, time_step * B[..., None])
    if space.folded_at:
        C = np.linalg.solve((one - np.linalg.matrix_power(forward, space.folded_at)).swapaxes(-1, -2), C[..., None])[
            ..., 0
        ]
    taps = []
    for _ in range(steps):
        taps.append(np.einsum("chn,hn->ch", C, state[..., 0]))
        state = forward @ state
    expected = np.stack(taps, axis=-1)
    real, imag, log_dt = (kept[name].double().numpy() for name in ("log_A_real", "A_imag", "log_dt"))
    half = (-np.exp(real) + 1j * imag) * np.exp(log_dt)[:, None] / 2
    weights = _complex(kept["C"]) * (np.exp(log_dt)[:, None] / (1 - half))
    powers = ((1 + half) / (1 - half))[..., None] ** np.arange(steps)
    actual = 2 * np.einsum("chn,hnl->chl", weights, powers).real
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
