"""A simulated device without float64, for tests of accelerators on the CPU.

Its tensors report the device "meta", the only one that autograd knows everywhere, and hold a tensor of the CPU. An
operation on them must neither use float64, nor mix them with tensors of the CPU, as on a real device.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")


aten = torch.ops.aten
WAITING = {
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default),
    *(aten.repeat_interleave.Tensor, aten.is_nonzero.default),
}
CROSSING = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class SmallTensor(Tensor):
    """A tensor of the device."""

    inner: Tensor
    has_float64 = False

    @staticmethod
    def __new__(cls, inner: Tensor):
        if inner.dtype == torch.float64 and not cls.has_float64:
            raise TypeError("this device has no float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class SmallDevice(TorchDispatchMode):
    """In this context, tensors can be created on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class BusyDevice(SmallDevice):
    """The device with asynchronous work, which a graph could capture if both lists stay empty.

    Attributes:
        waits: the operations that had to wait for values or shapes.
        copies: those that copied numbers from the CPU, which a captured graph would not read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_flatten((args, kwargs or {}))[0]
        here = [leaf for leaf in leaves if isinstance(leaf, SmallTensor)]
        result = super().__torch_dispatch__(func, types, args, kwargs)
        by_truths = func in INDEXING and any(leaf.dtype in (torch.bool, torch.uint8) for leaf in here[1:])
        leaves_it = isinstance(result, Tensor) and not isinstance(result, SmallTensor)
        if here and (func in WAITING or by_truths or leaves_it):
            self.waits.append(str(func))
        comes = any(
            isinstance(leaf, Tensor) and not isinstance(leaf, SmallTensor) and not leaf.is_meta for leaf in leaves
        )
        if func in CROSSING and comes and isinstance(result, SmallTensor):
            self.copies.append(str(func))
        return result


def inside(tensor: Tensor) -> Tensor:
    """What a tensor of the device holds; `torch.tensor([], device=DEVICE)`, which no mode sees, holds nothing."""
    if isinstance(tensor, SmallTensor):
        return tensor.inner
    return tensor.new_empty(tensor.shape, device="cpu") if tensor.is_meta and not tensor.numel() else tensor


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on either device."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, SmallTensor)]
    crosses = func in CROSSING
    if here and not crosses and any(t.dim() and t.numel() for t in tensors if not isinstance(t, SmallTensor)):
        raise RuntimeError(f"{func} mixes devices")
    asked = kwargs.get("device")
    inner_args, inner_kwargs = tree_map_only(Tensor, inside, (args, kwargs))
    if asked is not None and torch.device(asked) == DEVICE:
        inner_kwargs["device"] = torch.device("cpu")
    result = func(*inner_args, **inner_kwargs)
    if crosses and func is torch.ops.aten.copy_.default:
        return args[0]
    if not here and asked != DEVICE:
        return result
    if asked is not None and torch.device(asked) != DEVICE:
        return result
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, SmallTensor, result))


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the device."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else SmallTensor(buffer.clone())
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(SmallTensor(parameter.detach().clone()))
    return module
