"""The definition, as plain float64 loops in NumPy; every fast path is proved against it. It imports nothing of ours.

The recurrence of DLR (arXiv 2212.00768, §3):

    x_t = Λ x_{t-1} + u_t ,   y_t = Re(W x_t) + D u_t
"""

import numpy as np


def recurrence(poles: np.ndarray, weights: np.ndarray, skip: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Run the recurrence step by step.

    Args:
        poles: Λ itself (not its logarithm), complex [N] shared by all channels, or [H, N].
        weights: W, complex [C, H, N].
        skip: D, real [C, H].
        u: real [B, H, L].

    Returns:
        y, float64 [B, C, H, L].
    """
    (C, H, N), (B, _, L) = weights.shape, u.shape
    poles = np.broadcast_to(poles, (H, N))
    y = np.zeros((B, C, H, L))
    for b in range(B):
        for h in range(H):
            x = np.zeros(N, dtype=np.complex128)
            for t in range(L):
                x = poles[h] * x + u[b, h, t]
                for c in range(C):
                    y[b, c, h, t] = (weights[c, h] @ x).real + skip[c, h] * u[b, h, t]
    return y


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
    """y[i] = Σ_j K[j] u[i-j] + Σ_j K'[j] u[i+1+j] + D u[i]: kernels [C, H, Lk], u [B, H, L], y [B, C, H, L]."""
    (C, H, taps), (B, _, L) = kernel.shape, u.shape
    y = np.zeros((B, C, H, L))
    for b in range(B):
        for c in range(C):
            for h in range(H):
                for i in range(L):
                    y[b, c, h, i] = skip[c, h] * u[b, h, i]
                    for j in range(taps):
                        if i - j >= 0:
                            y[b, c, h, i] += kernel[c, h, j] * u[b, h, i - j]
                        if reverse_kernel is not None and i + 1 + j < L:
                            y[b, c, h, i] += reverse_kernel[c, h, j] * u[b, h, i + 1 + j]
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
