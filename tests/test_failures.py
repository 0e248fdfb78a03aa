"""What a process says when it loses the connection to another one; test_surviving.py loses real ones."""

from collections.abc import Iterator

import pytest
from torch import distributed

from modeling_dlr.parallel import failures, shared_errors

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:951.")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.Store]:
    """That of two processes, of which the other one is not there."""
    monkeypatch.setattr(failures, "PATIENCE", 0.2)
    store = distributed.HashStore()
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: store)
    distributed.init_process_group("fake", rank=1, world_size=2)
    try:
        yield store
    finally:
        distributed.destroy_process_group()


def fail(error: Exception) -> str:
    with pytest.raises((type(error), RuntimeError)) as raised, shared_errors():
        raise error
    return str(raised.value)


def test_one_process():
    """Nothing changes, whatever the error."""
    assert fail(LOST) == str(LOST)


def test_cause(store: distributed.Store):
    """The first error is what all say."""
    assert fail(ValueError("A row is broken.")) == "A row is broken."
    assert fail(TypeError("Another one.")) == "Another one."
    assert fail(LOST) == "Process 1 failed. ValueError: A row is broken."
    assert fail(distributed.DistBackendError("timed out")) == "Process 1 failed. ValueError: A row is broken."


def test_no_cause(store: distributed.Store):
    """A killed process leaves none."""
    assert "killed" in fail(LOST)


def test_earlier_attempt(store: distributed.Store, monkeypatch: pytest.MonkeyPatch):
    """A store may be older than the processes: what an earlier attempt has left is not taken."""
    fail(ValueError("A row is broken."))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "killed" in fail(LOST)


def test_other_errors_of_the_program(store: distributed.Store):
    """They are no lost connections."""
    assert fail(RuntimeError("mat1 and mat2 shapes cannot be multiplied")).startswith("mat1")
