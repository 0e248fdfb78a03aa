"""Run the recipes of the papers, and their small twins, as `modeling-dlr recipes` does."""

from .checks import OF_DATA, OF_TASK
from .data import KINDS
from .masking import masked_batch, masked_head, span_mask
from .options import RecipeOptions
from .running import read_run, run_recipe

__all__ = [
    "KINDS",
    "OF_DATA",
    "OF_TASK",
    "RecipeOptions",
    "masked_batch",
    "masked_head",
    "read_run",
    "run_recipe",
    "span_mask",
]
