"""Run a script in a separate process: without tokens, with a time limit, and without a network if possible.

The caller imports `run`. The new process runs this file as a script, which sets its own limits and then runs the other
script, so that none of its code runs without limits:

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

# Environment variables that a process needs. All others are not passed on: tokens, keys, addresses of services.
_PASSED_ON = {
    *("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"),
}
_MOST_OF_STDERR = 2**16
_PR_SET_PDEATHSIG, _CLONE_NEWUSER, _CLONE_NEWNET = 1, 0x10000000, 0x40000000


class Limits(NamedTuple):
    """The limits of a process: seconds, bytes of memory, and bytes of one file that it writes."""

    seconds: int
    memory: int
    file_size: int


class Finished(NamedTuple):
    """How a process ended: its return code (None after the time limit), and the end of its standard error."""

    returncode: int | None
    errors: str


def run(script: str, arguments: list[str], folder: Path, limits: Limits, environment: dict[str, str]) -> Finished:
    """Run a script until it ends or reaches the time limit; if this process ends, the script and its children end too.

    Args:
        script: a Python file.
        arguments: its command-line arguments.
        folder: its working folder, which also holds its home, temporary files and standard error.
        limits: limits of the new process.
        environment: environment variables in addition to the few that are passed on.
    """
    passed_on = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    own = {name: str(folder) for name in ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")}
    settings = json.dumps({**limits._asdict(), "parent": os.getpid()})
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, settings, script, *arguments],
            cwd=folder,
            env=passed_on | own | {"USER": "nobody", "CUDA_VISIBLE_DEVICES": ""} | environment,
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    with errors.open("rb") as stderr:
        stderr.seek(max(0, errors.stat().st_size - _MOST_OF_STDERR))
        return Finished(code, stderr.read().decode("utf-8", "replace"))


def _end(process: subprocess.Popen) -> None:
    """End the process and its children."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _limit(limits: Limits) -> None:
    """Limit memory, time and file sizes, as far as the system supports it."""
    try:
        import resource
    except ImportError:  # on Windows only the caller's time limit applies
        return
    values = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits.seconds * (os.cpu_count() or 1),
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS": limits.memory,
    }
    for name, most in values.items():
        kind = getattr(resource, name)
        soft, hard = resource.getrlimit(kind)
        least = min([most, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
        with suppress(ValueError, OSError):  # a system may know a limit but not allow setting it
            resource.setrlimit(kind, (least, least))


def _end_with(parent: int) -> None:
    """End this process when the waiting process ends, for any reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """Wait until the other process closes the pipe."""
    with suppress(OSError):
        os.read(0, 1)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _leave_network() -> None:
    """Leave the network, if the system allows users to do so."""
    if sys.platform == "linux":
        unshare = ctypes.CDLL(None).unshare
        if unshare(_CLONE_NEWNET) != 0:  # needs an administrator, or a user namespace
            unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def main(settings: str, script: str, *arguments: str) -> None:
    """Set the limits, then run the script."""
    limits = json.loads(settings)
    parent = limits.pop("parent")
    _leave_network()  # must happen before a second thread starts
    _limit(Limits(**limits))
    _end_with(parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
