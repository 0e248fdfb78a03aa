"""What a launcher, such as torchrun, has started, and how a process of this library treats its machine."""

import ctypes
import functools
import os
import sys
import threading

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


@functools.cache
def share_processors(seconds: float = 0.25) -> None:
    """Let threads that wait for one another give up their processors while other programs need them.

    A thread of GNU's OpenMP that waits spins 300,000 times, which is best on an idle machine; but 100 times where the
    process has more threads than processors (libgomp's manual, ``GOMP_SPINCOUNT``). While others are busy, threads of
    Python that sleep make it so. Call it after ``torch.set_num_threads``. Where ``GOMP_SPINCOUNT`` or
    ``OMP_WAIT_POLICY`` is set, it says how threads wait. A process with one thread has nothing to share.

    Args:
        seconds: from one look at the machine to the next.
    """
    chosen, threads = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys(), torch.get_num_threads()
    if sys.platform == "linux" and not chosen and threads > 1:
        threading.Thread(target=_watch, args=(seconds, threads), name="share_processors", daemon=True).start()


def _watch(seconds: float, threads: int) -> None:
    """Have more threads than processors while others need these; end where the system does not say how busy it is."""
    import psutil

    processors, end = len(os.sched_getaffinity(0)), None
    try:
        process = psutil.Process()
        process.cpu_percent()
        while True:
            others = psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1) - process.cpu_percent() / 100
            crowded = others + threads > processors + 0.25
            if crowded and end is None:
                end = threading.Event()
                for _ in range(max(1, processors - threads + 1)):
                    name = "share_processors: sleeping"
                    threading.Thread(target=_sleep, args=(end,), name=name, daemon=True).start()
            elif not crowded and end is not None:
                end.set()
                end = None
    except (psutil.Error, OSError):
        if end is not None:
            end.set()


def _sleep(end: threading.Event) -> None:
    """Start a thread of OpenMP, which lives as long as this one."""
    torch.zeros(2**16).add_(1)  # as many numbers as need two threads
    end.wait()


def set_up_process() -> None:
    """Keep freed memory, keep to the quota and share processors: for a process that is this library's alone."""
    keep_memory()
    keep_to_quota()
    share_processors()
