"""What a model refuses before it starts to work: each error states the rule, the value and the cure.

Values (of token ids, labels, masks) are read on the CPU only, where that costs little. An accelerator would have to be
waited for at every step: CUDA asserts them without that, as compiled programs do, and other devices are not asked.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Those for which torch implements `_assert_async`; the CPU needs it in compiled programs.
ASSERTING_DEVICES = ("cpu", "cuda")
# What labels of classes can be: integers that hold -100.
SIGNED_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
TOKENS_CURE = "tokenize labels with the model's own tokenizer, and pad them by -100"
LABELS_CURE = "encode classes as integers, and make a torch.tensor of them"


def check_inputs(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    input_values: Tensor | None,
    vocab_size: int | None,
    input_size: int | None,
    hidden_size: int,
) -> Tensor:
    """Refuse inputs that a model of these sizes cannot read; the one that is given, [B, L, ...].

    Args:
        input_ids: [B, L] integers.
        inputs_embeds: [B, L, hidden_size].
        input_values: [B, L, input_size], or [B, L] when input_size is 1.
        vocab_size: of the model; None when it reads values.
        input_size: of the model; None when it reads tokens.
        hidden_size: of the model.

    Raises:
        TypeError: an input that is no tensor.
        ValueError: none or several inputs, an input of the wrong kind or shape.
        IndexError: a token id outside the vocabulary.
    """
    given = {
        name: value
        for name, value in {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "input_values": input_values,
        }.items()
        if value is not None
    }
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
        _check_shape(name, value, "[batch, length]", value.dim() == 2)
        if value.is_floating_point():
            raise ValueError(f"input_ids must be integers, got {value.dtype}: real-valued input is input_values.")
        if value.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"input_ids must be int64 or int32, got {value.dtype}: pass input_ids.long().")
    elif inputs_embeds is not None:
        fits = value.dim() == 3 and value.shape[-1] == hidden_size
        _check_shape(name, value, f"[batch, length, hidden_size={hidden_size}]", fits)
    else:
        if input_size is None:
            raise ValueError(f"This model reads tokens (vocab_size={vocab_size}): pass input_ids, not input_values.")
        fits = (value.dim() == 3 and value.shape[-1] == input_size) or (value.dim() == 2 and input_size == 1)
        _check_shape(name, value, f"[batch, length, input_size={input_size}]", fits)
    if input_ids is None and not value.is_floating_point():
        raise ValueError(f"{name} must be real numbers in floating point, got {value.dtype}: pass {name}.float().")
    if input_ids is not None and vocab_size is not None:
        check_values(
            input_ids,
            lambda ids: (ids >= 0) & (ids < vocab_size),
            f"Token ids must lie in 0 … vocab_size-1 = {vocab_size - 1}",
            "is this the model's own tokenizer? If tokens were added to it, call model.resize_token_embeddings",
            error=IndexError,
        )
    return value


def check_tensor(name: str, value: object, cure: str) -> None:
    """Refuse lists, arrays and strings.

    Raises:
        TypeError: naming the kind of ``value``.
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
    """Refuse a tensor that holds a wrong value: at once on the CPU, and on CUDA and in compiled programs by assertion.

    Args:
        tensor: of any shape.
        fits: gives, for each of its values, whether it is right.
        rule: what is right; begins the message.
        cure: what to do; ends it.
        error: the kind of error on the CPU.

    Raises:
        Exception: an ``error`` that names the first wrong value. An assertion is a RuntimeError that cannot.
    """
    if values_are_cheap(tensor):
        right = fits(tensor)
        if not bool(right.all()):
            raise error(f"{rule}, got {tensor[~right][0].item()}: {cure}.")
    elif _asserts(tensor):
        torch._assert_async(fits(tensor).all(), f"{rule}: {cure}.")


def warn_of_empty_rows(length: int, mask: Tensor | None) -> None:
    """Say once that a batch holds rows without a step, or with padding only. ``mask``: [B, L] bool, or None."""
    if length == 0 or (mask is not None and values_are_cheap(mask) and not bool(mask.any(dim=1).all())):
        warn_of_empty_documents()


def warn_of_empty_documents() -> None:
    """Say once how empty documents are answered."""
    if not torch.compiler.is_compiling():
        logger.warning_once(
            "A document is empty: its row has no step, or its attention_mask is all 0. It is answered as the empty "
            "document, whose pooled features are zeros: drop such rows if they are not meant."
        )


def check_integers(name: str, value: Tensor, cure: str | None = None) -> None:
    """Refuse what are no integers, and those that have no -100.

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
    """Refuse class labels outside 0 … num_labels-1 (``ignore_index`` apart); the message calls that ``size``.

    Raises:
        ValueError: naming the label, or the type of labels that are no classes.
    """
    check_integers("labels", labels)
    check_values(
        labels.long(),  # torch compares with a number that the type of the labels has wrapped around
        lambda classes: ((classes >= 0) & (classes < num_labels)) | (classes == ignore_index),
        f"Labels must lie in 0 … {size}-1 = {num_labels - 1} (or be {ignore_index} to be ignored)",
        cure,
    )


def check_tokens_to_predict(labels: Tensor, batch_size: int, length: int, vocab_size: int, all_logits: bool) -> None:
    """Refuse labels that are not one token, or -100, per step of inputs whose logits are all computed.

    Raises:
        TypeError: for labels that are no tensor.
        ValueError: naming the shape, the type or the token.
    """
    check_tensor("labels", labels, LABELS_CURE)
    expected = [batch_size, length]
    _check_shape("labels", labels, f"[batch, length] = {expected} of the input", list(labels.shape) == expected)
    if not all_logits:
        raise ValueError("labels need the logits of every step: leave logits_to_keep at 0, or the labels out.")
    check_class_labels(labels, vocab_size, size="vocab_size", cure=TOKENS_CURE)


def has_shape(tensor: Tensor, *shapes: Sequence[int] | None) -> bool:
    """Whether the shape of a tensor is one of these; None is none.

    By comparing them one by one: of sizes that torch.compile keeps symbolic, `in` says that they are not there.
    """
    return any(shape is not None and list(tensor.shape) == list(shape) for shape in shapes)


def _check_shape(name: str, value: Tensor, expected: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f"{name} must have the shape {expected}, got {list(value.shape)}.")


def check_finite(named: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse parameters with NaN or infinity, before they spoil a state.

    Skipped on accelerators, where it would synchronize, while tracing, and for shards. The logarithm of 0 is let pass.

    Args:
        named: pairs of the name that the error says, with the path of the module, and the tensor.

    Raises:
        ValueError: naming the first such parameter.
    """
    for name, part in named:
        if type(part.detach()) is not Tensor or not values_are_cheap(part):
            continue
        values = part.exp() if ".log_" in f".{name}" else part
        if not all_finite(values):
            wrong = part[~values.isfinite()][0].item()
            raise ValueError(f"{name} must be finite, got {wrong}: lower the learning rate, or clip gradients.")


def all_finite(x: Tensor) -> bool:
    """Whether no number is infinite or NaN. A finite sum says so in a third of the time of looking at every number."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def values_are_cheap(tensor: Tensor) -> bool:
    """Whether looking at the values of a tensor costs little, and is possible at all: not while a program is traced."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return has_memory(tensor)


def _asserts(tensor: Tensor) -> bool:
    """Whether the device of a tensor can assert something of its values without being waited for."""
    if tensor.device.type not in ASSERTING_DEVICES or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    return torch.compiler.is_compiling() or has_memory(tensor)


def has_memory(tensor: Tensor) -> bool:
    """Whether the values of a tensor are anywhere: not under vmap, nor of a fake tensor."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True
