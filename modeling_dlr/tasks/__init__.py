"""Data sets: the 13 tasks of the DLR paper (arXiv 2212.00768), and ListOps and Pathfinder of the Long Range Arena.

    load_task("shift", split="train", num_examples=1000, length=512)

Every task is a class whose fields are its options; `TASKS` maps names to classes.
"""

from .loading import TASKS, TaskName, build_task, load_task
from .seeds import SPLITS, Split
from .task import Task

__all__ = ["SPLITS", "TASKS", "Split", "Task", "TaskName", "build_task", "load_task"]
