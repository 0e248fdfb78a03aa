"""`modeling-dlr score`: log-likelihoods of the sequences of a FASTA file, and of variants of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer

from modeling_dlr.finetuning.names import find_folder
from modeling_dlr.inference import check_device, check_output, config_of, identity, in_chunks, write_in_parts
from modeling_dlr.scoring import Strands, log_likelihoods, reverse_complement

from .fasta import Record, read_fasta
from .options import Shared, report, with_shared
from .variants import Variant, read_table, read_variants


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
    check_output(shared.output)
    records = read_fasta(shared.data, shared.letters)
    if strands != "forward":
        for record in records:
            _check_strand(record)
    rows = None if variants is None else read_variants(read_table(variants), records, shared.letters, window)
    model = _Model(shared, transformers.AutoModelForCausalLM)

    def likelihoods(sequences: Sequence[str]) -> list[float]:
        options: dict[str, Any] = {"strands": strands, "batch_tokens": shared.batch_tokens}
        return log_likelihoods(*model.parts(), sequences, reduction="sum", **options).tolist()

    def of_records(some: Sequence[Record]) -> list[dict[str, Any]]:
        values = likelihoods([record.sequence for record in some])
        return [
            {"name": record.name, "length": len(record.sequence), "log_likelihood": value}
            for record, value in zip(some, values, strict=True)
        ]

    def of_variants(some: Sequence[Variant]) -> list[dict[str, Any]]:
        sequences = sorted({sequence for row in some for sequence in (row.before, row.after)})
        values = dict(zip(sequences, likelihoods(sequences), strict=True))
        return [
            row.given
            | {
                "reference_log_likelihood": values[row.before],
                "alternative_log_likelihood": values[row.after],
                "log_likelihood_ratio": values[row.after] - values[row.before],
            }
            for row in some
        ]

    request = {
        "command": "score", "model": identity(shared.model), "revision": shared.revision, "dtype": shared.dtype,
        "fasta": identity(shared.data), "letters": shared.letters, "window": window, "strands": strands,
        "variants": None if variants is None else identity(variants),
    }  # fmt: skip
    if rows is None:
        chunks = in_chunks(records, lambda record: len(record.sequence))
        written = write_in_parts(shared.output, request, chunks, of_records)
    else:
        chunks = in_chunks(rows, lambda row: len(row.before) + len(row.after))
        written = write_in_parts(shared.output, request, chunks, of_variants)
    report(written)


class _Model:
    """A model and its tokenizer, loaded when the first part is computed, and its configuration, loaded at once."""

    def __init__(self, shared: Shared, auto_class: Any):
        check_device(shared.device)
        folder = find_folder(shared.model, shared.revision, weights=False)
        self.config = config_of(folder, trust_remote_code=shared.trust_remote_code)
        self.shared, self.auto_class = shared, auto_class
        self.found: tuple[Any, Any] | None = None

    def parts(self) -> tuple[Any, Any]:
        """Both."""
        if self.found is None:
            self.found = self.shared.load(self.auto_class)
        return self.found


def _check_strand(record: Record) -> None:
    try:
        reverse_complement(record.sequence)
    except ValueError as error:
        raise ValueError(f"Record {record.name!r}: {error}") from None
