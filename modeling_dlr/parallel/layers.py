"""Layers that mix the steps of sequences of which each process has a part.

Around a mixer, one all-to-all turns steps into channels, and another turns them back. In between each process has all
steps of its channels, and evaluates the kernels of these channels only. Attention does the same with its heads.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional
from transformers import Cache

from modeling_dlr.attention_dlr import DLRAttention, rotate
from modeling_dlr.blocks_dlr import ChannelDropout, DLRMixer, MaskedBatchNorm
from modeling_dlr.convolution_dlr import convolve
from modeling_dlr.kernels_dlr import KERNELS, Kernel
from modeling_dlr.layout_dlr import Layout, per_document, without_padding
from modeling_dlr.losses_dlr import pool
from modeling_dlr.modeling_dlr import DLRPreTrainedModel

from .collectives import Team, total

# The axis of the channels in each parameter and buffer of a kernel; None if there is none.
_CHANNEL_AXES = {"weights": 1, "scales": 2, "alpha": 1, "norm": 1, "log_time_step": 0, "pole": None}
# Of poles: they have it if they are [H, N], and not if channels share them, [N].
_CHANNEL_AXES |= dict.fromkeys(("decay_root", "angle", "log_decay", "frequency", "log_frequency"), -2)


class Whole(NamedTuple):
    """The batch of which this process has a part. It takes the place of `Layout.documents` on the way to the layers.

    Attributes:
        layout: of the whole sequences.
        starts: [B, l], True at the first step of each document, for the steps of this process; or None.
        lengths: the number of steps of each process.
    """

    layout: Layout
    starts: Tensor | None
    lengths: list[int]


def sync_batch_norm(model: nn.Module, group: ProcessGroup | None = None) -> None:
    """Let the batch norms of a model add up their statistics over processes, as torch's SyncBatchNorm, in place.

    Then gradients and running statistics are those of one process on the batches of all. `shard` and
    `DistributedTrainer` do it by themselves.

    Args:
        model: one with ``norm_type="batch"``; others are left as they are.
        group: of the processes; None is all of them.
    """
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm):
            module.add_up = functools.partial(total, group=group)


def split_layers(model: DLRPreTrainedModel, team: Team) -> None:
    """Replace the methods of a model that need all steps of a sequence."""
    sync_batch_norm(model, team.group)
    for module in model.modules():
        if isinstance(module, DLRMixer):
            module.mix = functools.partial(_mix, module, team)
            module.convolve = functools.partial(_convolve, module, team)
            module.kernel.evaluate = functools.partial(_evaluate, module.kernel, team)
        elif isinstance(module, DLRAttention):
            module.forward = functools.partial(_attend, module, team)
            module._project = functools.partial(_rotated, module)
        elif isinstance(module, ChannelDropout):
            module.forward = functools.partial(_drop_channels, module, team)


def _mix(mixer: DLRMixer, team: Team, u: Tensor, layout: Layout, cache: Cache | None = None) -> Tensor:
    """`DLRMixer.mix` for some steps: [B, l, H] to [B, l, C, H]."""
    del cache  # there is none
    whole, widths = _whole(layout), team.shares(u.shape[2])
    u = team.to_channels(u, whole.lengths, widths)
    mix = functools.partial(type(mixer).mix, mixer)
    documents = whole.layout.documents
    y = mix(u, whole.layout) if documents is None else per_document(u, documents, mix)
    return team.to_steps(y, whole.lengths, widths)


def _convolve(mixer: DLRMixer, team: Team, u: Tensor) -> Tensor:
    """`DLRMixer.convolve` for some channels: [B, L, h] to [B, L, C, h]."""
    kernel = mixer.kernel(u.shape[1]).to(u.dtype)
    forward, backward = kernel.chunk(2) if mixer.bidirectional else (kernel, None)
    return convolve(u, forward, backward, mixer.D[:, team.own(mixer.D.shape[1])].to(u.dtype).contiguous())


def _evaluate(kernel: Kernel, team: Team, length: int) -> Tensor:
    """The kernel of this process's channels, [C, h, length]."""
    own, read_out = team.own(kernel.hidden_size), kernel.options.get("read_out")
    parts = _halves(own, kernel.hidden_size, "real", "prod") if read_out == "real_prod" else [(read_out, own)]
    return torch.cat([_part(kernel, channels, each).evaluate(length) for each, channels in parts], dim=1)


def _part(kernel: Kernel, channels: slice, read_out: str | None) -> Kernel:
    """A kernel of some channels, whose parameters are views of those of ``kernel``."""
    kernel_class, count = KERNELS[kernel.kernel_type], channels.stop - channels.start
    part = kernel_class.__new__(kernel_class)
    part.__dict__ |= kernel.__dict__ | {"_parameters": {}, "_buffers": {}, "hidden_size": count}
    del part.__dict__["evaluate"]
    if read_out is not None:
        part.__dict__["options"] = kernel.options | {"read_out": read_out}
    for name in (*kernel.parameter_names, *kernel.buffer_names):
        axis, value = _CHANNEL_AXES[name], getattr(kernel, name)
        has_channels = axis is not None and value.dim() >= abs(axis)
        part.__dict__[name] = value.narrow(axis, channels.start, count) if has_channels else value
    return part


def _halves(channels: slice, count: int, first: str, second: str) -> Iterator[tuple[str, slice]]:
    """Name the channels that lie in the first half of ``count``, rounded down, and those that do not."""
    half = min(max(count // 2, channels.start), channels.stop)
    for name, part in ((first, slice(channels.start, half)), (second, slice(half, channels.stop))):
        if part.start < part.stop:
            yield name, part


def _attend(
    attention: DLRAttention, team: Team, hidden_states: Tensor, layout: Layout, cache: Cache | None = None
) -> tuple[Tensor, None]:
    """`DLRAttention.forward` for some steps, without weights."""
    del cache
    whole, size, heads = _whole(layout), attention.head_size, attention.config.num_attention_heads
    if layout.current_mask is not None:
        hidden_states = without_padding(hidden_states, layout.current_mask)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    packed = torch.cat([each(hidden_states).unflatten(2, (heads, size)) for each in projections], dim=3).flatten(2)
    packed = team.to_channels(packed, whole.lengths, team.shares(heads, 3 * size))

    def softmax(packed: Tensor, layout: Layout) -> Tensor:
        by_kind = attention._attend_locally if attention.local else attention._attend_fully
        return by_kind(packed, layout, None)[0].transpose(1, 2).flatten(2)

    documents = whole.layout.documents
    y = softmax(packed, whole.layout) if documents is None else per_document(packed, documents, softmax)
    o = attention.o_proj(team.to_steps(y, whole.lengths, team.shares(heads, size)))
    for feed_forward in attention.feed_forwards:
        o = o + feed_forward(o)
    return o, None


def _rotated(attention: DLRAttention, packed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`DLRAttention._project` after the projections: queries, keys and values packed for each head, [B, L, h · 3d]."""
    q, k, v = packed.unflatten(2, (-1, 3 * attention.head_size)).transpose(1, 2).chunk(3, dim=3)
    q, k = rotate(q, positions, attention.theta), rotate(k, positions, attention.theta)
    return (q * attention.query_scale).to(v.dtype), k.to(v.dtype), v


def _drop_channels(dropout: ChannelDropout, team: Team, x: Tensor) -> Tensor:
    """`ChannelDropout`: the channels that the first process draws."""
    if not dropout.training or dropout.p == 0:
        return x
    kept = functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), dropout.p)
    torch.distributed.broadcast(kept, group=team.group, group_src=0)
    return x * kept


def pool_channels(name: str, team: Team, hidden_states: Tensor, whole: Whole) -> Tensor:
    """Pool whole sequences, of which this process has hidden states [B, l, H]: the same [B, H] on every process."""
    H = hidden_states.shape[2]
    own = team.own(H)
    channels = team.to_channels(hidden_states, whole.lengths, team.shares(H))
    parts = _halves(own, H, "mean", "max") if name == "mean_max" else [(name, own)]
    mask = whole.layout.current_mask
    pooled = [
        pool(each, channels[:, :, part.start - own.start : part.stop - own.start], mask)[0] for each, part in parts
    ]
    return team.all_channels(torch.cat(pooled, dim=1), H)


def _whole(layout: Layout) -> Whole:
    whole = layout.documents
    assert isinstance(whole, Whole)  # noqa: S101 - this tells the type checker
    return whole
