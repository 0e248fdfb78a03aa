"""The errors of this tool, each with its exit code."""

from collections.abc import Sequence

_LONGEST = 300


def reason_of(error: BaseException) -> str:
    """The first sentence of an exception's message, in one line, or its class name if the message is empty."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    end = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: end + 1])[:_LONGEST] if lines else type(error).__name__


def printable(text: str) -> str:
    """Make a text printable in one line: file names can have line breaks, control characters and invalid text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class HubUploadError(Exception):
    """An error with a one-line message for the user; the command ends with ``exit_code``."""

    exit_code: int

    def __init__(self, message: str):
        super().__init__(printable(message))


class VerificationError(HubUploadError):
    """A folder is not ready for the Hub; one line for each problem."""

    exit_code = 1

    def __init__(self, message: str, problems: Sequence[str] = ()):
        Exception.__init__(self, "\n".join([printable(message), *(f"  {printable(problem)}" for problem in problems)]))


class InputError(HubUploadError):
    """An input is invalid: a file, a folder, a name, or hyper-parameters."""

    exit_code = 2


class RemoteError(HubUploadError):
    """The Hub refused or failed: no token, no permission, no connection, or no space."""

    exit_code = 3


class NewerRemoteError(RemoteError):
    """The repository has commits that this upload does not know; nothing was uploaded."""

    exit_code = 4
