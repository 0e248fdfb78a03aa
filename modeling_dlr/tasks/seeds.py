"""One random generator per example: an example depends only on the seed, the split and its index."""

import random
from typing import Literal, get_args

import numpy as np
import torch

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def example_seed(seed: int, split: Split, index: int) -> np.random.SeedSequence:
    """The seed sequence of example ``index``."""
    return np.random.SeedSequence((seed, SPLITS.index(split), index))


def torch_generator(seed: int, split: Split, index: int) -> torch.Generator:
    """The torch generator of one example."""
    word = int(example_seed(seed, split, index).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(word >> 1)  # torch's seed is a signed number


def python_random(seed: int, split: Split, index: int) -> random.Random:
    """The Python generator of one example."""
    return random.Random(int(example_seed(seed, split, index).generate_state(1, np.uint64)[0]))


def numpy_random(seed: int, split: Split, index: int) -> np.random.RandomState:
    """The legacy NumPy generator of one example, which the official Pathfinder code uses."""
    return np.random.RandomState(example_seed(seed, split, index).generate_state(4))
