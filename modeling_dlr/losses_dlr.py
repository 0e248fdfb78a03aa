"""Pooling, labels and losses of the heads."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .checks_dlr import (
    LABELS_CURE,
    SIGNED_INTEGERS,
    check_class_labels,
    check_integers,
    check_tensor,
    check_values,
    has_shape,
)
from .configuration_base_dlr import IGNORED_CLASS, ProblemType, check_problem_type
from .configuration_dlr import DLRConfig
from .ops_dlr import at_least_float32


class Pooled(NamedTuple):
    """The state of pooling after some steps.

    Attributes:
        value: [B, H], the sum, maximum, first or last of the steps that are not padding; undefined if there are none.
            Of "mean_max", the sum in the first half of the channels and the maximum in the others.
        count: [B, 1], the number of those steps.
    """

    value: Tensor
    count: Tensor


class Pooling(NamedTuple):
    """A way to pool.

    Attributes:
        reduce: pools a chunk: hidden states [B, L, H] and mask [B, L] to [B, H].
        join: joins the values of two chunks, the earlier and the later one, to [B, H].
        features: of the value and the count, [B, H].
    """

    reduce: Callable[[Tensor, Tensor], Tensor]
    join: Callable[[Pooled, Pooled], Tensor]
    features: Callable[[Pooled], Tensor] = lambda total: total.value


def _sum(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return hidden_states.masked_fill(~mask.unsqueeze(-1), 0).sum(1)


def _max(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return hidden_states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)


def _first(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return _pick(hidden_states, mask.int().argmax(1))


def _last(hidden_states: Tensor, mask: Tensor) -> Tensor:
    return _pick(hidden_states, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))


def _pick(hidden_states: Tensor, steps: Tensor) -> Tensor:
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), steps]


def _mean(total: Pooled) -> Tensor:
    return total.value / total.count.clamp(min=1)


def _halves(values: Tensor) -> tuple[Tensor, ...]:
    """The first half of the channels, rounded down, and the others."""
    return values.tensor_split([values.shape[-1] // 2], dim=-1)


def _sum_and_max(hidden_states: Tensor, mask: Tensor) -> Tensor:
    first, others = _halves(hidden_states)
    return torch.cat([_sum(first, mask), _max(others, mask)], dim=-1)


def _join_sum_and_max(earlier: Pooled, later: Pooled) -> Tensor:
    (first, others), (next_first, next_others) = _halves(earlier.value), _halves(later.value)
    return torch.cat([first + next_first, torch.maximum(others, next_others)], dim=-1)


def _mean_and_max(total: Pooled) -> Tensor:
    first, others = _halves(total.value)
    return torch.cat([first / total.count.clamp(min=1), others], dim=-1)


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling(_sum, lambda earlier, later: earlier.value + later.value, _mean),
    "mean_max": Pooling(_sum_and_max, _join_sum_and_max, _mean_and_max),
    "max": Pooling(_max, lambda earlier, later: torch.maximum(earlier.value, later.value)),
    "first": Pooling(_first, lambda earlier, later: torch.where(earlier.count > 0, earlier.value, later.value)),
    "last": Pooling(_last, lambda earlier, later: torch.where(later.count > 0, later.value, earlier.value)),
}


def pool(name: str, hidden_states: Tensor, mask: Tensor | None, earlier: Pooled | None = None) -> tuple[Tensor, Pooled]:
    """Pool the steps that are not padding, of this chunk and of earlier ones.

    Args:
        name: "mean", "max", "first", "last", or "mean_max": the mean in the first half of the channels (rounded down),
            which tells what a sequence is about, and the maximum in the others, which tells what occurs in it.
        hidden_states: [B, L, H].
        mask: [B, L], False where a step is padding; None if no step is.
        earlier: the state after earlier chunks.

    Returns:
        The features [B, H], in the type of the hidden states, zeros where all steps are padding; and the state for the
        next chunk.
    """
    if mask is None:
        mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    if not hidden_states.shape[1]:  # one step of padding instead of no step
        hidden_states, mask = functional.pad(hidden_states, (0, 0, 0, 1)), functional.pad(mask, (0, 1))
    pooling = POOLINGS[name]
    states = at_least_float32(hidden_states)
    total = Pooled(pooling.reduce(states, mask), mask.sum(1, keepdim=True).to(states.dtype))
    if earlier is not None:
        total = Pooled(pooling.join(earlier, total), earlier.count + total.count)
    features = pooling.features(total)
    return features.masked_fill(total.count == 0, 0).to(hidden_states.dtype), total


def loss_by_problem_type(
    *, logits: Tensor, labels: Tensor, config: DLRConfig, num_items_in_batch: Tensor | int | None = None, **_
) -> Tensor:
    """Mean cross-entropy, binary cross-entropy or squared error over the labels that are not ignored.

    As in transformers, the first labels set ``config.problem_type`` if it is None: with one label it is regression,
    with integers single-label and with floats multi-label classification. Every head has its own configuration.

    Args:
        logits: [..., num_labels].
        labels: that `check_labels` accepts: [...] or [..., 1] integers (-100 is ignored) for single-label
            classification; otherwise [..., num_labels], or [...] if num_labels is 1, of floats (NaN is ignored) or
            integers (-100 is ignored).
        config: of the model.
        num_items_in_batch: the number of labels other than -100 in the whole batch, of which this call has a part
            (gradient accumulation, or one of several processes). The losses of the parts add up to the mean over the
            whole. For floats this is exact if NaN is spread evenly over the parts, because the Trainer counts it.

    Returns:
        A scalar; 0 if every label is ignored.
    """
    if config.problem_type is None:
        config.problem_type = problem_type_of(labels, logits.shape[-1])
    logits, labels = at_least_float32(logits), labels.to(logits.device)
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, labels, num_items_in_batch)
    labels = labels.reshape(logits.shape)
    counts = ~_ignored(labels)
    target = torch.where(counts, labels, 0).to(logits.dtype)
    regression = config.problem_type == "regression"
    loss = functional.mse_loss if regression else functional.binary_cross_entropy_with_logits
    per_label = loss(logits, target, reduction="none")
    mean = torch.where(counts, per_label, 0).sum() / counts.sum().clamp(min=1)
    if num_items_in_batch is None:
        return mean
    # The weight of this call is its share of what the Trainer counts: every label but -100, NaN included.
    return mean * ((labels != IGNORED_CLASS).sum() / torch.as_tensor(num_items_in_batch).clamp(min=1))


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The mean over labels that are not -100: logits [..., classes] and labels [...]; see `loss_by_problem_type`.

    It is 0, not NaN, if every label is ignored, as in a short text without a masked token.
    """
    logits, labels = at_least_float32(logits).flatten(0, -2), labels.to(logits.device).reshape(-1).long()
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED_CLASS, reduction="sum")
    count = (labels != IGNORED_CLASS).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return total / count.clamp(min=1)


def spans(starts: Tensor | None, ends: Tensor | None) -> Tensor | None:
    """Stack first and last steps, [B] or [B, 1] each, to labels [B, 2]; None unless both are given.

    Raises:
        TypeError: if a position is not a tensor.
        ValueError: if positions are not integers, or their shapes are wrong or differ.
    """
    if starts is None or ends is None:
        return None
    for name, positions in (("start_positions", starts), ("end_positions", ends)):
        check_tensor(name, positions, "make a torch.tensor of it")
        check_integers(name, positions)
    if starts.shape != ends.shape:
        raise ValueError(
            f"start_positions and end_positions must have one shape, got {list(starts.shape)} and {list(ends.shape)}."
        )
    if not has_shape(starts, starts.shape[:1], [*starts.shape[:1], 1]):
        raise ValueError(f"start_positions and end_positions must have the shape [batch], got {list(starts.shape)}.")
    return torch.stack([starts.flatten(), ends.flatten()], dim=1).long()


def check_spans(labels: Tensor, batch_size: int) -> None:
    """Refuse labels of spans whose shape does not fit the batch.

    Raises:
        ValueError: naming the shape.
    """
    if not has_shape(labels, [batch_size, 2]):
        raise ValueError(
            f"start_positions and end_positions must have the shape {[batch_size]}, one per sequence, got "
            f"{[len(labels)]}."
        )


def check_choices(labels: Tensor, batch_size: int, choices: int) -> None:
    """Refuse labels that are not the index of a choice for each question.

    Raises:
        TypeError: if the labels are not a tensor.
        ValueError: if their shape or type is wrong, a label is not the index of a choice, or there is one choice only.
    """
    check_tensor("labels", labels, LABELS_CURE)
    if choices == 1:
        raise ValueError("labels need at least 2 choices per question, got 1: add wrong answers as choices.")
    if not has_shape(labels, [batch_size], [batch_size, 1]):
        raise ValueError(
            f"labels must have the shape {[batch_size]}, the index of the right choice of each question, got "
            f"{list(labels.shape)}."
        )
    check_class_labels(labels, choices, size="num_choices", cure="count the choices of a question from 0")


def span_loss(*, logits: Tensor, labels: Tensor, **_) -> Tensor:
    """The mean cross-entropy of first and of last steps.

    Args:
        logits: [B, L, 2].
        labels: [B, 2] integers; labels outside the sequence, as of an answer that was cut off, are ignored.

    Returns:
        A scalar; 0 if every label is ignored.
    """
    within = (labels >= 0) & (labels < logits.shape[1])
    labels = labels.masked_fill(~within, IGNORED_CLASS)
    return (cross_entropy(logits[..., 0], labels[:, 0]) + cross_entropy(logits[..., 1], labels[:, 1])) / 2


def token_loss(*, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **_) -> Tensor:
    """The mean cross-entropy of logits [B, L, vocab_size] and tokens [B, L] at the same steps; see `cross_entropy`."""
    return cross_entropy(logits, labels, num_items_in_batch)


def next_token_loss(*, logits: Tensor, labels: Tensor, shift_labels: Tensor | None = None, **kwargs) -> Tensor:
    """The mean cross-entropy of the next token at each step; ``shift_labels`` are labels that are shifted already."""
    if shift_labels is None:
        shift_labels = functional.pad(labels, (0, 1), value=IGNORED_CLASS)[:, 1:]
    return token_loss(logits=logits, labels=shift_labels, **kwargs)


def within_documents(
    labels: Tensor, starts: Tensor, num_items_in_batch: Tensor | int | None
) -> tuple[Tensor, Tensor | int | None]:
    """Ignore the first token of each document as a label: the step before it is in another document.

    Args:
        labels: [B, L].
        starts: [B, L], True at the first step of each document.
        num_items_in_batch: the Trainer's count of labels, those tokens included.

    Returns:
        The labels, and the count, lowered so that what is left weighs as much as its share of it.
    """
    targets = labels.masked_fill(starts, IGNORED_CLASS)
    if num_items_in_batch is not None:
        counted, left = ((each[:, 1:] != IGNORED_CLASS).sum() for each in (labels, targets))
        num_items_in_batch = num_items_in_batch * (left / counted.clamp(min=1))
    return targets, num_items_in_batch


def check_labels(labels: Tensor, logits_shape: Sequence[int], problem_type: ProblemType | None) -> None:
    """Refuse labels that do not fit logits of a shape [..., num_labels].

    Raises:
        TypeError: if the labels are not a tensor.
        ValueError: if their shape or type is wrong, a class is outside 0 … num_labels-1, a probability is outside
            0 … 1, or a number is infinite; or if a head with num_labels outputs cannot have this problem type.
    """
    check_tensor("labels", labels, LABELS_CURE)
    *steps, num_labels = logits_shape
    problem = problem_type or problem_type_of(labels, num_labels)
    check_problem_type(problem, num_labels)
    single = problem == "single_label_classification"
    expected, other = (steps, [*steps, 1]) if single else ([*steps, num_labels], steps if num_labels == 1 else None)
    if not has_shape(labels, expected, other):
        raise ValueError(
            f"labels for {problem} with num_labels={num_labels} must have the shape {expected}, got "
            f"{list(labels.shape)}: {_other_problem(labels, steps, num_labels)}."
        )
    if single:
        check_integers("labels", labels, "pass labels.long() if they are classes, or set another problem_type")
        check_class_labels(labels, num_labels)
    else:
        _check_numbers(labels, problem)


def problem_type_of(labels: Tensor, num_labels: int) -> ProblemType:
    """The problem type that labels have by their type and number, as in transformers."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _other_problem(labels: Tensor, steps: Sequence[int], num_labels: int) -> str:
    """The cure for labels whose shape fits another problem type."""
    if has_shape(labels, [*steps, num_labels]):
        return (
            "for several classes at once set problem_type='multi_label_classification', for numbers 'regression', and "
            "pass labels.float()"
        )
    if has_shape(labels, steps, [*steps, 1]):
        return "one class each needs labels.long() and problem_type='single_label_classification', numbers num_labels=1"
    return "pass one each, -100 to ignore it, or set problem_type"


def _check_numbers(labels: Tensor, problem: ProblemType) -> None:
    """Refuse the types and values of labels that are not classes."""
    real = labels.is_floating_point()
    if not real and labels.dtype not in SIGNED_INTEGERS:
        raise ValueError(f"labels for {problem} must be floats, got {labels.dtype}: pass labels.float().")
    ignored = f"(or be {'NaN' if real else IGNORED_CLASS} to be ignored)"
    if problem == "multi_label_classification":
        check_values(
            labels,
            lambda labels: ((labels >= 0) & (labels <= 1)) | _ignored(labels),
            f"Labels for {problem} must lie in 0 … 1 {ignored}",
            "1 is a class that the text has, 0 one that it has not",
        )
    elif real:
        check_values(labels, lambda labels: ~labels.isinf(), f"Labels must be finite {ignored}", "drop such examples")


def _ignored(labels: Tensor) -> Tensor:
    return labels.isnan() if labels.is_floating_point() else labels == IGNORED_CLASS
