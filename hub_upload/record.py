"""What a folder remembers of its pushes: the last commit that it knows, of each branch of each repository."""

import json
import logging
from pathlib import Path
from typing import Any

from .bounded_files import read_json
from .errors import InputError
from .folders import write_whole

logger = logging.getLogger(__name__)

# huggingface_hub's place for such notes, which no upload sends.
_RECORD = Path(".cache") / "huggingface" / "hub_upload.json"


def known_commit(folder: Path, branch: str) -> str | None:
    """The commit of a branch that was last pushed from here, or made for it; None if there is none."""
    return _record(folder).get(branch)


def remember(folder: Path, branch: str, commit: str) -> None:
    """Write down the newest commit of a branch; a folder that cannot be written to is told of in a warning."""
    place = folder / _RECORD
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_record(folder) | {branch: commit}, indent=2) + "\n"
        write_whole(place.parent, {place.name: content.encode()})
    except (OSError, InputError) as error:
        logger.warning("Pushed, but the folder cannot remember commit %s: %s", commit, error)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / _RECORD)
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}
