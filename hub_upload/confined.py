"""A script in a process of its own: without tokens, without a network where that can be had, and with an end.

The caller imports `run`; the new process runs this file as a script, which gives itself its limits and then runs the
other one, so that nothing of it runs without them:

    python confined.py LIMITS SCRIPT ARGUMENT...
"""

import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# What a process needs to start and to compute. Everything else stays here: tokens, keys, addresses of services.
_PASSED_ON = {
    *("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"),
}
_LAST_WORDS = 2**16
_PR_SET_PDEATHSIG, _CLONE_NEWUSER, _CLONE_NEWNET = 1, 0x10000000, 0x40000000


class Limits(NamedTuple):
    """What a process may use: seconds, bytes of memory, and bytes of one file that it writes."""

    seconds: int
    memory: int
    file_size: int


class Finished(NamedTuple):
    """How a process ended: its return code (None after the time limit), and the end of what it said of errors."""

    returncode: int | None
    errors: str


def run(script: str, arguments: list[str], folder: Path, limits: Limits, environment: dict[str, str]) -> Finished:
    """Run a script until it ends or its time is up; with this process it ends, too, and everything that it started.

    Args:
        script: a Python file.
        arguments: of it.
        folder: to run in; home, temporary files and the standard error are in it.
        limits: of the new process.
        environment: added to the little that is passed on.
    """
    passed_on = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    own = {name: str(folder) for name in ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")}
    given = json.dumps({**limits._asdict(), "parent": os.getpid()})
    errors = folder / "stderr.txt"
    with errors.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, given, script, *arguments],
            cwd=folder,
            env=passed_on | own | {"USER": "nobody", "CUDA_VISIBLE_DEVICES": ""} | environment,
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    with errors.open("rb") as said:
        said.seek(max(0, errors.stat().st_size - _LAST_WORDS))
        return Finished(code, said.read().decode("utf-8", "replace"))


def _end(process: subprocess.Popen) -> None:
    """Whatever still runs of it, and of what it has started."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _limit(limits: Limits) -> None:
    """Memory, time and sizes of files, where the system counts them."""
    try:
        import resource
    except ImportError:  # Windows: the caller still counts the time
        return
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits.seconds * (os.cpu_count() or 1),
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS": limits.memory,
    }
    for name, most in wanted.items():
        kind = getattr(resource, name)
        soft, hard = resource.getrlimit(kind)
        least = min([most, *(now for now in (soft, hard) if now != resource.RLIM_INFINITY)])
        with suppress(ValueError, OSError):  # a system may know a limit and not let it be set
            resource.setrlimit(kind, (least, least))


def _end_with(parent: int) -> None:
    """End with the process that waits for this one, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """Wait for the end of the other end."""
    with suppress(OSError):
        os.read(0, 1)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _leave_network() -> None:
    """Take part in no network; a system that does not let users do so leaves the process as it was."""
    if sys.platform == "linux":
        unshare = ctypes.CDLL(None).unshare
        if unshare(_CLONE_NEWNET) != 0:  # only an administrator may; a user may in a namespace of users
            unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def main(given: str, script: str, *arguments: str) -> None:
    """Take the limits on, then run the script."""
    limits = json.loads(given)
    parent = limits.pop("parent")
    _leave_network()  # before there is a second thread
    _limit(Limits(**limits))
    _end_with(parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
