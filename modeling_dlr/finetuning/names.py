"""What a name means: a folder here, or a model or data set of the Hub."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import datasets
from huggingface_hub import snapshot_download

from modeling_dlr.kernel_parameters_dlr import did_you_mean

# Files that describe a model, and those of its weights.
_DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
_WEIGHTS = ("*.safetensors",)


def find_folder(name: str | os.PathLike[str], revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model: the one of this name here, or a repository of the Hub, downloaded into its cache.

    Args:
        name: of a folder, or OWNER/NAME of a repository.
        revision: of the repository: a branch, a tag or a commit.
        weights: whether the weights are needed.

    Raises:
        ValueError: for a name that is neither, a repository that cannot be reached, and a revision of a folder here.
    """
    path = Path(name)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{path} is a folder here, which has no revision {revision!r}: leave --revision out.")
        return path
    if path.exists():
        raise ValueError(f"{path} is a file: give the folder in which the model was saved.")
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise ValueError(f"There is no folder {path}{nearest_file(path)}: give one in which a model was saved.")
    with one_line_of_hub(str(name), "folder here", "model", revision):
        patterns = [*_DESCRIPTION, *(_WEIGHTS if weights else ())]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))


@contextlib.contextmanager
def one_line_of_hub(name: str, here: str, there: str, revision: str | None = None) -> Generator[None]:
    """In this context every failure of the Hub is one line, and datasets logs nothing.

    Args:
        name: that was given.
        here: what it could have been on this machine.
        there: what it could be on the Hub.
        revision: that was asked for.
    """
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except Exception as error:  # the client's errors are of a library that changes
        at = "" if revision is None else f" with the revision {revision!r}"
        raise ValueError(
            f"{name!r} is no {here}{nearest_file(Path(name))}, and no {there} of the Hub{at} that can be reached "
            f"({type(error).__name__})."
        ) from None
    finally:
        datasets.logging.set_verbosity(verbosity)


def nearest_file(path: Path) -> str:
    """A hint at a file or folder with a similar name, beside the one that is missing."""
    folder = path.parent if path.parent.is_dir() else Path()
    hint = did_you_mean(path.name, [each.name for each in folder.iterdir()])
    return f" ({hint})" if hint else ""
