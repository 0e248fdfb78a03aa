"""What a launcher, such as torchrun, has started, and how a process of this library treats its machine."""

import ctypes
import os
import sys

import torch
from transformers import TrainingArguments

# Of malloc.h in glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, where it is glibc, up to 2 GB in pieces of at most 32 MB.

    Otherwise it gives large pieces back to the system, which clears them when they are needed again: a tenth of a
    training step. For processes that are ours alone, such as the command line; an import does not change a process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def keep_to_quota() -> None:
    """Compute with no more threads than the process may use processors, unless ``OMP_NUM_THREADS`` says how many.

    torch counts the processors of the machine. A container with a quota of two on a machine with 64 would be paused
    most of the time.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import joblib

        torch.set_num_threads(min(torch.get_num_threads(), joblib.cpu_count()))
