"""Parameterisations of the kernel: each is a module that hands over one canonical spectrum (log-poles, weights)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_dlr import complete_kernel_parameters
from .ops_dlr import Spectrum, at_least_float32, evaluate_kernel


class DiagonalKernel(nn.Module, ABC):
    """A convolution kernel K[c,h,l] = Re Σ_n W[c,h,n] Λ_n^l.

    Args:
        num_channels: C, kernels per hidden channel.
        hidden_size: H.
        state_size: N, complex poles.
        kernel_parameters: as in `DLRConfig`; what is left out takes its default.

    Raises:
        ValueError: for an unknown or ill-formed entry of ``kernel_parameters``.
    """

    def __init__(
        self, num_channels: int, hidden_size: int, state_size: int, kernel_parameters: Mapping[str, Any] | None = None
    ):
        super().__init__()
        self.num_channels, self.hidden_size, self.state_size = num_channels, hidden_size, state_size
        self.options = complete_kernel_parameters(kernel_parameters)
        for name, value in self.initial_values().items():
            self.register_parameter(name, nn.Parameter(value))

    @abstractmethod
    def initial_values(self) -> dict[str, Tensor]:
        """A fresh draw of every parameter, by name, float32."""

    @abstractmethod
    def spectrum(self) -> Spectrum:
        """Log-poles [N] or [H, N] and weights [C, H, N], float32 or float64."""

    def forward(self, length: int) -> Tensor:
        """The kernel [C, H, min(length, max_length)]."""
        limit = self.options["max_length"]
        return evaluate_kernel(self.spectrum(), length if limit is None else min(length, limit))


class DLRKernel(DiagonalKernel):
    """DLR (arXiv 2212.00768, §3): log Λ_n = -p_n² + i ω_n shared by all channels, and W free.

    Parameters: ``decay_root`` p [N], ``angle`` ω [N], ``weights`` W [C, H, N, 2] as (real, imaginary).

    >>> DLRKernel(num_channels=1, hidden_size=3, state_size=8)(length=100).shape
    torch.Size([1, 3, 100])
    """

    decay_root: nn.Parameter
    angle: nn.Parameter
    weights: nn.Parameter

    def initial_values(self) -> dict[str, Tensor]:
        N, options = self.state_size, self.options
        log_min, log_max = math.log(options["time_step_min"]), math.log(options["time_step_max"])
        time_step = torch.exp(log_min + (log_max - log_min) * torch.rand(N, dtype=torch.float32))
        angle = {
            "omega": lambda: 2 * math.pi / N * torch.arange(N, dtype=torch.float32),
            "randn": lambda: torch.randn(N, dtype=torch.float32).remainder(2 * math.pi),
        }[options["pole_init"]]()
        std = 1 / N if options["weight_init_std"] is None else options["weight_init_std"]
        weights = std * torch.randn(self.num_channels, self.hidden_size, N, 2, dtype=torch.float32)
        return {"decay_root": (time_step / 2).sqrt(), "angle": angle, "weights": weights}

    def spectrum(self) -> Spectrum:
        decay_root, angle, weights = map(at_least_float32, (self.decay_root, self.angle, self.weights))
        return Spectrum(-decay_root.square(), angle, weights[..., 0], weights[..., 1])


KERNELS: dict[str, type[DiagonalKernel]] = {"dlr": DLRKernel}
