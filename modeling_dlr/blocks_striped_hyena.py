"""The blocks of Evo-1 and StripedHyena-7B: gated long convolution or attention, each followed by an MLP.

The long filter of a channel is h[t] = Re Σ_n R_n P_n^t: a diagonal linear recurrence, computed by the operations of
`ops_dlr`. Modules have the names of the published weights. Without a gradient, long sequences are computed piece by
piece, so that a block needs little more memory than its input and output.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .attention_dlr import PADDING_POSITION, attend, check_not_exported, rotate, visible
from .cache_dlr import HyenaCacheLayer, stream
from .configuration_striped_hyena import StripedHyenaConfig
from .convolution_dlr import convolve
from .layout_dlr import ONE_DOCUMENT_PER_ROW, Layout, per_document, take_steps, without_padding
from .ops_dlr import Factors, Modes, State, at_least_float32, evaluate_kernel, log_uniform, logarithm, powers_of, step
from .precision_dlr import in_float64
from .vandermonde_dlr import Memo

# Numbers of an activation to compute at a time without a gradient: 32 MB of float32.
_NUMBERS_PER_PIECE = 2**23
# Numbers of a long filter to compute at a time, and the fewest channels: two lines of the processor's cache.
_NUMBERS_PER_FILTER, _FEWEST_CHANNELS = 2**21, 64


def at_once() -> bool:
    """Whether to compute in one piece: a backward pass saves every piece, and traced programs have no loops."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()


def piece_length(x: Tensor, width: int) -> int:
    """The number of steps of x [B, L, H] to compute at a time if each gives ``width`` numbers."""
    return x.shape[1] if at_once() else max(1, _NUMBERS_PER_PIECE // max(1, x.shape[0] * width))


def in_pieces(function: Callable[..., Tensor], width: int, *inputs: Tensor) -> Tensor:
    """Apply ``function`` to tensors [B, L, ...], some steps at a time; it computes ``width`` numbers for each step."""
    L, size = inputs[0].shape[1], piece_length(inputs[0], width)
    if size >= L:
        return function(*inputs)
    first = function(*(x[:, :size] for x in inputs))
    output = first.new_empty(first.shape[0], L, *first.shape[2:])
    output[:, :size] = first
    for start in range(size, L, size):
        output[:, start : start + size] = function(*(x[:, start : start + size] for x in inputs))
    return output


def short_filter(
    x: Tensor, taps: Tensor, recent: Tensor | None = None, padding: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A short causal filter for each channel, y[t] = Σ_{s<S} taps[:,s] x[t-S+1+s].

    It is computed by shifts, because a convolution of torch takes several times as long on a CPU.

    Args:
        x: [B, L, C], zero at padding, which comes first in each row.
        taps: [C, S]; the last one multiplies the present step.
        recent: [B, S-1, C], the inputs before these steps, the oldest first; None is zero.
        padding: [B], the number of steps of padding; ``recent`` is inserted after them. None is no padding.

    Returns:
        y [B, L, C], undefined at padding, and the last S-1 inputs that are not padding, [B, S-1, C].
    """
    (B, L, C), before = x.shape, taps.shape[1] - 1
    if recent is None or padding is None:
        x = torch.cat([x.new_zeros(B, before, C) if recent is None else recent, x], dim=1)
    else:
        x = functional.pad(x, (0, 0, before, 0))
        places = padding.unsqueeze(1) + torch.arange(before, device=x.device)
        x = x.scatter(1, places.unsqueeze(-1).expand(-1, -1, C), recent)
    y = x[:, :L] * taps[:, 0]
    for shift in range(1, before + 1):
        y = torch.addcmul(y, x[:, shift : shift + L], taps[:, shift])
    return y, x[:, L:].clone()


class StripedHyenaRMSNorm(nn.Module):
    """g x / (√mean(x²) + eps), or g x / √(mean(x²) + eps) with ``use_flash_rmsnorm``, in at least float32."""

    def __init__(self, config: StripedHyenaConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.eps, self.under_root = float(config.eps), config.use_flash_rmsnorm

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        wide = at_least_float32(x)
        square = wide.square().mean(-1, keepdim=True)
        root = (square + self.eps).sqrt() if self.under_root else square.sqrt() + self.eps
        # If eps is 0, the norm of a step of zeros is 0.
        return (self.scale * (wide / root.clamp(min=torch.finfo(wide.dtype).tiny))).to(x.dtype)


class StripedHyenaMLP(nn.Module):
    """l3(act(l1 x) · l2 x)."""

    def __init__(self, config: StripedHyenaConfig):
        super().__init__()
        H, inner = config.hidden_size, config.inner_mlp_size or 0  # None only until __post_init__ has set it
        self.l1, self.l2 = nn.Linear(H, inner, bias=False), nn.Linear(H, inner, bias=False)
        self.l3 = nn.Linear(inner, H, bias=False)
        self.act = ACT2FN[config.mlp_activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        return self.l3(self.act(self.l1(x)) * self.l2(x))


class StripedHyenaFilter(nn.Module):
    """The short and the long filter of a block.

    Poles P and residues R are free complex numbers as (re, im); they are the only parameters that stay float32 in a
    model of a half type, where a pole of 0.999 would be 1.
    """

    def __init__(self, config: StripedHyenaConfig):
        super().__init__()
        H, groups = config.hidden_size, config.hyena_filter_groups
        exact = torch.promote_types(torch.float32, torch.get_default_dtype())
        shape = (H // groups, config.state_size, 1, 2)
        self.short_filter_weight = nn.Parameter(torch.zeros(3 * H, 1, config.short_filter_length))
        self.short_filter_bias = nn.Parameter(torch.zeros(3 * H)) if config.short_filter_bias else None
        self.poles = nn.Parameter(torch.zeros(shape, dtype=exact))
        self.residues = nn.Parameter(torch.zeros(shape, dtype=exact))
        self.D = nn.Parameter(torch.zeros(H))
        self.channels_per_filter = groups
        self.remembered: Memo[tuple[Tensor, ...]] = Memo()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StripedHyenaFilter":
        # Every cast and move of torch calls this method.
        exact = {id(x) for pair in ((p, p.grad) for p in (self.poles, self.residues)) for x in pair if x is not None}

        def unrounded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            rounded = id(tensor) in exact and torch.promote_types(moved.dtype, torch.float32) != moved.dtype
            return tensor.to(moved.device) if rounded else moved

        return super()._apply(unrounded, recurse)

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise the parameters. Poles are inside the unit circle and decay within two to a thousand steps."""
        shape = self.poles.shape[:-1]
        angle = 2 * torch.pi * torch.rand(shape)
        magnitude = (-log_uniform(1e-3, 0.5, *shape).exp()).exp()
        init.copy_(self.poles, torch.stack([magnitude * angle.cos(), magnitude * angle.sin()], dim=-1))
        init.normal_(self.residues, std=self.poles.shape[1] ** -0.5)
        init.normal_(self.D)
        bound = self.short_filter_weight.shape[-1] ** -0.5
        init.uniform_(self.short_filter_weight, -bound, bound)
        if self.short_filter_bias is not None:
            init.zeros_(self.short_filter_bias)

    def modes(self) -> Modes:
        """The long filters as log-poles [H, N] and weights [1, H, N]."""
        poles, residues = in_float64(self.poles).squeeze(-2), at_least_float32(self.residues).squeeze(-2)
        if self.channels_per_filter > 1:
            poles, residues = (x.repeat_interleave(self.channels_per_filter, dim=0) for x in (poles, residues))
        decay, angle = logarithm((poles[..., 0], poles[..., 1]))
        return Modes(decay, angle, residues[None, ..., 0], residues[None, ..., 1])

    def filter_short(self, p: Tensor, recent: Tensor | None, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The short filter of p [B, L, 3H], in at least float32, and its last inputs; see `short_filter`."""
        taps = at_least_float32(self.short_filter_weight[:, 0])
        q, inputs = short_filter(p.to(taps.dtype), taps, None if recent is None else recent.to(taps.dtype), padding)
        if self.short_filter_bias is not None:
            q = q + self.short_filter_bias
        return q, inputs.to(p.dtype)

    def filter_long(
        self, u: Tensor, gate: Tensor, counts: Tensor | None, carries_state: bool, state: State | None
    ) -> tuple[Tensor, State | None]:
        """(h * u + D u) · gate, [B, L, H], and the state after these steps if it ``carries_state``.

        Without a gradient ``gate`` is overwritten, a few channels at a time.

        Args:
            u: [B, L, H]; padding comes first in each row and is zero.
            gate: [B, L, H].
            counts: [B], the number of steps that are not padding; None if no step is padding.
            carries_state: whether the state is needed.
            state: after the earlier steps; None is zero.
        """
        if u.shape[1] == 1 and carries_state:
            return self.step(u, gate, counts, state)
        modes, D = self.modes(), at_least_float32(self.D).unsqueeze(0)
        (B, L, H) = u.shape
        size = H if at_once() else max(_FEWEST_CHANNELS, _NUMBERS_PER_FILTER // max(1, B * L))
        if size >= H:
            return self._filter_long(modes, D, u, gate, counts, carries_state, state)
        states = []
        for start in range(0, H, size):
            h = slice(start, start + size)
            of_h = Modes(modes.decay[h], modes.angle[h], *(w[:, h] for w in modes[2:4] if w is not None))
            before = None if state is None else State(state.real[:, h], state.imag[:, h])
            gate[..., h], after = self._filter_long(
                of_h, D[:, h], u[..., h], gate[..., h], counts, carries_state, before
            )
            states.append(after)
        return gate, State(*(torch.cat(parts, dim=1) for parts in zip(*states, strict=True))) if carries_state else None

    @staticmethod
    def _filter_long(
        modes: Modes,
        D: Tensor,
        u: Tensor,
        gate: Tensor,
        counts: Tensor | None,
        carries_state: bool,
        state: State | None,
    ) -> tuple[Tensor, State | None]:
        wide = u.to(modes.weights_real.dtype)

        def convolve_all(wide: Tensor) -> Tensor:
            return convolve(wide, evaluate_kernel(modes, u.shape[1]), None, D)

        if carries_state:
            y, state = stream(modes, D, wide, state, counts, convolve_all)
        else:
            y = convolve_all(wide)
        return (y[:, :, 0] * gate).to(u.dtype), state

    def step(self, u: Tensor, gate: Tensor, counts: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """The same for one step, [B, 1, H]."""
        modes, factors = self._poles_and_powers()
        wide = u[:, 0].to(modes.weights_real.dtype)
        y, moved = step(modes, at_least_float32(self.D).unsqueeze(0), wide, state, factors)
        if counts is not None and state is not None:  # without a state, the state after padding is 0
            real = (counts > 0).view(-1, 1, 1)
            moved = State(*(torch.where(real, new, old) for new, old in zip(moved, state, strict=True)))
        return (y * gate).to(u.dtype), moved

    def _poles_and_powers(self) -> tuple[Modes, Factors]:
        """The modes and the powers for one step, computed once while the parameters do not change."""
        parameters = (self.poles, self.residues)
        if at_once():
            modes = self.modes()
            return modes, powers_of(modes, 1)

        def compute() -> tuple[Tensor, ...]:
            modes = self.modes()
            # Copies, because these weights are views of the parameters, which training overwrites.
            weights = (part.clone() for part in (modes.weights_real, modes.weights_imag))
            return *powers_of(modes, 1), modes.decay, modes.angle, *weights

        rounded, errors, *parts = self.remembered.get(parameters, compute)
        return Modes(*parts), Factors(rounded, errors)


class StripedHyenaBlock(GradientCheckpointingLayer):
    """x + mix(pre_norm(x)), then x + mlp(post_norm(x))."""

    def __init__(self, config: StripedHyenaConfig):
        super().__init__()
        self.pre_norm, self.post_norm = StripedHyenaRMSNorm(config), StripedHyenaRMSNorm(config)
        self.mlp, self.inner_size = StripedHyenaMLP(config), config.inner_mlp_size or 0

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; updates the cache."""
        if not hidden_states.shape[1]:
            return hidden_states
        mixed = self.mix(hidden_states, layout, cache)
        return in_pieces(lambda x: x + self.mlp(self.post_norm(x)), self.inner_size, mixed)

    def mix(self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None) -> Tensor:
        """The residual branch of the mixer: [B, L, H] to [B, L, H]; updates the cache."""
        raise NotImplementedError


class StripedHyenaConvolutionBlock(StripedHyenaBlock):
    """A block that mixes the steps by x2 · (h * (x1 · v) + D (x1 · v)), where x2, x1, v are projected and filtered."""

    def __init__(self, config: StripedHyenaConfig, layer_idx: int):
        super().__init__(config)
        H = config.hidden_size
        self.projections = nn.Linear(H, 3 * H)
        self.filter = StripedHyenaFilter(config)
        self.out_filter_dense = nn.Linear(H, H)
        self.layer_idx, self.width = layer_idx, 3 * H
        self.heads = config.num_attention_heads if config.column_split_hyena else 1

    def mix(self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None) -> Tensor:
        """Mix every document by itself."""
        if layout.documents is not None:
            return per_document(hidden_states, layout.documents, self.mix)
        keep, order = layout.current_mask, layout.order
        if order is None or keep is None:
            return self._mix(hidden_states, keep, cache)
        mixed = self._mix(take_steps(hidden_states, order.steps), take_steps(keep, order.steps), cache)
        return take_steps(mixed, order.places)

    def _mix(self, x: Tensor, keep: Tensor | None, cache: Cache | None) -> Tensor:
        layer = None if cache is None else cast("HyenaCacheLayer", cache.layers[self.layer_idx])
        contents = None if layer is None else layer.contents()
        gate, u, recent = self._project(x, keep, None if layer is None else layer.recent)
        with maybe_autocast(x.device.type, enabled=False):
            state = None if contents is None else State(*contents)
            counts = None if keep is None else keep.sum(1)
            y, state = self.filter.filter_long(u, gate, counts, layer is not None, state)
        if layer is not None and state is not None:
            layer.update(*state, x.shape[1], recent)
        return in_pieces(lambda x, y: x + self.out_filter_dense(y), self.width, x, y)

    def _project(self, x: Tensor, keep: Tensor | None, recent: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """X [B, L, H] to the gate x2 and to u = x1 · v, both [B, L, H], and the last inputs of the short filter."""
        L, size = x.shape[1], piece_length(x, self.width)
        padding = None if keep is None or recent is None else (~keep).sum(1)
        if size >= L:
            return self._project_piece(x, keep, recent, padding)
        gate = u = None
        for start in range(0, L, size):
            piece = slice(start, min(start + size, L))
            kept = None if keep is None else keep[:, piece]
            before = None if padding is None else (padding - start).clamp(0, piece.stop - start)
            few_gates, few, recent = self._project_piece(x[:, piece], kept, recent, before)
            if gate is None or u is None:
                gate, u = few.new_empty(x.shape), few.new_empty(x.shape)
            gate[:, piece], u[:, piece] = few_gates, few
        assert gate is not None and u is not None and recent is not None  # noqa: S101, PT018 - for the type checker
        return gate, u, recent

    def _project_piece(
        self, x: Tensor, keep: Tensor | None, recent: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = self.projections(self.pre_norm(x))
        p = p if keep is None else without_padding(p, keep)
        with maybe_autocast(x.device.type, enabled=False):
            q, recent = self.filter.filter_short(p, recent, padding)
            gate, x1, v = (part.flatten(2) for part in q.unflatten(2, (self.heads, 3, -1)).unbind(3))
            u = x1 * v if keep is None else without_padding(x1 * v, keep)
            return gate.to(p.dtype), u.to(p.dtype), recent


class StripedHyenaRotary(nn.Module):
    """The rotary frequencies that the published files hold. They are not used, because bfloat16 rounds them too much.

    Whatever was loaded, what is saved are those of the configuration.
    """

    inv_freq: Tensor

    def __init__(self, config: StripedHyenaConfig):
        super().__init__()
        self.head_dim, self.theta = config.head_dim, float(config.rotary_emb_base)
        self.register_buffer("inv_freq", self.frequencies().to(torch.get_default_dtype()))
        self.register_state_dict_post_hook(_write_frequencies)

    def frequencies(self) -> Tensor:
        """theta^(-2i/d) for i = 0 … d/2-1."""
        return self.theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / -self.head_dim)


def _write_frequencies(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    saved = state_dict.get(f"{prefix}inv_freq")
    if isinstance(module, StripedHyenaRotary) and saved is not None and saved.device.type != "meta":
        state_dict[f"{prefix}inv_freq"] = module.frequencies().to(saved)


class StripedHyenaAttention(nn.Module):
    """Causal softmax attention with rotary positions on halves of each head, where heads may share keys and values."""

    def __init__(self, config: StripedHyenaConfig, layer_idx: int):
        super().__init__()
        H, self.head_dim, self.groups = config.hidden_size, config.head_dim, config.proj_groups
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.Wqkv = nn.Linear(H, (self.heads + 2 * self.key_heads) * self.head_dim, bias=config.qkv_proj_bias)
        self.out_proj = nn.Linear(H, H, bias=config.mha_out_proj_bias)
        self.rotary_emb = StripedHyenaRotary(config)
        self.config, self.layer_idx, self.theta = config, layer_idx, float(config.rotary_emb_base)
        self.stretch = config.rotary_emb_scaling_factor if config.use_interpolated_rotary_pos_emb else 1

    def forward(
        self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, H] to [B, L, H], and the weights [B, heads, L, P + L] with ``attn_implementation="eager"``."""
        check_not_exported(cache)
        if layout.documents is not None:
            return per_document(hidden_states, layout.documents, lambda x, alone: self._attend(x, alone)[0]), None
        return self._attend(hidden_states, layout, cache)

    def _attend(self, x: Tensor, layout: Layout, cache: Cache | None = None) -> tuple[Tensor, Tensor | None]:
        length, past = x.shape[1], layout.past
        positions = layout.positions(length, x.device)
        here = positions[:, past:].expand(x.shape[0], -1)
        rotated = in_pieces(self._project, 2 * self.Wqkv.out_features, x, here)
        heads = rotated.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.key_heads, self.key_heads], dim=1)
        if cache is not None:  # a static cache returns also its unused places
            k, v = (part[:, :, : past + length] for part in cache.update(k, v, self.layer_idx))
        reads = None
        if layout.mask is not None or (past and length > 1):
            if layout.mask is not None:
                positions = positions.masked_fill(~layout.mask, PADDING_POSITION)
            reads = visible(positions[:, past:], positions, causal=True).unsqueeze(1)
        y, weights = self._softmax(q, k, v, reads, causal=reads is None and not past)
        return in_pieces(self.out_proj, x.shape[2], y.transpose(1, 2).flatten(2)), weights

    def _project(self, x: Tensor, positions: Tensor) -> Tensor:
        """[B, l, H] and [B, l] to rotated queries and keys, and values, [B, l, (heads + 2 key_heads) · d]."""
        qkv = self.Wqkv(x)
        rotated, v = qkv.tensor_split([(self.heads + self.key_heads) * self.head_dim], dim=2)
        # Puts channels i and i + d/2 of queries and keys side by side, because `rotate` pairs neighbours.
        pairs = rotated.unflatten(2, (-1, 2, self.head_dim // 2)).transpose(3, 4).flatten(3).transpose(1, 2)
        rotated = rotate(pairs, in_float64(positions) / self.stretch, self.theta).transpose(1, 2).flatten(2)
        return torch.cat([rotated.to(v.dtype), v], dim=2)

    def _softmax(
        self, q: Tensor, k: Tensor, v: Tensor, reads: Tensor | None, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.config._attn_implementation == "eager":
            k, v = (part.repeat_interleave(self.groups, dim=1) for part in (k, v))
            return attend(q * self.head_dim**-0.5, k, v, reads, causal)
        grouped = self.groups > 1
        return functional.scaled_dot_product_attention(q, k, v, reads, is_causal=causal, enable_gqa=grouped), None


class StripedHyenaAttentionBlock(StripedHyenaBlock):
    """A block that mixes the steps by attention."""

    def __init__(self, config: StripedHyenaConfig, layer_idx: int):
        super().__init__(config)
        self.inner_mha_cls = StripedHyenaAttention(config, layer_idx)

    def mix(self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None) -> Tensor:
        """The residual branch of attention: [B, L, H] to [B, L, H]; updates the cache."""
        normed = in_pieces(self.pre_norm, hidden_states.shape[2], hidden_states)
        return hidden_states + self.inner_mha_cls(normed, layout, cache)[0]


BLOCKS: dict[str, type[StripedHyenaConvolutionBlock] | type[StripedHyenaAttentionBlock]] = {
    "hyena": StripedHyenaConvolutionBlock,
    "full_attention": StripedHyenaAttentionBlock,
}
