"""Turn errors of the Hub and of its client into one sentence."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError

from .errors import HubUploadError, NewerRemoteError, RemoteError, reason_of
from .http_bounds import Bounds


@contextlib.contextmanager
def remote_errors(repo_id: str, bounds: Bounds, advice: str) -> Iterator[None]:
    """In this context, turn errors of the client into one sentence; ``advice`` is used if there is no answer."""
    try:
        yield
    except HubUploadError:
        raise
    except Exception as error:
        refused = _behind(error, RemoteError, HfHubHTTPError)
        if isinstance(refused, RemoteError):
            raise RemoteError(f"{refused} ({repo_id}: {advice}.)") from error
        if bounds.over:
            raise RemoteError(f"{bounds.refuse()} ({repo_id}: {advice}.)") from error
        if isinstance(refused, HfHubHTTPError):
            raise _refusal(repo_id, refused) from error
        raise RemoteError(
            f"{repo_id} gave no answer that can be read ({type(error).__name__}: {reason_of(error)}): {advice}."
        ) from error


def _behind(error: BaseException | None, *kinds: type[Exception]) -> BaseException | None:
    """The exception itself or one of its causes that has one of these types; None if there is none."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def _refusal(repo_id: str, error: HfHubHTTPError) -> RemoteError:
    """The error for a refused request, with the Hub's reason if it gives one."""
    status = error.response.status_code
    message = " ".join((error.server_message or "").split())
    reasons = {
        401: "the access token is not valid: run `hf auth login`, or set HF_TOKEN",
        403: "the access token may not write there: make one that may, or name a repository of yours",
        404: "it does not exist, or the token may not see it",
        409: "it has changed while this was prepared: push again",
        412: "it has changed while this was prepared: push again",
    }
    reason = reasons.get(status, f"the Hub answered {status}{'' if message else f': {reason_of(error)}'}")
    kind = NewerRemoteError if status in (409, 412) else RemoteError
    return kind(f"{repo_id} was not written to: {reason}{f' (the Hub says: {message})' if message else ''}.")
