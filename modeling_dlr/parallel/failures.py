"""One process fails: the others say why, instead of only that they lost the connection to it."""

import contextlib
import os
import re
import time
from collections.abc import Iterator

from torch import distributed

# How long to wait for the reason. A launcher that watches its processes, such as torchrun, ends them earlier.
PATIENCE = 10.0  # seconds
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", flags=re.IGNORECASE)


@contextlib.contextmanager
def shared_errors() -> Iterator[None]:
    """In this context, processes that lose the connection to one that failed raise its error.

    Put the training of every process in it. The error of a process goes to the others by the store of the default
    process group, because they wait for that process in an operation that nothing else ends. In a single process, and
    before there is a process group, nothing changes.

    Raises:
        RuntimeError: in a process that lost the connection, with the number and the error of the process that failed
            first, or saying that it left none, as when it was killed.

    >>> with shared_errors():
    ...     trainer.train()  # doctest: +SKIP
    """
    try:
        yield
    except Exception as error:
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            raise
        store = distributed.distributed_c10d._get_default_store()
        key = f"modeling_dlr failure {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # the store may be an old one
        if not _is_lost_connection(error):
            text = f"Process {distributed.get_rank()} failed. {type(error).__name__}: {error}"
            with contextlib.suppress(RuntimeError):
                store.compare_set(key, "", text)  # the first error stays
            raise
        raise RuntimeError(_reason(store, key)) from error


def _is_lost_connection(error: Exception) -> bool:
    """Whether an operation over processes failed. gloo raises a plain RuntimeError."""
    plain = type(error) is RuntimeError and _LOST.search(str(error)) is not None
    return plain or isinstance(error, distributed.DistError)


def _reason(store: distributed.Store, key: str) -> str:
    """What the process that failed first says."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(RuntimeError):  # the store can be lost, too
            if store.check([key]):
                return store.get(key).decode()
        time.sleep(0.1)
    return (
        "Lost the connection to another process. Unless that one says why it failed, it was killed, as for lack of "
        "memory. Start all processes again, from the newest checkpoint."
    )
