"""One loss for every classification and regression head, chosen by ``config.problem_type`` as in transformers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .checks_dlr import (
    LABELS_CURE,
    SIGNED_INTEGERS,
    TOKENS_CURE,
    check_class_labels,
    check_integers,
    check_tensor,
    check_values,
    has_shape,
)
from .configuration_base_dlr import IGNORED_CLASS, ProblemType, check_problem_type
from .configuration_dlr import DLRConfig
from .ops_dlr import at_least_float32


def loss_by_problem_type(
    *, logits: Tensor, labels: Tensor, config: DLRConfig, num_items_in_batch: Tensor | int | None = None, **_
) -> Tensor:
    """Mean cross-entropy, binary cross-entropy or squared error over the labels that count.

    As everywhere in transformers, the first labels seen settle ``config.problem_type`` when it is None: one label is
    regression, integers are single-label and floats multi-label classification. A head has a configuration of its own,
    so that this settles nothing for another.

    Args:
        logits: [..., num_labels].
        labels: [...] or [..., 1] integers (-100 is ignored) for single-label classification; [..., num_labels], or
            [...] when num_labels is 1, of floats otherwise (NaN is ignored), or of integers (-100 is ignored).
        config: of the model.
        num_items_in_batch: labels other than -100 in the whole batch, when this call sees one part of it (gradient
            accumulation, or one of several processes); the parts' losses then add up to the mean over the whole,
            exactly so for integers, and for floats if NaN is spread evenly over the parts: the Trainer counts it.

    Returns:
        A scalar; 0 when every label is ignored.

    Raises:
        ValueError: for labels that do not fit the problem, see `check_labels`.
    """
    labels, config.problem_type = check_labels(labels, logits.shape, config.problem_type)
    logits, labels = at_least_float32(logits), labels.to(logits.device)
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, labels, num_items_in_batch)
    counts = ~_ignored(labels)
    target = torch.where(counts, labels, 0).to(logits.dtype)
    regression = config.problem_type == "regression"
    loss = functional.mse_loss if regression else functional.binary_cross_entropy_with_logits
    per_label = loss(logits, target, reduction="none")
    mean = torch.where(counts, per_label, 0).sum() / counts.sum().clamp(min=1)
    if num_items_in_batch is None:
        return mean
    # This call weighs as much as its share of what the Trainer counts: every label but -100, NaN included.
    return mean * ((labels != IGNORED_CLASS).sum() / _at_least_one(num_items_in_batch))


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The mean over labels that are not -100, as `loss_by_problem_type` has it: [..., classes] and [...] integers.

    It is 0, not NaN, where every label is ignored: of a short text that was masked nowhere, or of one token alone. The
    labels have been checked.
    """
    logits, labels = at_least_float32(logits).flatten(0, -2), labels.to(logits.device).reshape(-1).long()
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED_CLASS, reduction="sum")
    return total / _at_least_one((labels != IGNORED_CLASS).sum() if num_items_in_batch is None else num_items_in_batch)


def spans(starts: Tensor | None, ends: Tensor | None) -> Tensor | None:
    """First and last steps, [B] or [B, 1] each, as labels [B, 2]; None unless both are given.

    Raises:
        TypeError: for positions that are no tensors.
        ValueError: for positions that are no integers, and for shapes that differ or are others.
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
    """Refuse labels of spans that are not those of a batch.

    Raises:
        ValueError: naming the shape.
    """
    if not has_shape(labels, [batch_size, 2]):
        raise ValueError(
            f"start_positions and end_positions must have the shape {[batch_size]}, one per sequence, got "
            f"{[len(labels)]}."
        )


def check_choices(labels: Tensor, batch_size: int, choices: int) -> None:
    """Refuse labels that are not the index of one of several choices for each question.

    Raises:
        TypeError: for labels that are no tensor.
        ValueError: for labels of another shape or type, or beyond the choices, and for a single choice.
    """
    check_tensor("labels", labels, LABELS_CURE)
    if choices == 1:
        raise ValueError("labels of a single choice teach nothing: give every question at least 2 choices.")
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
        labels: [B, 2] integers; one outside the sequence, as of an answer that was cut off, is ignored.

    Returns:
        A scalar; 0 when every label is ignored.
    """
    within = (labels >= 0) & (labels < logits.shape[1])
    labels = labels.masked_fill(~within, IGNORED_CLASS)
    return (cross_entropy(logits[..., 0], labels[:, 0]) + cross_entropy(logits[..., 1], labels[:, 1])) / 2


def _at_least_one(count: Tensor | int) -> Tensor:
    return torch.as_tensor(count).clamp(min=1)


def token_loss(*, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **_) -> Tensor:
    """The mean cross-entropy of the tokens at their own steps: [B, L, vocab_size] and [B, L]; see `cross_entropy`.

    Raises:
        ValueError: for a label that is no token.
    """
    check_class_labels(labels, logits.shape[-1], size="vocab_size", cure=TOKENS_CURE)
    return cross_entropy(logits, labels, num_items_in_batch)


def next_token_loss(*, logits: Tensor, labels: Tensor, shift_labels: Tensor | None = None, **kwargs) -> Tensor:
    """The same of each step's next token; ``shift_labels`` are labels that have been shifted already."""
    if shift_labels is None:
        shift_labels = functional.pad(labels, (0, 1), value=IGNORED_CLASS)[:, 1:]
    return token_loss(logits=logits, labels=shift_labels, **kwargs)


def within_documents(
    labels: Tensor, first: Tensor, num_items_in_batch: Tensor | int | None
) -> tuple[Tensor, Tensor | int | None]:
    """Labels of next tokens without the first token of each document, which does not follow from the one before it.

    Args:
        labels: [B, L].
        first: [B, L], True where a document begins.
        num_items_in_batch: the Trainer's count of labels, those tokens included.

    Returns:
        The labels, and the count, lowered so that what is left weighs as much as its share of it.
    """
    targets = labels.masked_fill(first, IGNORED_CLASS)
    if num_items_in_batch is not None:
        counted, left = ((each[:, 1:] != IGNORED_CLASS).sum() for each in (labels, targets))
        num_items_in_batch = num_items_in_batch * (left / counted.clamp(min=1))
    return targets, num_items_in_batch


def check_labels(labels: Tensor, shape: Sequence[int], problem_type: ProblemType | None) -> tuple[Tensor, ProblemType]:
    """Refuse labels that do not fit logits of a ``shape``; those that do, with the axes of the loss, and their problem.

    Raises:
        TypeError: for labels that are no tensor.
        ValueError: for labels of the wrong shape or type, for a class outside 0 … num_labels-1, a probability outside
            0 … 1 and a number that is infinite, and for a problem that a head of so many outputs cannot have.
    """
    check_tensor("labels", labels, LABELS_CURE)
    *steps, num_labels = shape
    problem = problem_type or _problem_type_of(labels, num_labels)
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
    return labels.reshape(expected), problem


def _problem_type_of(labels: Tensor, num_labels: int) -> ProblemType:
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _other_problem(labels: Tensor, steps: Sequence[int], num_labels: int) -> str:
    """What to do about labels [..., num_labels] that were read as classes, and the other way round."""
    if has_shape(labels, [*steps, num_labels]):
        return (
            "for several classes at once set problem_type='multi_label_classification', for numbers 'regression', and "
            "pass labels.float()"
        )
    if has_shape(labels, steps, [*steps, 1]):
        return "one class each needs labels.long() and problem_type='single_label_classification', numbers num_labels=1"
    return "pass one each, -100 to ignore it, or set problem_type"


def _check_numbers(labels: Tensor, problem: ProblemType) -> None:
    """Refuse labels of other problems than classes by their type and values."""
    real = labels.is_floating_point()
    if not real and labels.dtype not in SIGNED_INTEGERS:
        raise ValueError(f"labels for {problem} must be floats, got {labels.dtype}: pass labels.float().")
    ignored = f"(or be {'NaN' if real else IGNORED_CLASS} to be ignored)"
    if problem == "multi_label_classification":
        check_values(
            labels,
            lambda labels: ((labels >= 0) & (labels <= 1)) | _ignored(labels),
            f"Labels for {problem} must lie in 0 … 1 {ignored}",
            "1 is a class that is there, 0 one that is not",
        )
    elif real:
        check_values(labels, lambda labels: ~labels.isinf(), f"Labels must be finite {ignored}", "drop such examples")


def _ignored(labels: Tensor) -> Tensor:
    return labels.isnan() if labels.is_floating_point() else labels == IGNORED_CLASS
