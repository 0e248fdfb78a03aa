"""The first weights of the last layer of a pretrained model: those of a linear model of its features.

A random last layer distorts the features that training starts from, as "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution" shows (arXiv 2202.10054).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional

from .encoded import Collator
from .encoding import IGNORED

# Features at most: rows, or the steps of tokens.
MOST_FEATURES = 20_000
# The squared weights count as the losses of so many features.
PENALTY = 4.0


def fit_last_layer(
    model: Any, rows: Dataset, collator: Collator, batch_size: int, loss: Callable[..., Tensor] | None, most: int
) -> None:
    """Fit ``model.classifier`` to the labels of rows, by L-BFGS on standardized features.

    Args:
        model: with its pretrained layers.
        rows: encoded.
        collator: makes batches of them.
        batch_size: rows of a batch.
        loss: of the Trainer; None is the model's own.
        most: rows that are read at most.
    """
    features, labels = _features_of(model, rows, collator, batch_size, most)
    mean, deviation = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    features = (features - mean) / deviation
    weight, bias = (torch.zeros_like(each, requires_grad=True) for each in model.classifier.parameters())
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = functional.linear(features, weight, bias)
        if loss is None:
            value = model.loss_function(logits=logits, labels=labels, config=model.config)
        else:
            value = loss({"logits": logits}, labels)
        value = value + PENALTY / len(features) * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        model.classifier.weight.copy_(weight / deviation)
        model.classifier.bias.copy_(bias - model.classifier.weight @ mean)


@torch.no_grad()
def _features_of(model: Any, rows: Dataset, collator: Collator, batch_size: int, most: int) -> tuple[Tensor, Tensor]:
    """What the last layer reads, [n, F], and the labels of that, [n] or [n, C]."""
    features: list[Tensor] = []
    labels: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    order = np.random.default_rng(0).permutation(len(rows))[:most]
    try:
        model.eval()
        for start in range(0, len(order), batch_size):
            batch = collator([rows[int(place)] for place in order[start : start + batch_size]])
            batch = {name: each.to(model.device) for name, each in batch.items()}
            model(**batch)
            labels.append(batch["labels"])
            if features[-1].dim() == 3:  # of tokens
                known = labels[-1] != IGNORED
                features[-1], labels[-1] = features[-1][known], labels[-1][known]
            if sum(map(len, labels)) >= MOST_FEATURES:
                break
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(labels)
