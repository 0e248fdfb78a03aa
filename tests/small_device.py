"""A device without float64, played on the CPU: what a test of Apple's GPU can be where there is none.

Its tensors say that they are on "meta", the one device that autograd knows everywhere, and hold a tensor of the CPU.
Whatever an operation reads or writes there must not be float64, nor be mixed with tensors of the CPU, as on the real
one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")


class SmallTensor(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor):
        if inner.dtype == torch.float64:
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
    """While it is on, tensors can be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on either device."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, SmallTensor)]
    crosses = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if here and not crosses and any(t.dim() for t in tensors if not isinstance(t, SmallTensor)):
        raise RuntimeError(f"{func} mixes devices")
    asked = kwargs.get("device")
    inner_args, inner_kwargs = tree_map_only(SmallTensor, lambda tensor: tensor.inner, (args, kwargs))
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
    """The module with its parameters on the device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(SmallTensor(parameter.detach().clone()))
    return module
