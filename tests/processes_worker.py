"""Everything that needs several processes which nobody kills, in a single launch: run by test_processes.py.

python -m torch.distributed.run --nproc_per_node 2 processes_worker.py FOLDER
"""

import sys
from pathlib import Path

import context_worker
import distributed_worker
import shards_worker
import torch
from torch import distributed


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=context_worker.BOUND)
    for worker in (context_worker, shards_worker, distributed_worker):
        worker.main(folder)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
