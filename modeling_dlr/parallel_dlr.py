"""Refuses to run where a process holds a part of each sequence only, for nothing hands the state on to the next one."""

import sys
from typing import Any

import torch


def check_whole_sequences() -> None:
    """Refuse sequence and context parallelism while they are on.

    Raises:
        ValueError: naming what cuts the sequences.
    """
    cut_by = _what_cuts_sequences()
    if cut_by is not None:
        raise ValueError(
            f"{cut_by} gives each process a part of every sequence, but a state reads all steps before, which DLR does "
            "not exchange: keep sequences whole (sp_size=1 and cp_size=1), and split the batch or the parameters."
        )


@torch.compiler.assume_constant_result
def _what_cuts_sequences() -> str | None:
    """What cuts sequences in this process, if anything does. What has not been imported does not."""
    for cuts, name in (
        (_accelerate_does, "Accelerate's ParallelismConfig"),
        (_deepspeed_does, "DeepSpeed's sequence parallelism (Ulysses)"),
        (_torch_does, "torch's context_parallel"),
    ):
        if cuts():
            return name
    return None


def _imported(name: str) -> Any:
    """A module, or None if nobody has imported it."""
    return sys.modules.get(name)


def _accelerate_does() -> bool:
    state = _imported("accelerate.state")
    config = None if state is None else state.AcceleratorState._shared_state.get("parallelism_config")
    return any((getattr(config, name, 1) or 1) > 1 for name in ("sp_size", "cp_size"))


def _deepspeed_does() -> bool:
    """By the groups that its engine uses, or by those that Ulysses makes for it."""
    groups = _imported("deepspeed.utils.groups")
    if groups is not None and (groups.mpu or groups.mesh_device) and groups._get_sequence_parallel_world_size() > 1:
        return True
    made = _imported("deepspeed.runtime.sequence_parallel.parallel_state_sp")
    return made is not None and made._SEQUENCE_PARALLEL_GROUP is not None


def _torch_does() -> bool:
    """By the operations that it replaces while it is on."""
    ring = _imported("torch.distributed.tensor.experimental._context_parallel._attention")
    return ring is not None and ring.custom_ops.keys() <= ring.DTensor._op_dispatcher._custom_op_handlers.keys()
