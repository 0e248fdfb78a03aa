"""Parameters in shards, by FSDP2."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from modeling_dlr.kernels_dlr import Kernel
from modeling_dlr.modeling_dlr import DLRPreTrainedModel

from .context import backbone_of, check_model, context_of
from .layers import sync_batch_norm

AnyModel = TypeVar("AnyModel", bound=DLRPreTrainedModel)


def shard(model: AnyModel, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> AnyModel:
    """Shard the parameters of a model over all processes of a mesh by FSDP2, in place.

    Each kernel is a unit of its own, which computes in the type of its parameters, because rounding an angle changes
    the kernel too much. Each block is a unit, and so is the rest. Batch norm adds up its statistics over the processes.
    Make the optimizer afterwards.

    A model that `context_parallel` made ready is sharded over a mesh that holds those processes, too: gradients are
    added up over the processes that share a sequence, and averaged over the others.

    Args:
        model: with a head or without.
        mesh: of any number of dimensions.
        dtype: in which parameters other than the kernels' compute, such as torch.bfloat16; None leaves them as they
            are. Gradients are reduced in float32.

    Returns:
        The model.

    Raises:
        TypeError: if the model or the mesh is of another kind.
        ValueError: if the model is sharded already, the type is not real, or the mesh does not hold the processes that
            share a sequence.
    """
    check_model(model, mesh)
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError("The model is sharded already: call shard once.")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a real type, such as torch.bfloat16, got {dtype}.")
    mesh = mesh if mesh.ndim == 1 else mesh._flatten()
    context = context_of(model)
    if context is not None:
        if not set(distributed.get_process_group_ranks(context.team.group)) <= set(mesh.mesh.tolist()):
            raise ValueError(
                f"The {context.team.size} processes that share a sequence are not all in the mesh: shard over a mesh "
                "with all of them."
            )
        context.adds_gradients = False
    policy = None if dtype is None else torch.float32
    of_blocks = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=policy)
    of_rest = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=policy, cast_forward_inputs=False)
    sync_batch_norm(model, mesh.get_group())
    for kernel in [module for module in model.modules() if isinstance(module, Kernel)]:
        fully_shard(kernel, mesh=mesh)
    for block in backbone_of(model).layers:
        fully_shard(block, mesh=mesh, mp_policy=of_blocks)
    fully_shard(model, mesh=mesh, mp_policy=of_rest)
    if context is not None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(mesh.size() / context.team.size)
    model.save_pretrained = functools.partial(_save, model.save_pretrained)
    return model


def _save(save: Callable[..., Any], *args: Any, state_dict: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
    """`save_pretrained` of a model in shards.

    Raises:
        ValueError: without the whole weights, which only all processes together can gather.
    """
    if state_dict is None:
        raise ValueError(
            "A process has shards of the weights only: call get_model_state_dict(model, options=StateDictOptions("
            "full_state_dict=True, cpu_offload=True)) of torch.distributed.checkpoint.state_dict in every process, and "
            "pass what it returns in the first one as state_dict."
        )
    return save(*args, state_dict=state_dict, **kwargs)
