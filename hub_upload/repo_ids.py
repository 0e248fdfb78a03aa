"""Names of repositories, which end up in addresses, and in code that others run."""

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
