"""Normalisation layers of the block, chosen by ``norm_type``."""

import torch
from torch import Tensor, nn

from .configuration_dlr import DLRConfig


class ScalarLayerNorm(nn.Module):
    """The official implementation's norm: y = s (x - mean(x) + m) / std(x) over channels, with two scalars s and m.

    The deviation is the biased one; ``eps`` (0 in the official code) is added to the variance. Where the sum would be
    0, as at padded steps whose embedding is 0, it is the smallest number instead: masking a step must leave no NaN.

    Args:
        eps: added to the variance.
    """

    def __init__(self, eps: float = 0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        variance, mean = torch.var_mean(x, dim=-1, unbiased=False, keepdim=True)
        variance = (variance + self.eps).clamp(min=torch.finfo(x.dtype).tiny)
        return self.scale * (x - mean + self.shift) * variance.rsqrt()


def build_norm(config: DLRConfig) -> nn.Module:
    """The norm that ``config.norm_type`` names."""
    eps = float(config.layer_norm_eps or 0)
    return {
        "layer": lambda: nn.LayerNorm(config.hidden_size, eps=eps),
        "scalar_layer": lambda: ScalarLayerNorm(eps=eps),
    }[config.norm_type]()
