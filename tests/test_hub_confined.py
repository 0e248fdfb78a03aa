"""The process that runs the code of a folder: what is hidden from it, its limits, and its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_upload import confined
from hub_upload.confined import Finished, Limits

SMALL = Limits(seconds=60, memory=2**28, file_size=2**20)
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts memory, and parts processes this way")


def run(code: str, folder: Path, limits: Limits = SMALL, **environment: str) -> Finished:
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    return confined.run(str(script), ["argument"], folder, limits, environment)


def test_secrets_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither the environment nor the home folder has one."""
    secrets = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "SSH_AUTH_SOCK", "XYZ"]
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "huggingface" / "token").write_text("secret", encoding="utf-8")
    (tmp_path / "job").mkdir()
    code = (
        "import json, os, sys, huggingface_hub\n"
        "seen = [dict(os.environ), sys.argv[1:], huggingface_hub.get_token(), os.path.expanduser('~')]\n"
        "open('seen.json', 'w').write(json.dumps(seen))\n"
    )
    assert run(code, tmp_path / "job", ADDED="1") == (0, "")
    seen, arguments, token, home = json.loads((tmp_path / "job" / "seen.json").read_text(encoding="utf-8"))
    assert not set(secrets) & seen.keys()
    assert "secret" not in seen.values()
    assert (seen["ADDED"], arguments, token, home) == ("1", ["argument"], None, str(tmp_path / "job"))


def test_time_is_limited(tmp_path: Path):
    """The process and its children end."""
    code = (
        "import os, subprocess, sys\n"
        "open('pids', 'w').write(str(subprocess.Popen([sys.executable, '-c', 'while True: pass']).pid))\n"
        "while True: pass\n"
    )
    assert run(code, tmp_path, SMALL._replace(seconds=2)).returncode is None
    assert_ends(int((tmp_path / "pids").read_text(encoding="utf-8")))


@linux
def test_memory_and_files_are_limited(tmp_path: Path):
    """The output that is read is limited, too."""
    finished = run("bytearray(2**29)", tmp_path)
    assert (finished.returncode, finished.errors.splitlines()[-1]) == (1, "MemoryError")
    assert "File too large" in run("open('x', 'wb').write(bytes(2**21))", tmp_path).errors
    finished = run("import sys\nwhile True: sys.stderr.write('no' * 1000)", tmp_path)
    assert finished.returncode not in (0, None)
    assert len(finished.errors) <= 2**16


@linux
def test_network_is_disabled(tmp_path: Path):
    """If the system allows users to do so."""
    code = "import os, sys; sys.exit(os.readlink('/proc/self/ns/net'))"
    if str(Path("/proc/self/ns/net").readlink()) in run(code, tmp_path).errors:
        pytest.skip("this system lets no user have a network of their own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        assert "Network is unreachable" in run(code, tmp_path).errors


@pytest.mark.parametrize("way", ["as it is", "by the pipe alone"])
def test_it_ends_with_its_parent(way: str, tmp_path: Path):
    """No process is left if the parent is killed at any time."""
    (tmp_path / "script.py").write_text(
        "import os, time\nopen('pid.tmp', 'w').write(str(os.getpid()))\n"
        "os.rename('pid.tmp', 'pid')\nwhile True: time.sleep(1)\n",
        encoding="utf-8",
    )
    source = Path(confined.__file__).read_text(encoding="utf-8")
    if way == "by the pipe alone":
        assert 'sys.platform == "linux"' in source
        source = source.replace('sys.platform == "linux"', "False")
    (tmp_path / "confined.py").write_text(source, encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, '.'); import confined; from pathlib import Path\n"
        "confined.run('script.py', [], Path.cwd(), confined.Limits(60, 2**28, 2**20), {})\n"
    )
    for _ in range(5):
        (tmp_path / "pid").unlink(missing_ok=True)
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        try:
            while not (tmp_path / "pid").exists():
                assert parent.poll() is None
                time.sleep(0.01)
        finally:
            parent.kill()
            parent.wait()
        assert_ends(int((tmp_path / "pid").read_text(encoding="utf-8")))


def assert_ends(pid: int) -> None:
    """Within some seconds; a zombie process has ended, too."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} still runs")
