"""`modeling-dlr train` and `modeling-dlr evaluate`: your own data in one command."""

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError

from modeling_dlr.finetuning import TrainOptions
from modeling_dlr.finetuning import evaluate as evaluate_folder
from modeling_dlr.finetuning import train as train_model
from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.inference import check_output
from modeling_dlr.whole_files import write_whole

from .options import Encoding, Folder, Revision

Data = Annotated[
    str,
    typer.Argument(
        help="A CSV, TSV, JSON lines, JSON or parquet file, FASTA, a folder of text, image or sound files by class, or "
        "the name of a data set of the Hub."
    ),
]


def train(data: Data, **given: Any) -> None:
    """Train a model on your own data, and score it on test rows beside simpler models.

    The task is read from the data and said; Ctrl-C keeps the best weights so far, and the same command goes on.
    """
    with command_line("modeling-dlr train", SafetensorError):
        train_model(data, TrainOptions(**given))


def _with_options(command: Any) -> Any:
    """Give a command an option for each field of `TrainOptions`."""
    parameters = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name == "data"]
    for field in fields(TrainOptions):
        kind: Any = field.type
        meaning = field.metadata["help"]
        annotation: Any = Annotated[kind, typer.Option(help=f"{meaning[0].upper()}{meaning[1:]}.")]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


train = _with_options(train)


def evaluate(
    folder: Folder,
    data: Data,
    label: Annotated[str | None, typer.Option(help="Column of the labels, if it is called otherwise.")] = None,
    revision: Revision = None,
    encoding: Encoding = "utf-8",
    output: Annotated[Path | None, typer.Option(help="A new JSON file for the scores.")] = None,
) -> None:
    """Score a trained model on other rows."""
    with command_line("modeling-dlr evaluate", SafetensorError):
        if output is not None:
            check_output(output, [".json"])
        report = evaluate_folder(folder, data, label=label, revision=revision, encoding=encoding)
        if output is not None:
            text = json.dumps(report.results({}), indent=2) + "\n"
            output.parent.mkdir(parents=True, exist_ok=True)
            write_whole(output, lambda half: half.write_text(text, encoding="utf-8"))
