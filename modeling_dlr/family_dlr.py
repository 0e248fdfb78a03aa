"""What every family of models here does alike.

It refuses unknown arguments, attention weights that nothing holds, and processes with a part of each sequence only, and
names its classes in config.json.
"""

import sys
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, NoReturn

import torch
from transformers.utils import logging

from .kernel_parameters_dlr import did_you_mean

logger = logging.get_logger(__name__)

# What a forward accepts and does not read: of transformers' own decorators (the first two rows), the Trainer, collators
# that pack rows, tokenizers, and PEFT. A language model's loss reads shift_labels, every loss num_items_in_batch.
PASSED_ALONG = {
    *("output_attentions", "output_hidden_states", "return_dict"),
    *("debug_io", "debug_io_dir", "prune_layers"),
    *("num_items_in_batch", "shift_labels"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"),
    *("token_type_ids", "special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length"),
    "task_ids",
}


def refuse_unknown_arguments(model_class: type, names: Iterable[str]) -> None:
    """Refuse arguments that no forward reads, before they are ignored without a word.

    Args:
        model_class: whose forwards, its own and those it inherits, read the others.
        names: of the arguments that are left when a forward has taken its own.

    Raises:
        TypeError: naming the argument and the nearest one that there is.
    """
    for name in names:
        if name not in PASSED_ALONG:
            forwards = [vars(cls)["forward"] for cls in model_class.__mro__[:-1] if "forward" in vars(cls)]
            read = {parameter for forward in forwards for parameter in signature(forward).parameters}
            own = sorted(read - {"self", "input", "kwargs", name})
            hint = did_you_mean(name, [*own, *PASSED_ALONG]) or f"it takes {', '.join(own)}."
            raise TypeError(f"{model_class.__name__} has no argument {name!r}: {hint}")


def auto_map(config_class: type, auto_classes: Mapping[str, type]) -> dict[str, str]:
    """Where a folder with the code of these classes has the one for each Auto class, as config.json says it."""
    places = {"AutoConfig": config_class, **auto_classes}
    return {auto: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for auto, cls in places.items()}


def check_attention_weights(implementation: str | None, several_documents: bool) -> None:
    """Say once that weights which nothing computes are not recorded, as attention of transformers does.

    Args:
        implementation: of the attention of a model that is asked for weights.
        several_documents: whether some share a row.

    Raises:
        ValueError: where there would be weights, but none for a whole row.
    """
    if implementation != "eager":
        logger.warning_once(
            f"{implementation!r} attention holds no weights, so that output_attentions=True answers none: call "
            "model.set_attn_implementation('eager')."
        )
    elif several_documents:
        raise ValueError(
            "output_attentions=True needs one document per row, but several share one: pass each by itself."
        )


def refuse_several_documents() -> NoReturn:
    """Refuse to carry a state through a row of several documents.

    Raises:
        ValueError: saying what to do instead.
    """
    raise ValueError(
        "A row of several documents has no single state to go on from: pass use_cache=False and no cache, or one "
        "document per row."
    )


def refuse_checkpointing() -> NoReturn:
    """Refuse to carry a state through blocks that gradient checkpointing computes again.

    Raises:
        ValueError: saying what to do instead.
    """
    raise ValueError(
        "Gradient checkpointing computes every block twice, and would move the state twice: switch it off "
        "(model.activation_checkpointing_disable()) to go on from a cache in training."
    )


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
