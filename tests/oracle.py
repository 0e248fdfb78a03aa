"""The definition, as plain float64 loops in NumPy; every fast path is proved against it. It imports nothing of ours.

The recurrence of DLR (arXiv 2212.00768, §3):

    x_t = Λ x_{t-1} + u_t ,   y_t = Re(W x_t) + D u_t

and, for every parameterisation, the complex kernel z[c,h,l] that its paper writes down, of which a read-out makes K.
"""

from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]


def recurrence(
    poles: np.ndarray, weights: np.ndarray, skip: np.ndarray, u: np.ndarray, state: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run the recurrence step by step.

    Args:
        poles: Λ itself (not its logarithm), complex [N] shared by all channels, or [H, N].
        weights: W, complex [C, H, N].
        skip: D, real [C, H].
        u: real [B, L, H].
        state: x before the first step, complex [B, H, N]; None is 0.

    Returns:
        y, float64 [B, L, C, H], and x after the last step.
    """
    (C, H, N), (B, L, _) = weights.shape, u.shape
    poles = np.broadcast_to(poles, (H, N))
    y, x = np.zeros((B, L, C, H)), np.zeros((B, H, N), dtype=np.complex128) if state is None else state.copy()
    for b in range(B):
        for h in range(H):
            for t in range(L):
                x[b, h] = poles[h] * x[b, h] + u[b, t, h]
                for c in range(C):
                    y[b, t, c, h] = (weights[c, h] @ x[b, h]).real + skip[c, h] * u[b, t, h]
    return y, x


def kernel(log_poles: np.ndarray, weights: np.ndarray, length: int) -> np.ndarray:
    """K[c,h,l] = Re Σ_n W[c,h,n] exp(log Λ_n · l), float64 [C, H, length]."""
    C, H, N = weights.shape
    log_poles = np.broadcast_to(log_poles, (H, N))
    K = np.zeros((C, H, length))
    for c in range(C):
        for h in range(H):
            for step in range(length):
                K[c, h, step] = (weights[c, h] @ np.exp(log_poles[h] * step)).real
    return K


def convolution(kernel: np.ndarray, reverse_kernel: np.ndarray | None, skip: np.ndarray, u: np.ndarray) -> np.ndarray:
    """y[i] = Σ_j K[j] u[i-j] + Σ_j K'[j] u[i+1+j] + D u[i]: kernels [C, H, Lk], u [B, L, H], y [B, L, C, H]."""
    (C, H, taps), (B, L, _) = kernel.shape, u.shape
    y = np.zeros((B, L, C, H))
    for b in range(B):
        for c in range(C):
            for h in range(H):
                for i in range(L):
                    y[b, i, c, h] = skip[c, h] * u[b, i, h]
                    for j in range(taps):
                        if i - j >= 0:
                            y[b, i, c, h] += kernel[c, h, j] * u[b, i - j, h]
                        if reverse_kernel is not None and i + 1 + j < L:
                            y[b, i, c, h] += reverse_kernel[c, h, j] * u[b, i + 1 + j, h]
    return y


def kernel_gradients(
    log_poles: np.ndarray, weights: np.ndarray, G: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Derivatives of Σ G·K by (Re log Λ, Im log Λ, Re W, Im W), each of the shape of what it is the derivative by.

    From the formula: ∂K/∂Re log Λ = Re(W l Λ^l), ∂K/∂Im log Λ = -Im(W l Λ^l), ∂K/∂Re W = Re Λ^l, ∂K/∂Im W = -Im Λ^l.
    """
    (C, H, N), L = weights.shape, G.shape[-1]
    full = np.broadcast_to(log_poles, (H, N))
    d_poles, d_weights = np.zeros((H, N), dtype=np.complex128), np.zeros((C, H, N), dtype=np.complex128)
    for c in range(C):
        for h in range(H):
            for step in range(L):
                power = np.exp(full[h] * step)
                d_weights[c, h] += G[c, h, step] * np.conj(power)
                d_poles[h] += G[c, h, step] * np.conj(weights[c, h] * step * power)
    d_poles = d_poles if log_poles.ndim == 2 else d_poles.sum(0)
    return d_poles.real, d_poles.imag, d_weights.real, d_weights.imag


def dlr(p: Arrays, length: int, version: str) -> np.ndarray:
    """z = Σ_n W exp(log Λ_n l), log Λ = -p² + iω shared by the channels (DLR, §3); what a version lacks is 0."""
    N = p["weights"].shape[2]
    decay = np.zeros(N) if version in ("imag", "imag_real_weight") else p["decay_root"] ** 2
    angle = np.zeros(N) if version == "real_real_weight" else p["angle"]
    weights = p["weights"] if version in ("imag_real_weight", "real_real_weight") else as_complex(p["weights"])
    return sum_of_modes(weights, -decay + 1j * angle, np.arange(length))


def dss(p: Arrays, length: int, version: str, max_pole_real: float = 1e-4) -> np.ndarray:
    """z = Σ_n W~ exp(Δ_h λ_n l): DSS (arXiv 2203.14343, §3), with the constants of the official code."""
    pole = {
        "softmax": lambda: as_complex(p["pole"]),
        "exp": lambda: -np.exp(p["log_decay"]) + 1j * p["frequency"],
        "exp_re_im": lambda: -np.exp(p["log_decay"]) + 1j * np.exp(p["log_frequency"]),
        "exp_no_scale": lambda: -np.exp(p["log_decay"]) + 1j * p["frequency"],
        "exp_no_scale_real": lambda: -np.exp(p["log_decay"]) + 0j,
        "clip": lambda: np.minimum(p["pole"][:, 0], max_pole_real) + 1j * p["pole"][:, 1],
        "clip_no_scale": lambda: np.minimum(p["pole"][:, 0], max_pole_real) + 1j * p["pole"][:, 1],
    }[version]()
    time_step = np.exp(p["log_time_step"])
    for_real, for_imag = (time_step, time_step) if time_step.ndim == 1 else time_step.T
    log_pole = np.outer(for_real, pole.real) + 1j * np.outer(for_imag, pole.imag)
    weights = as_complex(p["weights"])
    if version == "softmax":
        grows = pole.real > 0  # such a mode is summed, and read, from the last step
        falling = np.where(grows, -1, 1) * log_pole
        q = np.expm1(falling * length) * pole
        weights = weights * np.expm1(falling) * q.conj() / (np.abs(q) ** 2 + 1e-7)
        weights = weights * np.exp(np.where(grows, -(length - 1) * log_pole, 0))
    elif version in ("exp", "exp_re_im", "clip"):
        weights = weights * np.expm1(log_pole) * pole.conj() / np.maximum(np.abs(pole) ** 2, 1e-7)
    return sum_of_modes(weights, log_pole, np.arange(length))


def s4d(p: Arrays, length: int, discretization: str) -> np.ndarray:
    """z = 2 Σ_n C B̄ Ā^l for x' = A x + u, y = C x, held constant over a step or bilinear (arXiv 2206.11893, §3)."""
    A, dt = -np.exp(p["log_decay"]) + 1j * p["frequency"], np.exp(p["log_time_step"])[:, None]
    A_bar, B_bar = {
        "zoh": lambda: (np.exp(dt * A), np.expm1(dt * A) / A),
        "bilinear": lambda: ((1 + dt * A / 2) / (1 - dt * A / 2), dt / (1 - dt * A / 2)),
    }[discretization]()
    powers = [A_bar**step for step in range(length)]
    return 2 * np.einsum("chn,lhn->chl", as_complex(p["weights"]) * B_bar, powers)


def sgconv(p: Arrays, length: int) -> np.ndarray:
    """Taps of N steps, then of N, 2N, 4N, ... by linear interpolation, damped by α^i, over their norm (2210.09298)."""
    (S, C, H, N), parts = p["scales"].shape, []
    for i in range(S):
        factor = 2 ** max(0, i - 1)
        at = (np.arange(N * factor) + 0.5) / factor - 0.5
        part = np.array([np.interp(at, np.arange(N), taps) for taps in p["scales"][i].reshape(C * H, N)])
        parts.append(part.reshape(C, H, -1) * p["alpha"][..., None] ** i)
    return np.concatenate(parts, axis=-1)[..., :length] / p["norm"]


def attention(
    p: Arrays, x: np.ndarray, heads: int, causal: bool, window: int | None = None, theta: float = 1e4
) -> np.ndarray:
    """Softmax attention of every step to all, or to its own chunk and those beside it: x [B, L, H] to [B, L, H].

    With rotary positions (arXiv 2104.09864): channels (2m, 2m+1) of a head turn by position · theta^(-2m/d). The
    parameters are those of `DLRAttention` by name.
    """
    (B, L, H), d = x.shape, x.shape[2] // heads
    q, k, v = (x @ p[f"{name}_proj.weight"].T + p[f"{name}_proj.bias"] for name in "qkv")
    y = np.zeros((B, L, H))
    for b in range(B):
        for head in range(heads):
            channels = slice(head * d, (head + 1) * d)
            queries, keys = ([rotated(x[b, i, channels], i, theta) for i in range(L)] for x in (q, k))
            for i in range(L):
                read = [j for j in range(L) if (j <= i or not causal) and _is_near(i, j, window)]
                scores = np.array([p["query_scale"] * queries[i] @ keys[j] for j in read])
                weights = np.exp(scores - scores.max())
                y[b, i, channels] = weights @ v[b, read, channels] / weights.sum()
    return y @ p["o_proj.weight"].T + p["o_proj.bias"]


def _is_near(i: int, j: int, window: int | None) -> bool:
    return window is None or abs(i // window - j // window) <= 1


def rotated(x: np.ndarray, position: int, theta: float) -> np.ndarray:
    """One head's channels [d] at a position."""
    factors = np.exp(1j * position * theta ** (-np.arange(0, len(x), 2) / len(x)))
    pairs = as_complex(x.reshape(-1, 2)) * factors
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(-1)


def read_out(z: np.ndarray, name: str) -> np.ndarray:
    """How a complex kernel [C, H, L] becomes real (`kernel_to_real` of the official code)."""
    half = z.shape[1] // 2
    return {
        "real": lambda: z.real,
        "imag": lambda: z.imag,
        "sum": lambda: z.real + z.imag,
        "prod": lambda: z.real * z.imag,
        "real_prod": lambda: np.concatenate([z[:, :half].real, z[:, half:].real * z[:, half:].imag], axis=1),
    }[name]()


def as_complex(pairs: np.ndarray) -> np.ndarray:
    """[..., 2] to [...]."""
    return pairs[..., 0] + 1j * pairs[..., 1]


def sum_of_modes(weights: np.ndarray, log_poles: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Σ_n W[c,h,n] exp(log Λ[n] or [h,n] · l), complex [C, H, L]."""
    log_poles = np.broadcast_to(log_poles, weights.shape[1:])
    return np.einsum("chn,hnl->chl", weights, np.exp(log_poles[..., None] * steps))


def finite_differences(function: Callable[[Arrays], float], p: Arrays, step: float = 1e-6) -> Arrays:
    """The derivative of a number by every entry of every array, from both sides."""
    gradients = {name: np.zeros_like(value) for name, value in p.items()}
    for name, value in p.items():
        for index in np.ndindex(value.shape):
            moved = [{**p, name: value.copy()} for _ in range(2)]
            for arrays, sign in zip(moved, (1, -1), strict=True):
                arrays[name][index] += sign * step
            gradients[name][index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradients
