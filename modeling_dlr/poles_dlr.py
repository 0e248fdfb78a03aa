"""Where poles start, and how continuous poles become discrete: pure functions on real tensors.

Complex numbers are pairs (real, imaginary) of float64 tensors; these arrays are small, [H, N] at most.
"""

import math

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def roots_of_unity(count: int) -> Tensor:
    """2πn/N, [N] float32: the 'omega' angles of DLR (arXiv 2212.00768, §3)."""
    return 2 * math.pi / count * torch.arange(count, dtype=torch.float32)


def multiples_of_pi(count: int) -> Tensor:
    """πn, [N] float32: S4D-Lin (arXiv 2206.11893, §4) and the 'lin' poles of DSS."""
    return math.pi * torch.arange(count, dtype=torch.float32)


def inverse_frequencies(count: int) -> Tensor:
    """(M/π)(M/(2n+1) - 1) with M = 2N, [N] float32: S4D-Inv (arXiv 2206.11893, §4)."""
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
    """Draws whose logarithm is uniform between log ``low`` and log ``high``; returns that logarithm, float32."""
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
    """exp(x) - 1, accurate where x is small."""
    growth, half_sine = torch.expm1(x[0]), torch.sin(x[1] / 2)
    return growth * torch.cos(x[1]) - 2 * half_sine.square(), (growth + 1) * torch.sin(x[1])


def zero_order_hold(pole: Pair, log_pole: Pair, floor: float = 0.0) -> Pair:
    """(exp(log_pole) - 1) / pole, the gain of an input held constant over a step; |pole|² is at least ``floor``."""
    return divided(expm1(log_pole), pole, floor=floor)


def bilinear(pole: Pair, time_step: Tensor) -> tuple[Pair, Pair]:
    """log((1 + aΔ/2) / (1 - aΔ/2)) and the gain Δ / (1 - aΔ/2)."""
    half = (pole[0] * time_step / 2, pole[1] * time_step / 2)
    below = (1 - half[0], -half[1])
    discrete = divided((1 + half[0], half[1]), below)
    log_pole = (torch.log(discrete[0].square() + discrete[1].square()) / 2, torch.atan2(discrete[1], discrete[0]))
    return log_pole, divided((time_step.expand_as(half[0]), torch.zeros_like(half[0])), below)


def logarithm(pole: Pair) -> Pair:
    """Log z: log |z| and the principal angle; of 0, that of 1e-30, whose powers are 1 and then vanish."""
    real, imag = pole
    real = real + 1e-30 * ((real == 0) & (imag == 0))
    return (real.square() + imag.square()).log() / 2, torch.atan2(imag, real)
