"""Start a script in several processes that know each other."""

import os
import subprocess
import sys
from pathlib import Path


def run_in_processes(script: str, folder: Path, processes: int, timeout: float = 400) -> None:
    """Run a script of this folder with ``torchrun``; it writes into ``folder``.

    Raises:
        AssertionError: if a process fails, with what it wrote.
    """
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--local_addr", "127.0.0.1"]
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]  # port 0 is any that is free
    finished = subprocess.run(
        [sys.executable, *launch, *rendezvous, str(Path(__file__).with_name(script)), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert finished.returncode == 0, finished.stderr
