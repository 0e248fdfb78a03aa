"""Arguments and options that several commands share, and error messages of one line."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, get_type_hints

import torch
import typer

from modeling_dlr.finetuning.quiet import quiet_libraries
from modeling_dlr.inference import Engine, Written, load_text_model

from .fasta import Letters

Parameters = ParamSpec("Parameters")

Text = Annotated[
    str | None, typer.Option(help="The column that is read, or several after commas; by default that of the training.")
]
Folder = Annotated[
    str,
    typer.Argument(
        help="Of a trained model, from `modeling-dlr train` or save_pretrained; or OWNER/NAME of its repository on the "
        "Hub."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Of a repository of the Hub: a branch, a tag or a commit.")]
EngineName = Annotated[
    Engine,
    typer.Option(
        help="local: compute in this process. ray: in several, here or on the cluster of RAY_ADDRESS; needs "
        "pip install 'modeling-dlr[ray]'."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of the engine ray; by default one for each processor, or GPU.")
]
Encoding = Annotated[str, typer.Option(help="Of text; several after commas are tried in turn: utf-8,cp1252.")]


@dataclass(frozen=True)
class Shared:
    """What a command reads, with which model, and what it writes; typer reads the annotations."""

    model: Annotated[str, typer.Argument(help="A folder or a repository of the Hub with a causal language model.")]
    data: Annotated[
        Path,
        typer.Argument(help="FASTA, also compressed by gzip. `embed` reads .csv, .tsv, .jsonl and .parquet, too."),
    ]
    output: Annotated[
        Path, typer.Option(help="The file to write: .parquet or .jsonl; of scores also .csv and .tsv, of vectors .npy.")
    ]
    letters: Annotated[
        Letters,
        typer.Option(
            help="dna: A C G T N and other letters of sets of bases, lower case read as upper case, all else refused. "
            "acgt: these four only. any: every letter as it is."
        ),
    ] = "dna"
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a batch at most, padding included.")] = 16384
    revision: Annotated[str | None, typer.Option(help="Of the repository, such as 1.1_fix for Evo-1.")] = None
    dtype: Annotated[str, typer.Option(help="Type of the weights: auto, bfloat16, float32, …")] = "auto"
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu"
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run code that lies beside the model, if it is not one of this library.")
    ] = False

    @property
    def of_hub(self) -> dict[str, Any]:
        """How files are found, as ``from_pretrained`` names it."""
        revision = {} if self.revision is None else {"revision": self.revision}
        return revision | {"trust_remote_code": self.trust_remote_code}

    def load(self, auto_class: Any) -> tuple[Any, Any]:
        """The model, in evaluation mode on its device, and its tokenizer."""
        return load_text_model(auto_class, self.model, dtype=self.dtype, device=self.device, **self.of_hub)


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command ``command(shared, ...)`` as typer takes it, with an option for each field of `Shared`.

    Wrong input ends it with one line and status 1.
    """
    types = get_type_hints(Shared, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(Shared)
    ]
    names = {parameter.name for parameter in shared}
    _, *own = inspect.signature(command).parameters.values()

    @wraps(command)
    def wrapped(**given: Any) -> None:
        values = {name: given.pop(name) for name in names}
        one_line_errors(command)(Shared(**values), **given)

    parameters = [*shared, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    wrapped.__signature__ = inspect.Signature(parameters)  # pyrefly: ignore[missing-attribute]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def one_line_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command that says what is for its user only, and ends with one line where that one can mend something.

    The status is then 1, and 130 after Ctrl-C.
    """

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            with quiet_libraries():
                command(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            _end(command, f"{error}; lower --batch-tokens", error)
        except (ImportError, ValueError, OSError) as error:
            _end(command, str(error), error)
        except KeyboardInterrupt as error:
            _end(command, "interrupted; the same command goes on from here", error, 130)

    return wrapped


def _end(command: Callable[..., None], message: str, error: BaseException, status: int = 1) -> None:
    typer.echo(f"modeling-dlr {command.__name__}: {' '.join(message.split())}", err=True)
    raise typer.Exit(status) from error


def columns_of(text: str | None) -> list[str] | None:
    """The columns that an option names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def report(written: Written) -> None:
    """Say in one line what was written."""
    said = f"Wrote {written.rows:,} row{'s' if written.rows != 1 else ''} to {written.output}"
    *first, last = written.columns or ("",)
    said += f", with {', '.join(first)}{' and ' if first else ''}{last}" if written.columns else ""
    said += f", {written.empty:,} of them with an empty input" if written.empty else ""
    typer.echo(said + (f", {written.kept:,} of them from an earlier run." if written.kept else "."))
