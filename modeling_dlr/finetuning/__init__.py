"""Train on your own data in one call, as `modeling-dlr train` does."""

from .evaluating import evaluate
from .options import TrainOptions
from .report import Report
from .running import train
from .tables import iter_rows
from .task import Task

__all__ = ["Report", "Task", "TrainOptions", "evaluate", "iter_rows", "train"]
