"""What a launcher, such as torchrun, has started."""

import os

from transformers import TrainingArguments


def launched() -> int:
    """The number of processes that a launcher has started, or 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_processes(training: TrainingArguments) -> None:
    """Check that the processes which were launched know one another; otherwise each would write the same folder.

    Raises:
        ValueError: if they do not, as on a machine without the GPUs that the launch configuration is for.
    """
    if launched() > 1 and training.world_size == 1:
        raise ValueError(
            f"{launched()} processes were launched, but each would train by itself: there are no GPUs for them. Set "
            "use_cpu=True (--use_cpu True) to train on CPUs, or launch one process."
        )
