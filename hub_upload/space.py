"""The demo page of a model: a Space with one file that runs the model's pipeline."""

import ast
import contextlib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from huggingface_hub import RepoCard, SpaceCardData
from packaging.requirements import Requirement

from .card import CARD, shown_example
from .errors import InputError, VerificationError
from .folders import scratch_folder
from .front_matter import read_front_matter
from .inspect_folder import inspect_privacy
from .model_folder import check_model_folder
from .samples import task_of

_APP = Path(__file__).with_name("space_app.txt")
_REQUIREMENTS = ("torch", "transformers")


@contextlib.contextmanager
def space_folder(model_folder: Path, model_id: str) -> Iterator[Path]:
    """Give a temporary folder with app.py, requirements.txt and README.md.

    Args:
        model_folder: folder of the model, which determines the pipeline.
        model_id: repository from which the page loads the model.

    Raises:
        InputError: if there is no model, it has no text pipeline, or its card cannot be read.
    """
    check_model_folder(model_folder)
    task = task_of(model_folder)
    if task is None or task.kind != "text" or not task.runs:
        raise InputError(f"The model in {model_folder} has no pipeline of texts, which is what the demo page shows.")
    example = shown_example(model_folder, task)
    app = _APP.read_text(encoding="utf-8").format(model_id=model_id, task=task.name, examples=f"[{example}]")
    name = model_id.rpartition("/")[2]
    data = SpaceCardData(title=name, sdk="gradio", app_file="app.py", models=[model_id], license=_license(model_folder))
    card = RepoCard(f"---\n{data}\n---\n\n# {name}\n\nA page that runs [{model_id}](/{model_id}) on your own text.\n")
    with scratch_folder() as folder:
        (folder / "app.py").write_text(app, encoding="utf-8")
        (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        (folder / "README.md").write_text(str(card), encoding="utf-8")
        yield folder


def _requirements() -> str:
    """The libraries that the code of a folder imports, in the versions that this package requires."""
    asked = [line for line in requires("modeling-dlr") or [] if Requirement(line).name in _REQUIREMENTS]
    return "".join(f"{line}\n" for line in asked)


def _license(model_folder: Path) -> str | None:
    """The license in the model's card; None if it has none."""
    card = model_folder / CARD
    try:
        return read_front_matter(card).get("license") if card.is_file() else None
    except InputError as error:
        raise InputError(f"{error} Write {card} anew with `python -m hub_upload card`.") from error


def verify_space(folder: Path) -> None:
    """Check that the page is valid Python and has no private content.

    Raises:
        VerificationError: with a list of the problems.
    """
    problems = list(inspect_privacy(folder))
    try:
        ast.parse((folder / "app.py").read_text(encoding="utf-8"))
    except SyntaxError as error:
        problems.append(f"app.py is not valid Python: {error}")
    if problems:
        raise VerificationError("The demo page is not ready:", problems)
