"""Losses of sequences of which each process has some steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeling_dlr.configuration_base_dlr import IGNORED_CLASS
from modeling_dlr.heads_dlr import DLRForTokenClassification
from modeling_dlr.losses_dlr import loss_by_problem_type, next_token_loss, token_loss
from modeling_dlr.modeling_dlr import DLRForCausalLM, DLRLanguageHead, DLRPreTrainedModel

from .collectives import Team, added, shared_loss


class WholeLoss(NamedTuple):
    """How the loss of whole sequences follows from that of some steps.

    Attributes:
        arguments: for the forward of this process.
        of: the loss of the whole sequences, by the one that this forward returns.
    """

    arguments: dict[str, Any]
    of: Callable[[Tensor], Tensor]


def whole_loss(
    head: DLRPreTrainedModel, labels: Tensor | None, shifted: Tensor | None, items: Tensor | int | None, team: Team
) -> WholeLoss:
    """Choose by the head.

    Args:
        head: a model with a loss.
        labels: of this process.
        shifted: likewise, the labels of the next steps.
        items: the number of labels in the whole batch that the Trainer counted, or None.
        team: the processes that share the sequences.

    Raises:
        ValueError: for a loss function at every step that is not the head's own.
    """
    if not isinstance(head, (DLRLanguageHead, DLRForTokenClassification)):
        # Logits are the same on every process. Each adds its share, because dropout may differ.
        known = {} if items is None else {"num_items_in_batch": items}
        return WholeLoss(known, lambda loss: shared_loss(loss / team.size, team.group))
    if labels is not None and head.loss_function not in (loss_by_problem_type, next_token_loss, token_loss):
        raise ValueError(
            f"{head.loss_function} is not the loss function of {type(head).__name__}, and may not be a mean over "
            "labels: compute it from the logits."
        )

    def of(mean: Tensor) -> Tensor:
        assert labels is not None  # noqa: S101 - otherwise there is no loss
        targets, listed = labels, labels
        if isinstance(head, DLRForCausalLM) and shifted is not None:
            targets = shifted
            listed = labels if team.rank else labels[:, 1:]  # no step predicts the first label
        counted = ~targets.isnan() if targets.is_floating_point() else targets != IGNORED_CLASS
        own = torch.stack([counted.sum(), (listed != IGNORED_CLASS).sum()]).to(mean.device, torch.float64)
        every = added(own, team.group)
        loss = shared_loss(mean * (own[0] / every[0].clamp(min=1)).to(mean.dtype), team.group)
        return loss if items is None else loss * (every[1] / torch.as_tensor(items).clamp(min=1)).to(loss)

    return WholeLoss({}, of)
