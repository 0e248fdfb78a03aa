"""`modeling-dlr score` and `modeling-dlr embed`: log-likelihoods and embeddings of the sequences of a FASTA file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import transformers
import typer

from modeling_dlr.scoring import Strands, check_layer, embeddings, log_likelihoods, reverse_complement

from .fasta import Record, read_fasta
from .options import Shared, with_shared
from .parts import check_format, digest, read_table, write_in_parts
from .variants import Variant, read_variants


@with_shared
def score(
    shared: Shared,
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
) -> None:
    """Write log-likelihoods of records, or log-likelihood ratios of variants, in nats.

    A run that is begun again goes on where it ended, and the output is there as a whole or not at all.
    """
    check_format(shared.output)
    records = read_fasta(shared.fasta, shared.letters)
    if strands != "forward":
        for record in records:
            _check_strand(record)
    rows = None if variants is None else read_variants(read_table(variants), records, shared.letters, window)
    own = {"variants": None if variants is None else digest(variants), "window": window, "strands": strands}
    model = _Model(shared, transformers.AutoModelForCausalLM)

    def likelihoods(sequences: Sequence[str]) -> list[float]:
        options: dict[str, Any] = {"strands": strands, "batch_tokens": shared.batch_tokens, "progress": True}
        return log_likelihoods(*model.parts(), sequences, reduction="sum", **options).tolist()

    def of_variants(some: Sequence[Variant]) -> pd.DataFrame:
        sequences = sorted({sequence for row in some for sequence in (row.before, row.after)})
        values = dict(zip(sequences, likelihoods(sequences), strict=True))
        table = pd.DataFrame([row.given for row in some])
        table["reference_log_likelihood"] = [values[row.before] for row in some]
        table["alternative_log_likelihood"] = [values[row.after] for row in some]
        table["log_likelihood_ratio"] = table["alternative_log_likelihood"] - table["reference_log_likelihood"]
        return table

    if rows is None:
        _write_records(shared, "score", own, records, "log_likelihood", likelihoods)
    else:
        lengths = [len(row.before) + len(row.after) for row in rows]
        _write(shared, "score", own, rows, lengths, of_variants)


@with_shared
def embed(
    shared: Shared,
    layer: Annotated[int, typer.Option(help="0: embeddings of tokens; i: after i layers; -1: what heads read.")] = -1,
) -> None:
    """Write the mean hidden state of every record after a layer.

    A run that is begun again goes on where it ended, and the output is there as a whole or not at all.
    """
    if shared.output.suffix != ".parquet":
        raise ValueError(f"Embeddings are written as .parquet, got {shared.output.name}.")
    records = read_fasta(shared.fasta, shared.letters)
    model = _Model(shared, transformers.AutoModel)
    check_layer(layer, model.config.num_hidden_layers)

    def states(sequences: Sequence[str]) -> list[Any]:
        options: dict[str, Any] = {"layer": layer, "batch_tokens": shared.batch_tokens, "progress": True}
        return list(embeddings(*model.parts(), sequences, **options).numpy())

    _write_records(shared, "embed", {"layer": layer}, records, "embedding", states)


class _Model:
    """A model and its tokenizer, loaded when the first part is computed, and its configuration, loaded at once."""

    def __init__(self, shared: Shared, auto_class: Any):
        shared.check_device()
        try:
            self.config = transformers.AutoConfig.from_pretrained(shared.model, **shared.of_hub)
        except OSError as error:
            raise ValueError(f"The model {shared.model!r} cannot be loaded: {error}") from None
        self.shared, self.auto_class = shared, auto_class
        self.found: tuple[Any, Any] | None = None

    def parts(self) -> tuple[Any, Any]:
        """Both."""
        if self.found is None:
            self.found = self.shared.load(self.auto_class)
        return self.found


def _write_records(
    shared: Shared,
    command: str,
    own: dict[str, Any],
    records: Sequence[Record],
    column: str,
    values_of: Callable[[Sequence[str]], list[Any]],
) -> None:
    """Write one row for each record, with its name, its length, and a value of its sequence."""

    def of_records(some: Sequence[Record]) -> pd.DataFrame:
        names, sequences = zip(*some, strict=True)
        return pd.DataFrame({"name": names, "length": [*map(len, sequences)], column: values_of(sequences)})

    _write(shared, command, own, records, [len(record.sequence) for record in records], of_records)


def _write(
    shared: Shared,
    command: str,
    own: dict[str, Any],
    items: Sequence[Any],
    lengths: Sequence[int],
    compute: Callable[[Sequence[Any]], pd.DataFrame],
) -> None:
    """Write the rows of ``items``, of which ``lengths`` letters are read, with what they depend on as the request."""
    request = {
        "command": command, "model": shared.identity(), "fasta": digest(shared.fasta), "letters": shared.letters, **own
    }  # fmt: skip
    kept = write_in_parts(shared.output, request, items, lengths, compute)
    what = f"{len(items)} row{'s' if len(items) > 1 else ''}"
    typer.echo(f"Wrote {what} to {shared.output}" + (f", {kept} of them from an earlier run." if kept else "."))


def _check_strand(record: Record) -> None:
    try:
        reverse_complement(record.sequence)
    except ValueError as error:
        raise ValueError(f"Record {record.name!r}: {error}") from None
