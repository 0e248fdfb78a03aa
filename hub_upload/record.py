"""Record the last known commit of each branch of each repository in a folder."""

import json
import logging
from pathlib import Path
from typing import Any

from .bounded_files import read_json
from .errors import InputError
from .folders import write_whole

logger = logging.getLogger(__name__)

# huggingface_hub's place for such records, which is not uploaded.
_RECORD = Path(".cache") / "huggingface" / "hub_upload.json"


def known_commit(folder: Path, branch: str) -> str | None:
    """The commit of a branch that this folder last pushed or created; None if there is none."""
    return _record(folder).get(branch)


def remember(folder: Path, branch: str, commit: str) -> None:
    """Record the newest commit of a branch; log a warning if the folder cannot be written."""
    file = folder / _RECORD
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_record(folder) | {branch: commit}, indent=2) + "\n"
        write_whole(file.parent, {file.name: content.encode()})
    except (OSError, InputError) as error:
        logger.warning("Pushed, but the folder cannot remember commit %s: %s", commit, error)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / _RECORD)
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}
