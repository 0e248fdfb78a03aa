"""The time of a run: how much is left for training, and how far the learning rates are on their way."""

import math
import time
from collections.abc import Callable


class Clock:
    """The time that a run may take.

    Args:
        budget: seconds for everything, or None.

    Attributes:
        reserved: seconds that are kept for what comes after training.
        training_began: when; None before.
        trained_before: seconds of training before the run was stopped and resumed.
    """

    def __init__(self, budget: float | None):
        self.budget, self.began = budget, time.perf_counter()
        self.reserved = 0.0
        self.training_began: float | None = None
        self.trained_before = 0.0

    def spent(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def left_for_training(self) -> float:
        """Seconds that training may still take; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.reserved - self.spent() - self.trained_before

    def trained(self) -> float:
        """Seconds of training, those of an earlier run included."""
        now = 0.0 if self.training_began is None else time.perf_counter() - self.training_began
        return self.trained_before + now

    def share(self) -> float:
        """How much of the time for training is over, 0 … 1; 0 without a budget."""
        left = max(0.0, self.left_for_training())
        return 0.0 if math.isinf(left) else min(1.0, self.trained() / max(1e-9, self.trained() + left))


def warmup_and_cosine(clock: Clock, steps: int, warmup: float) -> Callable[[int], float]:
    """The factor of the learning rates at a step: warm-up and cosine over the steps or the time, whichever is further.

    Args:
        clock: knows the time.
        steps: of the training.
        warmup: share of it in which the rates rise.
    """

    def factor(step: int) -> float:
        progress = min(1.0, max((step + 1) / max(1, steps), clock.share()))
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1e-9, 1 - warmup)))

    return factor
