"""Train on your own data in one call, as `modeling-dlr train` does."""

from .tables import iter_rows
from .task import Task

__all__ = ["Task", "iter_rows"]
