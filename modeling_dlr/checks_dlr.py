"""Checks that every model makes before it computes. Each error states the rule, the value and the cure.

Values (of token ids, labels, masks, parameters) are read on the CPU only. Reading them on an accelerator would
synchronize. CUDA and compiled programs assert them asynchronously; other devices do not check them.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import NoReturn

import torch
from torch import Tensor
from transformers.utils import logging

from .kernel_parameters_dlr import did_you_mean

logger = logging.get_logger(__name__)

# Devices for which torch implements `_assert_async`; the CPU needs it in compiled programs.
ASSERTING_DEVICES = ("cpu", "cuda")
# Types of class labels: integers that can be -100.
SIGNED_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
TOKENS_CURE = "tokenize labels with the model's own tokenizer, and pad them by -100"
LABELS_CURE = "encode classes as integers, and make a torch.tensor of them"

# Arguments that a forward accepts and does not read: of transformers' decorators (the first two rows), the Trainer,
# collators that pack rows, tokenizers, and PEFT. Losses read num_items_in_batch, those of language models shift_labels.
PASSED_ALONG = {
    *("output_attentions", "output_hidden_states", "return_dict"),
    *("debug_io", "debug_io_dir", "prune_layers"),
    *("num_items_in_batch", "shift_labels"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"),
    *("token_type_ids", "special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length"),
    "task_ids",
}


def refuse_unknown_arguments(model_class: type, names: Iterable[str]) -> None:
    """Refuse arguments that no forward reads.

    Args:
        model_class: the class of the model; its own and inherited forwards read the other arguments.
        names: of the arguments that a forward does not declare.

    Raises:
        TypeError: naming the argument and the nearest known one.
    """
    for name in names:
        if name not in PASSED_ALONG:
            forwards = [vars(cls)["forward"] for cls in model_class.__mro__[:-1] if "forward" in vars(cls)]
            read = {parameter for forward in forwards for parameter in signature(forward).parameters}
            own = sorted(read - {"self", "input", "kwargs", name})
            hint = did_you_mean(name, [*own, *PASSED_ALONG]) or f"it takes {', '.join(own)}."
            raise TypeError(f"{model_class.__name__} has no argument {name!r}: {hint}")


def check_attention_weights(implementation: str | None, several_documents: bool) -> None:
    """Warn, once and as transformers does, that attention weights are not recorded unless attention is eager.

    Args:
        implementation: of the attention of a model that is asked for weights.
        several_documents: whether rows hold several documents.

    Raises:
        ValueError: if attention is eager and rows hold several documents, of which there are no weights.
    """
    if implementation != "eager":
        logger.warning_once(
            f"{implementation!r} attention computes no weights, so output_attentions=True returns none: call "
            "model.set_attn_implementation('eager')."
        )
    elif several_documents:
        raise ValueError(
            "output_attentions=True needs one document per row, but a row holds several: pass each by itself."
        )


def refuse_several_documents(head_reason: str | None, carries_state: bool) -> None:
    """Refuse rows of several documents in models that need one document per row.

    Args:
        head_reason: why the head of the model needs one document per row, or None if it does not.
        carries_state: whether a cache is given or returned.

    Raises:
        ValueError: with the reason and the cure.
    """
    if head_reason is not None:
        raise ValueError(
            f"{head_reason}, but a row holds several documents: give every document a row of its own, padded, with an "
            "attention_mask."
        )
    if carries_state:
        raise ValueError(
            "A row of several documents has no single state: pass use_cache=False and no cache, or one document per "
            "row."
        )


def refuse_checkpointing() -> NoReturn:
    """Refuse a cache in training with gradient checkpointing.

    Raises:
        ValueError: with the reason and the cure.
    """
    raise ValueError(
        "Gradient checkpointing computes every block twice, and would update the state twice: switch it off "
        "(model.activation_checkpointing_disable()) to train from a cache."
    )


def check_tied_weights(tied: bool, distributed_config: object | None) -> None:
    """Refuse tied weights in shards of transformers, which trains one of the two only (5.24).

    Args:
        tied: whether the embedding and the projection onto the vocabulary share their weights.
        distributed_config: the one that `from_pretrained` is called with, or None.

    Raises:
        ValueError: with the cure.
    """
    shards = getattr(distributed_config, "fsdp_size", None) or 1
    if tied and shards > 1:
        raise ValueError(
            f"In shards by DistributedConfig(fsdp_size={shards}), one of two tied weights is not trained: load the "
            "model whole, and call modeling_dlr.parallel.shard, or set tie_word_embeddings=False."
        )


def check_whole_sequences(parts: int = 1) -> None:
    """Refuse sequence and context parallelism for which the model is not ready.

    Args:
        parts: the number of processes over which the model can split sequences by itself.

    Raises:
        ValueError: naming the library that splits sequences.
    """
    splitter = _splitter_of_sequences(parts)
    if splitter is not None:
        raise ValueError(
            f"{splitter} gives each process a part of every sequence, but a recurrence needs all earlier steps: keep "
            "sequences whole (sp_size=1 and cp_size=1), or call modeling_dlr.parallel.context_parallel."
        )


@torch.compiler.assume_constant_result
def _splitter_of_sequences(parts: int) -> str | None:
    """The library that splits sequences over other than ``parts`` processes now. None is imported to find out."""
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is not None:
        parallelism = accelerate.AcceleratorState._shared_state.get("parallelism_config")
        if any((getattr(parallelism, name, 1) or 1) not in (1, parts) for name in ("sp_size", "cp_size")):
            return "Accelerate's ParallelismConfig"
    groups = sys.modules.get("deepspeed.utils.groups")  # of its engine
    if groups is not None and (groups.mpu or groups.mesh_device) and groups._get_sequence_parallel_world_size() > 1:
        return "DeepSpeed's sequence parallelism (Ulysses)"
    groups = sys.modules.get("deepspeed.runtime.sequence_parallel.parallel_state_sp")  # of Ulysses
    if groups is not None and groups._SEQUENCE_PARALLEL_GROUP is not None:
        return "DeepSpeed's sequence parallelism (Ulysses)"
    ring = sys.modules.get("torch.distributed.tensor.experimental._context_parallel._attention")
    # The operations that it replaces while it is on.
    if ring is not None and ring.custom_ops.keys() <= ring.DTensor._op_dispatcher._custom_op_handlers.keys():
        return "torch's context_parallel"
    return None


def check_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    input_values: Tensor | None,
    vocab_size: int | None,
    input_size: int | None,
    hidden_size: int,
) -> Tensor:
    """Refuse inputs that a model of these sizes cannot read.

    Args:
        input_ids: [B, L] integers.
        inputs_embeds: [B, L, hidden_size].
        input_values: [B, L, input_size], or [B, L] when input_size is 1.
        vocab_size: of the model; None when it reads values.
        input_size: of the model; None when it reads tokens.
        hidden_size: of the model.

    Returns:
        The input that is given, [B, L, ...].

    Raises:
        TypeError: if an input is not a tensor.
        ValueError: if none or several inputs are given, or the input has the wrong type or shape.
        IndexError: if a token id is outside the vocabulary.
    """
    named = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "input_values": input_values}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of input_ids, inputs_embeds and input_values must be given, got "
            f"{' and '.join(given) or 'none of them'}."
        )
    ((name, value),) = given.items()
    check_tensor(name, value, "ask the tokenizer or processor for return_tensors='pt'")
    if input_ids is not None:
        if vocab_size is None:
            raise ValueError(
                f"This model reads real values (input_size={input_size}): pass input_values, not input_ids."
            )
        shape, fits = "[batch, length]", value.dim() == 2
    elif inputs_embeds is not None:
        shape = f"[batch, length, hidden_size={hidden_size}]"
        fits = value.dim() == 3 and value.shape[-1] == hidden_size
    else:
        if input_size is None:
            raise ValueError(f"This model reads tokens (vocab_size={vocab_size}): pass input_ids, not input_values.")
        shape = f"[batch, length, input_size={input_size}]"
        fits = (value.dim() == 3 and value.shape[-1] == input_size) or (value.dim() == 2 and input_size == 1)
    if not fits:
        raise ValueError(f"{name} must have the shape {shape}, got {list(value.shape)}.")
    if input_ids is None:
        if not value.is_floating_point():
            raise ValueError(f"{name} must be real numbers in floating point, got {value.dtype}: pass {name}.float().")
        return value
    if value.is_floating_point():
        raise ValueError(f"input_ids must be integers, got {value.dtype}: real-valued input is input_values.")
    if value.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids must be int64 or int32, got {value.dtype}: pass input_ids.long().")
    size = vocab_size or 0  # None was refused above; this tells the type checker
    check_values(
        value,
        lambda ids: (ids >= 0) & (ids < size),
        f"Token ids must lie in 0 … vocab_size-1 = {size - 1}",
        "is this the model's own tokenizer? If tokens were added to it, call model.resize_token_embeddings",
        error=IndexError,
    )
    return value


def input_shape(*inputs: Tensor | None) -> tuple[int, int] | None:
    """The batch size and length of the one input that is given; None for inputs that `check_inputs` refuses."""
    shapes = [value.shape[:2] for value in inputs if isinstance(value, Tensor) and value.dim() > 1]
    return (shapes[0][0], shapes[0][1]) if len(shapes) == 1 else None


def check_tensor(name: str, value: object, cure: str) -> None:
    """Refuse lists, arrays and strings.

    Raises:
        TypeError: naming the type of ``value``.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got a {type(value).__name__}: {cure}.")


def check_values(
    tensor: Tensor,
    fits: Callable[[Tensor], Tensor],
    rule: str,
    cure: str,
    error: type[Exception] = ValueError,
) -> None:
    """Refuse a tensor with a wrong value: by an error on the CPU, by an assertion on CUDA and in compiled programs.

    Args:
        tensor: of any shape.
        fits: tells of each value whether it is right.
        rule: what is right; begins the message.
        cure: what to do; ends the message.
        error: the class of the error on the CPU.

    Raises:
        Exception: ``error``, naming the first wrong value. An assertion is a RuntimeError that does not name it.
    """
    if values_are_cheap(tensor):
        right = fits(tensor)
        if not bool(right.all()):
            raise error(f"{rule}, got {tensor[~right][0].item()}: {cure}.")
    elif _asserts(tensor):
        torch._assert_async(fits(tensor).all(), f"{rule}: {cure}.")


def warn_of_empty_rows(length: int, mask: Tensor | None) -> None:
    """Warn once of rows that have no step, or only padding. ``mask`` is [B, L] bool, or None without padding."""
    if length == 0 or (mask is not None and values_are_cheap(mask) and not bool(mask.any(dim=1).all())):
        warn_of_empty_documents()


def warn_of_empty_documents() -> None:
    """Warn once of empty documents."""
    if not torch.compiler.is_compiling():
        logger.warning_once(
            "A document is empty: its row has no step, or its attention_mask is all 0. Its pooled features are zeros: "
            "drop such rows if they are there by mistake."
        )


def check_integers(name: str, value: Tensor, cure: str | None = None) -> None:
    """Refuse tensors of other types than signed integers, which can be -100.

    Raises:
        ValueError: naming the type.
    """
    if value.dtype not in SIGNED_INTEGERS:
        raise ValueError(
            f"{name} must be signed integers, such as int64, got {value.dtype}: {cure or f'pass {name}.long()'}."
        )


def check_class_labels(
    labels: Tensor,
    num_labels: int,
    ignore_index: int = -100,
    size: str = "num_labels",
    cure: str = "set num_labels, or id2label, to the number of classes",
) -> None:
    """Refuse class labels outside 0 … num_labels-1 that are not ``ignore_index``.

    Args:
        labels: of any shape.
        num_labels: the number of classes.
        ignore_index: a label that is ignored.
        size: the name of ``num_labels`` in the message.
        cure: ends the message.

    Raises:
        ValueError: naming the label, or the type of labels that are not integers.
    """
    check_integers("labels", labels)
    check_values(
        labels.long(),  # small types would wrap num_labels around
        lambda classes: ((classes >= 0) & (classes < num_labels)) | (classes == ignore_index),
        f"Labels must lie in 0 … {size}-1 = {num_labels - 1} (or be {ignore_index} to be ignored)",
        cure,
    )


def check_tokens_to_predict(
    labels: Iterable[Tensor | None], shape: tuple[int, int] | None, vocab_size: int, logits_to_keep: int | Tensor
) -> None:
    """Refuse labels that are not one token, or -100, for each step.

    Args:
        labels: of a language model: ``labels`` and ``shift_labels``, each of which may be None.
        shape: (B, L) of its input; None for inputs that the model refuses.
        vocab_size: of the model.
        logits_to_keep: the steps whose logits are computed; 0 for all.

    Raises:
        TypeError: if labels are not a tensor.
        ValueError: naming the shape, the type or the token; or if some logits are not computed.
    """
    for tokens in labels:
        if tokens is None:
            continue
        check_tensor("labels", tokens, LABELS_CURE)
        if shape is None:
            continue
        if not has_shape(tokens, shape):
            raise ValueError(
                f"labels must have the shape [batch, length] = {list(shape)} of the input, got {list(tokens.shape)}."
            )
        if not isinstance(logits_to_keep, int) or logits_to_keep != 0:
            raise ValueError("labels need the logits of every step: leave logits_to_keep at 0, or the labels out.")
        check_class_labels(tokens, vocab_size, size="vocab_size", cure=TOKENS_CURE)


def has_shape(tensor: Tensor, *shapes: Sequence[int] | None) -> bool:
    """Whether the shape of a tensor is one of ``shapes``, of which None is ignored.

    They are compared one by one, because ``in`` is wrong for sizes that torch.compile keeps symbolic.
    """
    return any(shape is not None and list(tensor.shape) == list(shape) for shape in shapes)


def check_finite(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse parameters with NaN or infinity.

    Skipped on accelerators, where it would synchronize, while tracing, and for shards. A logarithm may be -inf.

    Args:
        named: pairs of a name, with the path of the module, and a tensor.

    Raises:
        ValueError: naming the first such parameter.
    """
    present = [(name, part) for name, part in named if type(part.detach()) is Tensor and values_are_cheap(part)]
    values = [part.exp() if ".log_" in f".{name}" else part for name, part in present]
    # One look at one number: each takes as long as the sum of a small parameter.
    if not values or bool(torch.stack([part.detach().sum() for part in values]).sum().isfinite()):
        return
    for (name, part), each in zip(present, values, strict=True):
        if not all_finite(each):
            wrong = part[~each.isfinite()][0].item()
            raise ValueError(f"{name} must be finite, got {wrong}: lower the learning rate, or clip gradients.")


def all_finite(x: Tensor) -> bool:
    """Whether no number is infinite or NaN. A finite sum shows it in a third of the time of testing every number."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def values_are_cheap(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read without synchronizing: on the CPU, and not while tracing."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return has_memory(tensor)


def _asserts(tensor: Tensor) -> bool:
    """Whether values of a tensor can be asserted asynchronously."""
    if tensor.device.type not in ASSERTING_DEVICES or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    return torch.compiler.is_compiling() or has_memory(tensor)


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has storage: not under vmap, and not if it is fake."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True
