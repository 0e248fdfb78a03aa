"""Class-weighted cross-entropy, in which rare and frequent classes weigh the same; used by PathfinderSegmentation.

trainer = Trainer(model, args, ..., compute_loss_func=class_weighted_loss)
"""

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
    total = functional.cross_entropy(logits, labels, weight=weight, ignore_index=IGNORED_CLASS, reduction="sum")
    return total / (counts > 0).sum().clamp(min=1)


def class_weighted_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """`class_weighted_cross_entropy` as the Trainer's ``compute_loss_func``.

    Args:
        outputs: the model's outputs, with ``logits``.
        labels: as in `class_weighted_cross_entropy`.
        num_items_in_batch: number of labels in the whole batch that are not ignored, if this call sees a part of it.
            The loss is then weighted with this part's share of those labels.
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    loss = class_weighted_cross_entropy(logits, labels)
    return loss if num_items_in_batch is None else loss * ((labels != IGNORED_CLASS).sum() / num_items_in_batch)
