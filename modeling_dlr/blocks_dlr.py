"""The block of the model: norm, mixer and residual, with the layers that the configuration chooses by name."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .attention_dlr import DLRAttention
from .cache_dlr import DLRCacheLayer, LookaheadTables, lookahead_tables, stream
from .configuration_dlr import DLRConfig
from .convolution_dlr import convolve
from .kernel_parameters_dlr import refuse_unknown_names
from .kernels_dlr import KERNELS, may_remember, recurrence_of, runs_as_written, tensors_of
from .layout_dlr import ONE_DOCUMENT_PER_ROW, Layout, per_document, take_steps, without_padding
from .ops_dlr import State, at_least_float32
from .vandermonde_dlr import Memo


class ScalarLayerNorm(nn.Module):
    """The norm of the official code: y = s (x - mean(x) + m) / std(x) over channels, with two scalars s and m.

    The variance is the biased one plus ``eps`` (0 in the official code). Where that is 0, as at padded steps, the
    smallest positive number takes its place, so that padding gives no NaN.

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
    """Batch normalisation over all steps of all sequences that are not padding, with the names of nn.BatchNorm1d.

    Statistics are computed in at least float32. The running statistics do not change in a batch of padding only, nor
    in the second forward pass of gradient checkpointing. Each process of a distributed run has the statistics of its
    own batches, as with nn.BatchNorm1d, and DDP saves those of the first process, unless `modeling_dlr.parallel` makes
    the processes add them up.

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
            count = self.add_up(weights.sum())
            mean = self.add_up((steps * weights).sum((0, 1))) / count.clamp(min=1)
            variance = self.add_up(((steps - mean).square() * weights).sum((0, 1))) / count.clamp(min=1)
            if not _is_run_by_backward():
                self._track(mean, variance, count)
        else:
            mean, variance = at_least_float32(self.running_mean), at_least_float32(self.running_var)
        normed = (x - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight + self.bias).to(x.dtype)

    def add_up(self, x: Tensor) -> Tensor:
        """The sum over the processes that share a batch: here there is one."""
        return x

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        unbiased = variance * count / (count - 1).clamp(min=1)
        momentum = self.momentum * (count > 0).to(self.running_mean.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        self.num_batches_tracked += 1


def _is_run_by_backward() -> bool:
    """Whether gradient checkpointing runs this forward pass again during the backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def normalise(norm_type: str, norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply ``norm`` to x [B, L, H]. Only batch norm needs the mask.

    This looks at ``config.norm_type`` and not at the class of ``norm``, because PEFT wraps modules that it trains.
    """
    return norm(x, mask) if norm_type == "batch" else norm(x)


def build_norm(config: DLRConfig) -> nn.Module:
    """Build the norm that ``config.norm_type`` names."""
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
    """Dropout of single numbers. On the CPU it draws uniform numbers, which takes a tenth of the time of nn.Dropout."""

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        kept = torch.rand(input.shape, dtype=torch.float32, device=input.device) >= self.p
        return input * kept.to(input.dtype).div_(1 - self.p)


class ChannelDropout(nn.Dropout):
    """Dropout of whole channels: a channel of a sequence is dropped at all steps or at none."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        return functional.dropout1d(input.transpose(1, 2), self.p, self.training).transpose(1, 2)


OUTPUT_GATES: dict[str | None, type[nn.Module]] = {None: nn.Identity, "glu": nn.GLU, "geglu": GEGLU}
DROPOUTS: dict[str, type[nn.Dropout]] = {"element": ElementDropout, "channel": ChannelDropout}


def build_activation(field: str, name: str | None) -> nn.Module:
    """Build the activation of transformers that has this name; None is the identity."""
    if name is None:
        return nn.Identity()
    refuse_unknown_names(field, [name], ACT2FN)
    return ACT2FN[name]


class Mixer(nn.Module):
    """What follows the mixing of steps in every layer: activation, dropout, output projection and gate (DLR §3)."""

    def __init__(self, config: DLRConfig, channels: int = 1):
        super().__init__()
        H = config.hidden_size
        self.act = build_activation("hidden_act", config.hidden_act)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.out_proj = nn.Linear(H * channels, H if config.output_gate is None else 2 * H)
        self.gate = OUTPUT_GATES[config.output_gate]()


class DLRMixer(Mixer):
    """Mixes the steps by a long convolution with a skip, or by the equivalent recurrence (DLR §3).

    Padding is replaced by zeros, so that it does not reach other steps.
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__(config, config.num_kernel_channels)
        H, gated = config.hidden_size, config.channel_gate_act is not None
        channels = config.num_kernel_channels * (2 if gated else 1)
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled it
        kernel = KERNELS[config.kernel_parameters["kernel_type"]]
        self.kernel = kernel(channels * config.num_directions, H, config.state_size, config.kernel_parameters)
        self.D = nn.Parameter(torch.randn(channels, H))
        self.tables: Memo[LookaheadTables] = Memo()
        self.layer_idx, self.bidirectional = layer_idx, config.bidirectional
        self.channel_gate = build_activation("channel_gate_act", config.channel_gate_act) if gated else None

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; updates the cache."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with maybe_autocast(hidden_states.device.type, enabled=False):
            y = self.mix(hidden_states.to(dtype), layout, cache).to(hidden_states.dtype)
        if self.channel_gate is not None:
            value, gate = y.chunk(2, dim=2)
            y = self.channel_gate(gate) * value
        return self.gate(self.out_proj(self.dropout(self.act(y.flatten(2)))))

    def mix(self, u: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None) -> Tensor:
        """K * u + D u of every document by itself: [B, L, H] in at least float32 to [B, L, C, H]."""
        if layout.documents is not None:
            return per_document(u, layout.documents, self.mix)
        if not u.shape[1]:  # one step of padding, so that every parameter has a gradient, of 0
            return self.mix(functional.pad(u, (0, 0, 0, 1)))[:, :0]
        mask, order = layout.current_mask, layout.order
        if mask is not None:
            u = without_padding(u, mask)
        if order is not None:
            u = take_steps(u, order.steps)
        layer = None if cache is None else cast("DLRCacheLayer", cache.layers[self.layer_idx])
        if layer is None:
            y = self.convolve(u)
        elif layout.in_block or (u.shape[1] == 1 and mask is None and self.begin_block(layer, u[:, 0])):
            y = layer.decode(u[:, 0]).unsqueeze(1)
        else:
            y = self.update_state(layer, u, None if mask is None else mask.sum(1))
        return y if order is None else take_steps(y, order.places)

    def convolve(self, u: Tensor) -> Tensor:
        """K * u + D u: [B, L, H] to [B, L, C, H]."""
        kernel = self.kernel(u.shape[1]).to(u.dtype)
        forward, backward = kernel.chunk(2) if self.bidirectional else (kernel, None)
        return convolve(u, forward, backward, self.D.to(u.dtype))

    def update_state(self, layer: DLRCacheLayer, u: Tensor, counts: Tensor | None) -> Tensor:
        """K * u + D u from the state in a layer of a cache, which is updated; see `stream`."""
        contents = layer.contents()
        state = None if contents is None else State(*contents)
        y, state = stream(recurrence_of(self.kernel), self.D.to(u.dtype), u, state, counts, self.convolve)
        layer.update(*state, u.shape[1])
        return y

    def block_tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters that blocks of tokens are computed from: the kernel's and D; none if there are no blocks.

        There are none while gradients are recorded, and in layers that do not run as written: they use the kernel.
        """
        if torch.is_grad_enabled() or not runs_as_written(self, (DLRMixer,)):
            return ()
        tensors = tensors_of(self.kernel)
        return (*tensors, self.D) if tensors else ()

    def begin_block(self, layer: DLRCacheLayer, u: Tensor) -> bool:
        """Begin a block whose next token is u [B, H], unless one is begun; False if there are no blocks."""
        tensors = self.block_tensors()
        if layer.is_in_block_of(tensors):
            return True
        if not may_remember(tensors):
            return False
        layer.begin_block(self.decoding_tables(), tensors, u)
        return True

    def decoding_tables(self) -> LookaheadTables:
        """The tables of the present kernel and D, remembered until these change."""
        modes = recurrence_of(self.kernel)
        present = (*(part for part in modes if part is not None), self.D)
        return self.tables.get(present, lambda: lookahead_tables(modes, self.D))


class AttentionMixer(Mixer):
    """The papers' baseline: attention with a skip in the place of the convolution, and the same projection."""

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__(config)
        self.attention = DLRAttention(config, layer_idx)

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; updates the cache."""
        y, _ = self.attention(hidden_states, layout, cache)
        return self.gate(self.out_proj(hidden_states + self.dropout(self.act(y))))


MIXERS: dict[str, type[DLRMixer] | type[AttentionMixer]] = {
    "dlr": DLRMixer,
    "full_attention": AttentionMixer,
    "local_attention": AttentionMixer,
}


class DLRBlock(GradientCheckpointingLayer):
    """Norm, mixer and residual. The papers' block has no MLP.

    Args:
        config: of the model.
        layer_idx: counted from 0; the decaying residual depends on it.
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__()
        self.norm, self.norm_type = build_norm(config), config.norm_type
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled it
        self.mixer = MIXERS[config.layer_types[layer_idx]](config, layer_idx)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.norm_first = config.norm_position == "pre"
        scale = (layer_idx + 1) ** -0.5
        self.scales = ((1 - scale**2) ** 0.5, scale) if config.residual_type == "decay" else None

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; updates the cache."""
        x = hidden_states
        if self.norm_first:
            x = normalise(self.norm_type, self.norm, x, layout.current_mask)
        branch = self.dropout(self.mixer(x, layout, cache))
        if self.scales is not None:
            hidden_states, branch = self.scales[0] * hidden_states, self.scales[1] * branch
        y = hidden_states + branch
        return y if self.norm_first else normalise(self.norm_type, self.norm, y, layout.current_mask)
