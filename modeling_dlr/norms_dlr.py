"""The layers of a block that the configuration chooses by name: norms, activations, gates and dropouts."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from .configuration_dlr import DLRConfig
from .kernel_parameters_dlr import refuse_unknown_names
from .ops_dlr import at_least_float32


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
        wide = at_least_float32(x)  # the square of 300 is infinite in float16
        variance, mean = torch.var_mean(wide, dim=-1, unbiased=False, keepdim=True)
        variance = (variance + self.eps).clamp(min=torch.finfo(wide.dtype).tiny)
        y = self.scale * (wide - mean + self.shift) * variance.rsqrt()
        return y.to(torch.promote_types(x.dtype, self.scale.dtype))


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over all steps of all sequences that are not padding, with nn.BatchNorm1d's names.

    Statistics are taken in at least float32. A batch of padding only leaves the running ones as they are, and so does
    the second forward pass of gradient checkpointing. Each process of a distributed run has statistics of its own
    batches, as with nn.BatchNorm1d; DDP saves those of the first.

    Args:
        hidden_size: H.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, hidden_size: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.register_buffer("running_mean", torch.zeros(hidden_size))
        self.register_buffer("running_var", torch.ones(hidden_size))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, H] to [B, L, H]; statistics over the steps where ``mask`` [B, L] is True."""
        if self.training:
            steps = at_least_float32(x)
            weights = steps.new_ones(*x.shape[:2], 1) if mask is None else mask.unsqueeze(-1).to(steps.dtype)
            count = weights.sum()
            mean = (steps * weights).sum((0, 1)) / count.clamp(min=1)
            variance = ((steps - mean).square() * weights).sum((0, 1)) / count.clamp(min=1)
            if not _is_run_by_backward():
                self._track(mean, variance, count)
        else:
            mean, variance = at_least_float32(self.running_mean), at_least_float32(self.running_var)
        normed = (x - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight + self.bias).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        unbiased = variance * count / (count - 1).clamp(min=1)
        momentum = self.momentum * (count > 0).to(self.running_mean.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        self.num_batches_tracked += 1


def _is_run_by_backward() -> bool:
    """Whether this forward pass is one that gradient checkpointing repeats in the backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def normalise(norm_type: str, norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """``norm`` of x [B, L, H]; only batch statistics need to know which steps are padding.

    By ``config.norm_type``, not by the class of ``norm``: PEFT wraps the modules that it trains.
    """
    return norm(x, mask) if norm_type == "batch" else norm(x)


def build_norm(config: DLRConfig) -> nn.Module:
    """The norm that ``config.norm_type`` names."""
    eps = float(config.layer_norm_eps or 0)
    return {
        "layer": lambda: nn.LayerNorm(config.hidden_size, eps=eps),
        "scalar_layer": lambda: ScalarLayerNorm(eps=eps),
        "batch": lambda: MaskedBatchNorm(config.hidden_size, eps=eps),
    }[config.norm_type]()


class GEGLU(nn.Module):
    """a · gelu(b) for the two halves a, b of the last dimension (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., 2H] to [..., H]."""
        value, gate = x.chunk(2, dim=-1)
        return value * functional.gelu(gate)


class ElementDropout(nn.Dropout):
    """Dropout by comparison with uniform numbers on the CPU, where drawing bits takes ten times as long."""

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        kept = torch.rand(input.shape, dtype=torch.float32, device=input.device) >= self.p
        return input * kept.to(input.dtype).div_(1 - self.p)


class ChannelDropout(nn.Dropout):
    """Drops whole channels of a sequence: what is dropped at one step is dropped at all."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        return functional.dropout1d(input.transpose(1, 2), self.p, self.training).transpose(1, 2)


OUTPUT_GATES: dict[str | None, type[nn.Module]] = {None: nn.Identity, "glu": nn.GLU, "geglu": GEGLU}
DROPOUTS: dict[str, type[nn.Dropout]] = {"element": ElementDropout, "channel": ChannelDropout}


def build_activation(field: str, name: str | None) -> nn.Module:
    """The activation that transformers knows under ``name``; None is the identity."""
    if name is None:
        return nn.Identity()
    refuse_unknown_names(field, [name], ACT2FN)
    return ACT2FN[name]
