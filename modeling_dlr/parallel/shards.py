"""Parameters in shards, by FSDP2."""

import functools
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from modeling_dlr.blocks_dlr import MaskedBatchNorm
from modeling_dlr.kernels_dlr import Kernel
from modeling_dlr.modeling_dlr import DLRPreTrainedModel

from .collectives import total
from .context import backbone_of, check_model, context_of

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
        missing = set(distributed.get_process_group_ranks(context.team.group)) - set(mesh.mesh.tolist())
        if missing:
            raise ValueError(
                f"Processes {sorted(missing)} share the sequences of this one, but are not in the mesh {mesh}: shard "
                "over a mesh with all of them."
            )
        context.adds_gradients = False
    policy = None if dtype is None else torch.float32
    of_blocks = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=policy)
    of_rest = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=policy, cast_forward_inputs=False)
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm):
            module.add_up = functools.partial(total, group=mesh.get_group())
    for kernel in [module for module in model.modules() if isinstance(module, Kernel)]:
        fully_shard(kernel, mesh=mesh)
    for block in backbone_of(model).layers:
        fully_shard(block, mesh=mesh, mp_policy=of_blocks)
    fully_shard(model, mesh=mesh, mp_policy=of_rest)
    if context is not None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(mesh.size() / context.team.size)
    return model
