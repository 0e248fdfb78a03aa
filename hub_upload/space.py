"""The page of a model as a Space: the page of `modeling-dlr demo`, with the code of this package beside it."""

import ast
import contextlib
import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import RepoCard, SpaceCardData
from packaging.requirements import Requirement

import modeling_dlr

from .card import CARD
from .errors import InputError, VerificationError, reason_of
from .folders import scratch_folder
from .front_matter import read_front_matter
from .inspect_folder import inspect_privacy
from .model_folder import check_model_folder

_APP = Path(__file__).with_name("space_app.txt")
_DISTRIBUTION = "modeling-dlr"
_TEXT = """
A page on which [{model_id}](/{model_id}) answers. `app.py` runs it with the code in `modeling_dlr`, version {version}
of modeling-dlr (Apache-2.0). If the model's repository is private, add the secret `HF_TOKEN` in the Space's settings.
"""


@contextlib.contextmanager
def space_folder(model_folder: Path, model_id: str) -> Iterator[Path]:
    """Give a temporary folder with app.py, requirements.txt, README.md and the code of this package.

    The code travels with the page, so that the Space installs nothing but public libraries.

    Args:
        model_folder: folder of the model, which determines the page.
        model_id: repository from which the page loads the model.

    Raises:
        InputError: if there is no model, the page does not serve it, or its card cannot be read.
    """
    from modeling_dlr.demo import check_folder  # which takes a second, and no other command needs it

    check_model_folder(model_folder)
    try:
        check_folder(model_folder)
    except Exception as error:
        raise InputError(f"No page can be made: {reason_of(error)}") from error
    files = {"app.py": _APP.read_text(encoding="utf-8").format(model_id=model_id)}
    files |= {"requirements.txt": _requirements(), "README.md": _card(model_folder, model_id)}
    with scratch_folder() as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        _copy_package(folder / modeling_dlr.__name__)
        yield folder


def _card(model_folder: Path, model_id: str) -> str:
    """README.md, whose front-matter tells the Hub how to run the page."""
    name = model_id.rpartition("/")[2]
    data = SpaceCardData(
        title=name, sdk="gradio", sdk_version=_installed_version("gradio"), app_file="app.py", models=[model_id],
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}", license=_license(model_folder),
    )  # fmt: skip
    text = _TEXT.format(model_id=model_id, version=modeling_dlr.__version__)
    return str(RepoCard(f"---\n{data}\n---\n\n# {name}\n{text}", ignore_metadata_errors=True))


def _copy_package(target: Path) -> None:
    """Copy the Python files of this package and its license."""
    source = Path(str(modeling_dlr.__file__)).parent
    for path in sorted(source.rglob("*.py")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    license_text = importlib.metadata.distribution(_DISTRIBUTION).read_text("licenses/LICENSE")
    if license_text is not None:
        (target / "LICENSE").write_text(license_text, encoding="utf-8")


def _requirements() -> str:
    """The libraries that this package requires with its extra ``demo``."""
    asked = [Requirement(line) for line in importlib.metadata.requires(_DISTRIBUTION) or []]
    wanted = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": "demo"})]
    return "".join(f"{each.name}{each.specifier}\n" for each in wanted)


def _installed_version(library: str) -> str | None:
    """The version of a library; None, for which the Hub takes the newest, if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(library)
    return None


def _license(model_folder: Path) -> str | None:
    """The license in the model's card; None if it has none."""
    card = model_folder / CARD
    try:
        return read_front_matter(card).get("license") if card.is_file() else None
    except InputError as error:
        raise InputError(f"{error} Write {card} anew with `python -m hub_upload card`.") from error


def verify_space(folder: Path) -> None:
    """Check that all code is valid Python, and that no file has private content.

    Raises:
        VerificationError: with a list of the problems.
    """
    problems = list(inspect_privacy(folder))
    for path in sorted(folder.rglob("*.py")):
        try:
            ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            problems.append(f"{path.relative_to(folder)} is not valid Python: {error}")
    if problems:
        raise VerificationError("The page is not ready:", problems)
