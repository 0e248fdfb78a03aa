"""One seed for each example: what is drawn for an example depends on nothing but the seed, the split and its index."""

import random
from typing import Literal, get_args

import numpy as np
import torch

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def example_seed(seed: int, split: Split, index: int) -> np.random.SeedSequence:
    """The entropy of example ``index``."""
    return np.random.SeedSequence((seed, SPLITS.index(split), index))


def torch_generator(seed: int, split: Split, index: int) -> torch.Generator:
    """A generator of torch for one example."""
    word = int(example_seed(seed, split, index).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(word >> 1)  # a signed number


def python_random(seed: int, split: Split, index: int) -> random.Random:
    """A generator of Python for one example."""
    return random.Random(int(example_seed(seed, split, index).generate_state(1, np.uint64)[0]))


def numpy_random(seed: int, split: Split, index: int) -> np.random.RandomState:
    """A generator of NumPy, of the old kind that the official Pathfinder draws from, for one example."""
    return np.random.RandomState(example_seed(seed, split, index).generate_state(4))
