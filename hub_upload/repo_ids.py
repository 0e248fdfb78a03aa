"""Names of repositories, which end up in addresses, and in code that others run."""

import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .errors import InputError


def check_repo_id(repo_id: str) -> None:
    """Refuse what is not "name/repository".

    Raises:
        InputError: saying why.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no repository id, such as name/repository: {error}") from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} is no repository id: write name/repository.")


def example_repo_id(folder: Path) -> str:
    """What a repository of a folder may be called, whatever the folder is called."""
    name = re.sub(r"[^A-Za-z0-9_]+", lambda found: "." if found.group() == "." else "-", folder.resolve().name)
    return f"your-name/{name.strip('-.')[:80].strip('-.') or 'model'}"
