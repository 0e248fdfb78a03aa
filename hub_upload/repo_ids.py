"""Check repository names, which are used in addresses and in code that others run."""

import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .errors import InputError


def check_repo_id(repo_id: str) -> None:
    """Refuse ids that are not of the form "name/repository".

    Raises:
        InputError: with the reason.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not a repository id such as name/repository: {error}") from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} is not a repository id: write name/repository.")


def example_repo_id(folder: Path) -> str:
    """A valid example id for a folder with any name."""
    name = re.sub(r"[^A-Za-z0-9_]+", lambda found: "." if found.group() == "." else "-", folder.resolve().name)
    return f"your-name/{name.strip('-.')[:80].strip('-.') or 'model'}"
