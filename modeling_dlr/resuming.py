"""Find the newest complete checkpoint to resume from; a killed process can leave an incomplete one."""

import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import distributed
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

_INCOMPLETE = "checkpoint-is-incomplete.txt"  # the Trainer's mark while it writes a checkpoint after a signal


def newest_of_all(folder: Path, processes: int, *, only_model: bool = False) -> tuple[Path | None, dict[Path, str]]:
    """`newest_whole` for a run of several processes: one that is whole as each of them sees the folder."""
    newest, broken = newest_whole(folder, processes, only_model=only_model)
    while processes > 1 and distributed.is_initialized():
        steps: list[int] = [0] * processes
        distributed.all_gather_object(steps, -1 if newest is None else _step(newest))
        if len(set(steps)) == 1:
            break
        newest, more = newest_whole(folder, processes, only_model=only_model, last=min(steps))
        broken |= more
    return newest, broken


def newest_whole(
    folder: Path, processes: int = 1, *, only_model: bool = False, last: float = math.inf
) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint from which ``processes`` processes can resume, and the problems of newer ones.

    Args:
        folder: holds the checkpoints.
        processes: number of processes that will resume from it, each with its own random state.
        only_model: whether the checkpoints were saved without the optimizer.
        last: checkpoints of later steps are not looked at.
    """
    found = [path for path in _entries(folder) if re.fullmatch(r"checkpoint-\d+", path.name)]
    broken = {}
    for path in sorted((path for path in found if _step(path) <= last), key=_step, reverse=True):
        problem = problem_of(path, processes, only_model=only_model)
        if problem is None:
            return path, broken
        broken[path] = problem
    return None, broken


def problem_of(checkpoint: Path, processes: int = 1, *, only_model: bool = False) -> str | None:
    """Say what is missing or damaged in a checkpoint, or return None; no code of the checkpoint is run.

    Args:
        checkpoint: folder of the checkpoint.
        processes: number of processes that will resume from it, each with its own random state.
        only_model: whether the checkpoint was saved without the optimizer.
    """
    names = {path.name for path in _entries(checkpoint)}
    if _INCOMPLETE in names:
        return f"{_INCOMPLETE} says that writing did not finish"
    needed = [TRAINER_STATE_NAME, *_weights(checkpoint, names)]
    if not only_model:
        needed += [SCHEDULER_NAME, *_random_states(names, processes)]
        # FSDP and DeepSpeed write folders instead of the optimizer's file.
        needed += [OPTIMIZER_NAME] if all(path.is_file() for path in _entries(checkpoint)) else []
    for name in [*needed, *sorted(names & {CONFIG_NAME, SCALER_NAME})]:
        if name not in names:
            other = ", for it is of fewer processes or was not finished" if name.startswith("rng_state_") else ""
            return f"{name} is missing{other}"
        if not _is_whole(checkpoint / name):
            return f"{name} is damaged"
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _weights(checkpoint: Path, names: set[str]) -> list[str]:
    """The weight files: one file, or the files that an index lists."""
    if SAFE_WEIGHTS_INDEX_NAME in names:
        index = _read(checkpoint / SAFE_WEIGHTS_INDEX_NAME) or {}
        return [SAFE_WEIGHTS_INDEX_NAME, *sorted(set(index.get("weight_map", {}).values()))]
    sharded = any(path.is_dir() for path in _entries(checkpoint))
    return [] if sharded and SAFE_WEIGHTS_NAME not in names else [SAFE_WEIGHTS_NAME]


def _random_states(names: set[str], processes: int) -> Iterator[str]:
    """Yield the random state files that must exist: one file, or one per process."""
    of_one = "rng_state.pth" in names
    of_each = sorted(name for name in names if re.fullmatch(r"rng_state_\d+\.pth", name))
    if processes == 1 or of_one:
        yield from ["rng_state.pth"] if of_one or not of_each else of_each
        return
    yield from sorted({*of_each, *(f"rng_state_{i}.pth" for i in range(processes))})


def _is_whole(path: Path) -> bool:
    """Whether a file has its full length and its parts match their checksums."""
    try:
        if path.suffix == ".json":
            return bool(_read(path))
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return len(file.keys()) > 0
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False


def _read(path: Path) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
