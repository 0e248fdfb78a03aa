"""What can go wrong, each with the exit code that a script sees."""

_LONGEST = 300


def reason_of(error: BaseException) -> str:
    """The first sentence of what an exception says, in one line, or its name if it says nothing."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    end = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: end + 1])[:_LONGEST] if lines else type(error).__name__


class HubUploadError(Exception):
    """An error with a message for the user; the command ends with ``exit_code``."""

    exit_code: int


class VerificationError(HubUploadError):
    """A folder that a stranger could not use as its files promise."""

    exit_code = 1


class InputError(HubUploadError):
    """What was given cannot be used: a file, a folder, a name, hyper-parameters."""

    exit_code = 2


class RemoteError(HubUploadError):
    """The Hub did not do what it was asked: no token, no right, no connection, no space."""

    exit_code = 3


class NewerRemoteError(RemoteError):
    """The repository has commits that this upload does not know; nothing was uploaded."""

    exit_code = 4
