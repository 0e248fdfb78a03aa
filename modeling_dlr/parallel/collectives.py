"""What processes send to one another, with gradients."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd import Function
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh


class Team(NamedTuple):
    """The processes that share sequences.

    Attributes:
        group: of the processes.
        size: P, their number.
        rank: of this process.
    """

    group: ProcessGroup
    size: int
    rank: int

    @classmethod
    def of(cls, mesh: DeviceMesh) -> "Team":
        """The processes of a mesh of one dimension."""
        return cls(mesh.get_group(), mesh.size(), mesh.get_local_rank())

    def shares(self, count: int, unit: int = 1) -> list[int]:
        """How many of ``count`` channels each process takes, in units: the first ones may take one unit more."""
        return [len(part) * unit for part in torch.arange(count).tensor_split(self.size)]

    def own(self, count: int) -> slice:
        """The channels that this process takes."""
        shares = self.shares(count)
        start = sum(shares[: self.rank])
        return slice(start, start + shares[self.rank])

    def to_channels(self, x: Tensor, lengths: Sequence[int], widths: Sequence[int]) -> Tensor:
        """From some steps of all channels to all steps of some channels.

        Args:
            x: [B, l, H].
            lengths: l of every process; they add up to L.
            widths: h of every process; they add up to H.

        Returns:
            [B, L, h].
        """
        shapes = [(x.shape[0], length, widths[self.rank]) for length in lengths]
        return torch.cat(self._exchange(x.split(list(widths), dim=2), shapes), dim=1)

    def to_steps(self, x: Tensor, lengths: Sequence[int], widths: Sequence[int]) -> Tensor:
        """The reverse: [B, L, ..., h] to [B, l, ..., H]."""
        shapes = [(x.shape[0], lengths[self.rank], *x.shape[2:-1], width) for width in widths]
        return torch.cat(self._exchange(x.split(list(lengths), dim=1), shapes), dim=-1)

    def all_steps(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """The steps of all processes: [B, l, ...] to [B, L, ...]. Gradients of all processes are added up."""
        return total(_placed(x, 1, sum(lengths[: self.rank]), sum(lengths)), self.group)

    def all_channels(self, x: Tensor, count: int) -> Tensor:
        """The channels of all processes: [B, h] to [B, H]. Gradients of all processes are added up."""
        return total(_placed(x, 1, self.own(count).start, count), self.group)

    def gather(self, value: Any) -> list[Any]:
        """The objects of all processes."""
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def _exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send a tensor to each process, and receive one of a given shape from each."""
        sizes = [math.prod(shape) for shape in shapes]
        sent = torch.cat([part.flatten() for part in parts])
        received = _Exchange.apply(sent, [part.numel() for part in parts], sizes, self.group)
        return [part.view(shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]


class _Exchange(Function):
    """An all-to-all of a flat tensor."""

    @staticmethod
    def forward(ctx, sent: Tensor, sizes: list[int], received_sizes: list[int], group: ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = (received_sizes, sizes), group
        received = sent.new_empty(sum(received_sizes))
        distributed.all_to_all_single(received, sent, received_sizes, sizes, group=group)
        return received

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Exchange.apply(grad.contiguous(), *ctx.sizes, ctx.group), None, None, None


class _Sum(Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: ProcessGroup | None, sums_gradients: bool) -> Tensor:
        ctx.group, ctx.sums_gradients = group, sums_gradients
        return added(x, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return added(grad, ctx.group) if ctx.sums_gradients else grad, None, None


def added(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over processes, without a gradient."""
    result = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(result, group=group)
    return result


def total(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over processes, from which each computes something else: gradients are added up, too."""
    return _Sum.apply(x, group, True)


def shared_loss(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over processes of their parts of a loss. Each computes the gradient of its own part."""
    return _Sum.apply(x, group, False)


def _placed(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    """X among zeros: from ``start``, in ``count`` places along ``dim``."""
    before, after = list(x.shape), list(x.shape)
    before[dim], after[dim] = start, count - start - x.shape[dim]
    return torch.cat([x.new_zeros(before), x, x.new_zeros(after)], dim=dim)
