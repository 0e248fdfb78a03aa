"""`modeling-dlr score` and `modeling-dlr embed`: log-likelihoods and embeddings of the sequences of a FASTA file."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import pandas as pd
import torch
import transformers
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_dlr.scoring import Strands, embeddings, log_likelihoods, reverse_complement
from modeling_dlr.tokenization import evo_tokenizer

from .fasta import Letters, Record, read_fasta
from .parts import check_format, digest, read_table, write_in_parts
from .variants import read_variants

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Records, or variants, of a part of the output: what is lost at most when a run ends early.
PART_SIZE = 64

Model = Annotated[str, typer.Argument(help="A folder or a repository of the Hub with a causal language model.")]
Fasta = Annotated[Path, typer.Argument(help="The sequences; may be compressed by gzip.")]
Revision = Annotated[str | None, typer.Option(help="Of the repository, such as 1.1_fix for Evo-1.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights: auto, bfloat16, float32, …")]
Device = Annotated[str, typer.Option(help="Such as cpu or cuda.")]
LettersOption = Annotated[
    Letters,
    typer.Option(
        help="dna: A C G T N and other letters of sets of bases, lower case read as upper case, all else refused. "
        "acgt: these four only. any: every letter as it is."
    ),
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Tokens of a batch at most, padding included.")]
Trust = Annotated[bool, typer.Option(help="Run code that lies beside the model, if it is not one of this library.")]


def one_line_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A command that ends with one line, and status 1, for what its user can mend."""

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            typer.echo(f"modeling-dlr {command.__name__}: {error}", err=True)
            raise typer.Exit(1) from error

    return wrapped


@one_line_errors
def score(
    model: Model,
    fasta: Fasta,
    output: Annotated[Path, typer.Option(help="The table to write: .csv, .tsv or .parquet.")],
    variants: Annotated[
        Path | None,
        typer.Option(
            help="A table with the columns name (a record), position (from 1), reference and alternative: one row of "
            "the output for each. Without it, one row per record."
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Letters around each variant that are read; all of the record without it.")
    ] = None,
    strands: Annotated[Strands, typer.Option(help="Strands whose log-likelihoods are averaged.")] = "forward",
    letters: LettersOption = "dna",
    batch_tokens: BatchTokens = 16384,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    trust_remote_code: Trust = False,
) -> None:
    """Write log-likelihoods of records, or log-likelihood ratios of variants, in nats.

    A run that is begun again goes on where it ended, and the output is there as a whole or not at all.
    """
    check_format(output)
    records = read_fasta(fasta, letters)
    if strands != "forward":
        for record in records:
            _check_strand(record)
    rows = None if variants is None else read_variants(read_table(variants), records, letters, window)
    request = {
        "command": "score", "model": _identity(model), "revision": revision, "dtype": dtype, "fasta": digest(fasta),
        "variants": None if variants is None else digest(variants), "window": window, "strands": strands,
        "letters": letters,
    }  # fmt: skip
    loaded = _Loaded(model, revision, dtype, device, trust_remote_code)

    def likelihoods(sequences: list[str]) -> torch.Tensor:
        options: dict[str, Any] = {"reduction": "sum", "strands": strands, "batch_tokens": batch_tokens}
        return log_likelihoods(*loaded.parts(causal=True), sequences, progress=True, **options).double()

    def of_records(part: int) -> pd.DataFrame:
        some = records[part * PART_SIZE : (part + 1) * PART_SIZE]
        values = likelihoods([record.sequence for record in some])
        columns = {"name": [record.name for record in some], "length": [len(record.sequence) for record in some]}
        return pd.DataFrame(columns | {"log_likelihood": values.numpy()})

    def of_variants(part: int) -> pd.DataFrame:
        some = (rows or [])[part * PART_SIZE : (part + 1) * PART_SIZE]
        sequences = sorted({sequence for row in some for sequence in (row.before, row.after)})
        values = dict(zip(sequences, likelihoods(sequences).tolist(), strict=True))
        table = pd.DataFrame([row.given for row in some])
        table["reference_log_likelihood"] = [values[row.before] for row in some]
        table["alternative_log_likelihood"] = [values[row.after] for row in some]
        table["log_likelihood_ratio"] = table["alternative_log_likelihood"] - table["reference_log_likelihood"]
        return table

    compute, count = (of_records, len(records)) if rows is None else (of_variants, len(rows))
    _report(output, count, write_in_parts(output, request, -(-count // PART_SIZE), compute))


@one_line_errors
def embed(
    model: Model,
    fasta: Fasta,
    output: Annotated[Path, typer.Option(help="The table to write: .parquet.")],
    layer: Annotated[int, typer.Option(help="0: embeddings of tokens; i: after i layers; -1: what heads read.")] = -1,
    letters: LettersOption = "dna",
    batch_tokens: BatchTokens = 16384,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    trust_remote_code: Trust = False,
) -> None:
    """Write the mean hidden state of every record after a layer.

    A run that is begun again goes on where it ended, and the output is there as a whole or not at all.
    """
    if output.suffix != ".parquet":
        raise ValueError(f"Embeddings are written as .parquet, got {output.name}.")
    records = read_fasta(fasta, letters)
    request = {
        "command": "embed", "model": _identity(model), "revision": revision, "dtype": dtype, "fasta": digest(fasta),
        "layer": layer, "letters": letters,
    }  # fmt: skip
    loaded = _Loaded(model, revision, dtype, device, trust_remote_code)

    def of_records(part: int) -> pd.DataFrame:
        some = records[part * PART_SIZE : (part + 1) * PART_SIZE]
        options: dict[str, Any] = {"layer": layer, "batch_tokens": batch_tokens, "progress": True}
        found = embeddings(*loaded.parts(causal=False), [record.sequence for record in some], **options)
        return pd.DataFrame({"name": [record.name for record in some], "embedding": list(found.numpy())})

    _report(output, len(records), write_in_parts(output, request, -(-len(records) // PART_SIZE), of_records))


class _Loaded:
    """A model and its tokenizer, loaded when the first part is computed: what is wrong with files comes before."""

    def __init__(self, name: str, revision: str | None, dtype: str, device: str, trust_remote_code: bool):
        self.name, self.dtype, self.device = name, dtype, device
        self.options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.found: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def parts(self, causal: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, in evaluation mode, and its tokenizer."""
        if self.found is None:
            options = {name: value for name, value in self.options.items() if value is not None}
            auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
            model = auto.from_pretrained(self.name, dtype=self.dtype, **options).to(self.device).eval()
            evo = model.config.model_type == "stripedhyena" and model.config.vocab_size == 512
            # Evo's own is code that needs trust, and has no token of padding.
            tokenizer = evo_tokenizer() if evo else transformers.AutoTokenizer.from_pretrained(self.name, **options)
            assert tokenizer is not None  # noqa: S101 - this tells the type checker
            self.found = model, tokenizer
        return self.found


def _check_strand(record: Record) -> None:
    try:
        reverse_complement(record.sequence)
    except ValueError as error:
        raise ValueError(f"Record {record.name!r}: {error}") from None


def _report(output: Path, count: int, kept: int) -> None:
    typer.echo(f"Wrote {count} rows to {output}" + (f", {kept} parts of them from an earlier run." if kept else "."))


def _identity(model: str) -> list[Any]:
    """A repository by its name, and a folder by the files that are in it now."""
    folder = Path(model)
    files = sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [model, *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
