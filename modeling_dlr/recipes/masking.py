"""Self-pretraining: hide spans of the inputs of a recipe, which the model then predicts from what is left.

Published for DLR and other models in "Never train from scratch" (arXiv 2310.02980).
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_dlr import DLRConfig, DLRForMaskedLM, DLRForTokenClassification, DLRModel
from modeling_dlr.finetuning.quiet import quiet_libraries
from modeling_dlr.signal_heads_dlr import raster

from .data import Batch, Prepared, View

SHARE, SPAN = 0.2, 5
IGNORED = -100


def span_mask(length: int, share: float, span: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the steps to hide: spans of 1 … 2 ``span`` - 1 steps that begin anywhere and may overlap.

    Args:
        length: number of steps L, at least 1.
        share: expected share of the steps that are hidden, in 0 … 1, both excluded.
        span: mean length of a span.
        generator: source of randomness.

    Returns:
        [L] bool, at least one of them True.

    >>> span_mask(8, 0.3, 2, np.random.default_rng(0)).astype(int)
    array([0, 0, 0, 0, 0, 1, 1, 0])
    """
    # Spans begin independently, at a rate at which none of them covers a step with probability 1 - share.
    counts = generator.poisson(-math.log1p(-share) / span, length)
    starts = np.repeat(np.arange(length), counts)
    ends = np.minimum(starts + generator.integers(1, 2 * span, len(starts)), length)
    change = np.zeros(length + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    hidden = change[:-1].cumsum() > 0
    if not hidden.any():
        hidden[generator.integers(length)] = True
    return hidden


def masked_batch(batch: Batch, hidden_token: int | None, channels: int | None, *, fixed: bool) -> Batch:
    """Hide spans of a batch; its labels become what is hidden.

    A hidden token becomes ``hidden_token``, a hidden value 0. Pairs of texts become single ones.

    Args:
        batch: ``input_ids`` [B, L] or [B, 2, L], ``input_values`` [B, L] or [B, L, C], or ``pixel_values``
            [B, C, h, w], maybe with an ``attention_mask``.
        hidden_token: for tokens.
        channels: for values, the input size of the model.
        fixed: whether the same inputs always have the same steps hidden, as in an evaluation.
    """
    mask = batch.get("attention_mask")
    if "input_ids" in batch:
        inputs = batch["input_ids"].reshape(-1, batch["input_ids"].shape[-1])
    elif "pixel_values" in batch:
        inputs = raster(batch["pixel_values"], channels)
    else:
        inputs = batch["input_values"].reshape(*batch["input_values"].shape[:2], -1)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long) if mask is None else mask.reshape(inputs.shape[:2])
    hidden = torch.stack([_hidden(row, steps.bool(), fixed) for row, steps in zip(inputs, mask, strict=True)])
    masked: Batch = {"attention_mask": mask} if "attention_mask" in batch else {}
    if "input_ids" in batch:
        return masked | {
            "input_ids": torch.where(hidden, hidden_token or 0, inputs),
            "labels": torch.where(hidden, inputs, IGNORED),
        }
    hidden = hidden.unsqueeze(-1)
    return masked | {
        "input_values": torch.where(hidden, 0.0, inputs),
        "labels": torch.where(hidden, inputs, torch.nan),
    }


def _hidden(row: Tensor, steps: Tensor, fixed: bool) -> Tensor:
    """The hidden steps of a row, [L], of those that are not padding."""
    seed = zlib.crc32(row.numpy().tobytes()) if fixed else int(torch.randint(2**62, ()))
    hidden = torch.zeros_like(steps)
    if steps.any():
        drawn = span_mask(int(steps.sum()), SHARE, SPAN, np.random.default_rng(seed))
        hidden[steps] = torch.from_numpy(drawn)
    return hidden


def masked_data(prepared: Prepared, channels: int | None) -> Prepared:
    """The same rows with their spans hidden, in place of their labels; those scored at the end are left out.

    The token of what is hidden is the mask token of the tokenizer, or, where it has none, the unknown token.
    """
    token = None
    if channels is None:
        tokenizer = prepared.processor
        if tokenizer.mask_token is None:
            tokenizer.mask_token = tokenizer.unk_token
        token = tokenizer.mask_token_id

    def view(of: View, fixed: bool) -> View:
        def collate(rows: list[dict[str, Any]]) -> Batch:
            return masked_batch(of.collate(rows), token, channels, fixed=fixed)

        return of._replace(collate=collate)

    return prepared._replace(
        train=view(prepared.train, False), validation=view(prepared.validation, True), at_the_end={}
    )


def masked_head(config: DLRConfig) -> Any:
    """A fresh model that predicts hidden tokens, or hidden values."""
    if config.vocab_size is not None:
        return DLRForMaskedLM(config)
    fields: dict[str, Any] = config.to_diff_dict()
    for name in ("id2label", "label2id", "num_labels"):
        fields.pop(name, None)
    return DLRForTokenClassification(
        DLRConfig(**fields | {"num_labels": config.input_size, "problem_type": "regression"})
    )


def load_layers(model: Any, folder: str) -> None:
    """Give a model the layers of another one, whatever their heads.

    Raises:
        ValueError: if the other one has layers of another kind or size.
    """
    with quiet_libraries():
        layers = DLRModel.from_pretrained(folder).state_dict()
    try:
        model.model.load_state_dict(layers)
    except RuntimeError:
        raise ValueError(
            f"--start_from must be a run of a model with the same layers and inputs, got {folder!r}."
        ) from None
