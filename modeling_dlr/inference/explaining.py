"""Which spans of a text moved the answer most: integrated gradients (Sundararajan et al. 2017, section 3)."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_dlr.finetuning import Task

from .answers import Cells
from .inputs import Item

# Points of the path from nothing to the text, at the middle of as many equal pieces.
POINTS = 32
# Letters of a span where a text has no words, as DNA has none.
PIECE = 8


def attributions(model: Any, inputs: dict[str, Tensor], task: Task, points: int = POINTS) -> Tensor:
    """How much every step moved the answer away from that to a text of as many steps that say nothing.

    The answer is the log-odds of the label that the model gives (of several labels, of the likeliest), or the number.
    The text that says nothing has the embedding of padding at every step, or zeros where there is no such token.

    Args:
        model: with an answer per row.
        inputs: ``input_ids`` and ``attention_mask`` [B, L], or [B, 2, L] for pairs.
        task: what the model answers.
        points: at which the gradient is taken; the sum over steps nears the difference of answers with more of them.

    Returns:
        In the shape of ``input_ids``, in float32, on the CPU.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embed, nothing = model.get_input_embeddings(), model.config.pad_token_id
    with torch.no_grad():
        whole = embed(ids)
        empty = torch.zeros_like(whole) if nothing is None else embed(torch.full_like(ids, nothing))
        chosen = model(inputs_embeds=whole, attention_mask=mask).logits.argmax(-1)
    total = torch.zeros_like(whole)
    for point in range(points):
        here = (empty + (point + 0.5) / points * (whole - empty)).requires_grad_()
        logits = model(inputs_embeds=here, attention_mask=mask).logits
        total += torch.autograd.grad(log_odds(logits, chosen, task).sum(), here)[0]
    return ((total / points * (whole - empty)).sum(-1) * mask).float().cpu()


def log_odds(logits: Tensor, chosen: Tensor, task: Task) -> Tensor:
    """What is explained [B], of logits [B, labels]: it moves where the score does, and does not level off near 1."""
    answer = logits.gather(1, chosen.unsqueeze(1)).squeeze(1)
    if task.is_number or task.task == "several labels":
        return answer
    return answer - logits.scatter(1, chosen.unsqueeze(1), -torch.inf).logsumexp(1)


def explain(model: Any, inputs: dict[str, Tensor], items: Sequence[Item], task: Task, count: int) -> list[list[Cells]]:
    """The words of texts (pieces of them, where they have none) that moved the answers most.

    Args:
        model: with an answer per row.
        inputs: of a batch of texts, or of pairs.
        items: these texts or pairs.
        task: what the model answers.
        count: of words at most, for each text.

    Returns:
        For each text its words, the largest first: "start" and "end" in characters, "text", and "weight", above 0
        where it speaks for the answer and below 0 where it speaks against it. For a pair, "column" says first in which
        of its texts a word is.
    """
    found = []
    for item, weights in zip(items, attributions(model, inputs, task), strict=True):
        words = (
            _words(item, weights)
            if not item.sides
            else [
                {"column": column} | word
                for column, side, of_side in zip(task.text_columns, item.sides, weights, strict=True)
                for word in _words(side, of_side)
            ]
        )
        words.sort(key=lambda word: -abs(word["weight"]))
        found.append([word | {"weight": float(f"{word['weight']:.4g}")} for word in words[:count] if word["weight"]])
    return found


def _words(item: Item, weights: Tensor) -> list[Cells]:
    """The words of a text with the sum of the weights [L] of their steps."""
    text, per_character = item.text, np.zeros(len(item.text) + 1)
    for weight, (start, end) in zip(weights[: item.length].tolist(), item.units, strict=True):
        per_character[start + 1 : end + 1] += weight / max(1, end - start)
    up_to = per_character.cumsum()
    return [
        {"start": start, "end": end, "text": text[start:end], "weight": float(up_to[end] - up_to[start])}
        for start, end in pieces(text)
    ]


def pieces(text: str) -> list[tuple[int, int]]:
    """The words of a text by first character and the one after the last; pieces of a word that is long."""
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]+", text)]
    longest = 4 * PIECE
    return [
        (first, min(first + PIECE, end)) if end - start > longest else (start, end)
        for start, end in words
        for first in (range(start, end, PIECE) if end - start > longest else [start])
    ]
