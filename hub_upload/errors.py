"""What can go wrong, each with the exit code that a script sees."""

from collections.abc import Sequence

_LONGEST = 300


def reason_of(error: BaseException) -> str:
    """The first sentence of what an exception says, in one line, or its name if it says nothing."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    end = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: end + 1])[:_LONGEST] if lines else type(error).__name__


def printable(text: str) -> str:
    """In one line that a terminal can show: names of files may hold line ends, control characters and half letters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class HubUploadError(Exception):
    """An error with a message for the user, in one line; the command ends with ``exit_code``."""

    exit_code: int

    def __init__(self, message: str):
        super().__init__(printable(message))


class VerificationError(HubUploadError):
    """A folder that a stranger could not use as its files promise: a line for each problem."""

    exit_code = 1

    def __init__(self, message: str, problems: Sequence[str] = ()):
        Exception.__init__(self, "\n".join([printable(message), *(f"  {printable(problem)}" for problem in problems)]))


class InputError(HubUploadError):
    """What was given cannot be used: a file, a folder, a name, hyper-parameters."""

    exit_code = 2


class RemoteError(HubUploadError):
    """The Hub did not do what it was asked: no token, no right, no connection, no space."""

    exit_code = 3


class NewerRemoteError(RemoteError):
    """The repository has commits that this upload does not know; nothing was uploaded."""

    exit_code = 4
