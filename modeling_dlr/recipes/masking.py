"""Hide spans of a sequence, which a model then predicts from what is left."""

import math

import numpy as np


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
