"""Arguments and options that several commands share, and how every command ends where its user can mend something."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
import transformers
import typer
from huggingface_hub import file_exists
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_dlr.tokenization import evo_tokenizer

from .fasta import Letters


@dataclass(frozen=True)
class Shared:
    """What a command reads, with which model, and what it writes; typer reads the annotations."""

    model: Annotated[str, typer.Argument(help="A folder or a repository of the Hub with a causal language model.")]
    fasta: Annotated[Path, typer.Argument(help="The sequences; may be compressed by gzip.")]
    output: Annotated[Path, typer.Option(help="The table to write: .parquet, or of scores also .csv or .tsv.")]
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

    def check_device(self) -> None:
        """Refuse a device that this machine does not have.

        Raises:
            ValueError: naming it.
        """
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"There is no device {self.device!r} here: {str(error).splitlines()[0]}") from None

    def load(self, auto_class: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, in evaluation mode on its device, and its tokenizer."""
        model = auto_class.from_pretrained(self.model, dtype=self.dtype, **self.of_hub).to(self.device).eval()
        if model.config.model_type == "stripedhyena" and model.config.vocab_size == 512 and not self._has_tokenizer():
            return model, evo_tokenizer()  # the published one is code that needs trust, and has no token of padding
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.model, **self.of_hub)
        assert tokenizer is not None  # noqa: S101 - this tells the type checker
        return model, tokenizer

    def _has_tokenizer(self) -> bool:
        if Path(self.model).is_dir():
            return (Path(self.model) / "tokenizer.json").is_file()
        return file_exists(self.model, "tokenizer.json", revision=self.revision)

    def identity(self) -> list[Any]:
        """A repository by its name and revision, and a folder by the files that are in it now."""
        folder = Path(self.model)
        files = sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        seen = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        return [self.model, self.revision, self.dtype, seen]


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command ``command(shared, ...)`` as typer takes it, with an option for each field of `Shared`.

    It ends with one line, and status 1, for what its user can mend.
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
        try:
            values = {name: given.pop(name) for name in names}
            command(Shared(**values), **given)
        except torch.OutOfMemoryError as error:
            _end(command, f"{error}; lower --batch-tokens", error)
        except (ValueError, OSError) as error:
            _end(command, str(error), error)

    parameters = [*shared, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    wrapped.__signature__ = inspect.Signature(parameters)  # pyrefly: ignore[missing-attribute]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _end(command: Callable[..., None], message: str, error: Exception) -> None:
    typer.echo(f"modeling-dlr {command.__name__}: {' '.join(message.split())}", err=True)
    raise typer.Exit(1) from error
