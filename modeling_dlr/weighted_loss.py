"""Cross-entropy in which rare classes weigh more, as the Trainer's ``compute_loss_func``.

trainer = Trainer(model, args, ..., compute_loss_func=class_weighted_loss)

`class_weighted_loss`, used by PathfinderSegmentation, gives all classes of a batch the same weight; `loss_by_counts`,
used by `modeling_dlr.finetuning`, gives each class a weight of its own for the whole training.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .checks_dlr import LABELS_CURE, check_class_labels, check_tensor, has_shape
from .configuration_base_dlr import IGNORED_CLASS


def class_weighted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of each class, then average over the classes in ``labels``.

    Source: arXiv 2212.00768, §4.2.

    Args:
        logits: [..., C].
        labels: [...] integers; -100 is ignored.

    Returns:
        A scalar; 0 if every label is ignored.

    Raises:
        TypeError: if labels are not a tensor.
        ValueError: if labels have another shape or a wrong type, or are outside 0 … C-1.
    """
    check_tensor("labels", labels, LABELS_CURE)
    *shape, classes = logits.shape
    if not has_shape(labels, shape):
        raise ValueError(f"labels must have the shape {shape} of the logits, got {list(labels.shape)}.")
    check_class_labels(labels, classes)
    logits, labels = logits.reshape(-1, classes), labels.reshape(-1).long()
    labels = labels.to(logits.device)
    counts = labels.new_zeros(classes).index_add(0, labels.clamp(min=0), (labels != IGNORED_CLASS).long())
    weight = torch.where(counts > 0, 1.0 / counts.clamp(min=1), 0.0).to(logits.dtype)
    return _weighted_mean(logits, labels, weight)


def _weighted_mean(logits: Tensor, labels: Tensor, weight: Tensor | None, label_smoothing: float = 0.0) -> Tensor:
    """The mean of logits [n, C] and labels [n] by the weights [C] of the labels; 0 if every label is ignored."""
    mean = functional.cross_entropy(logits, labels, weight, ignore_index=IGNORED_CLASS, label_smoothing=label_smoothing)
    return torch.where((labels == IGNORED_CLASS).all(), torch.zeros_like(mean), mean)


def class_weighted_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """`class_weighted_cross_entropy` as the Trainer's ``compute_loss_func``.

    Args:
        outputs: the model's outputs, with ``logits``.
        labels: as in `class_weighted_cross_entropy`.
        num_items_in_batch: number of labels in the whole batch that are not ignored, if this call sees a part of it.
            The loss is then weighted with this part's share of those labels.
    """
    logits = _logits(outputs)
    return _share(class_weighted_cross_entropy(logits, labels), labels, num_items_in_batch)


def loss_by_counts(counts: Sequence[int] | None, label_smoothing: float = 0.0) -> Callable[..., Tensor]:
    """Cross-entropy with a fixed weight for each class, as the Trainer's ``compute_loss_func``.

    Args:
        counts: how often each class occurs: a class weighs 1 / sqrt(count), and the mean weight is 1. None weighs all
            alike.
        label_smoothing: of the labels.

    Returns:
        A function of outputs, labels and the number of labels, as `class_weighted_loss`.
    """
    weight = None
    if counts is not None:
        weight = 1 / torch.tensor(counts, dtype=torch.float32).sqrt()
        weight = weight / weight.mean()

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        nonlocal weight
        logits = _logits(outputs).flatten(0, -2).float()
        if weight is not None:
            weight = weight.to(logits.device)  # copied in the first step only
        mean = _weighted_mean(logits, labels.flatten().to(logits.device), weight, label_smoothing)
        return _share(mean, labels, num_items_in_batch)

    return loss


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


def _share(loss: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """The loss by this part's share of the labels of the whole batch."""
    return loss if num_items_in_batch is None else loss * ((labels != IGNORED_CLASS).sum() / num_items_in_batch)
