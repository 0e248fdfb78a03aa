"""`modeling-dlr predict` and `modeling-dlr embed`: answers and vectors for the rows of a table."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from modeling_dlr.finetuning.tables import TABLES, kind_of
from modeling_dlr.inference import (
    EMBEDDINGS,
    Embedder,
    Pooling,
    check_engine,
    check_output,
    embed_rows,
    identity,
    made_for,
)
from modeling_dlr.inference import embed as embed_table
from modeling_dlr.inference import predict as predict_table

from .fasta import read_fasta
from .options import (
    Encoding,
    EngineName,
    Folder,
    Revision,
    Shared,
    Text,
    Workers,
    columns_of,
    one_line_errors,
    report,
    with_shared,
)


@one_line_errors
def predict(
    folder: Folder,
    data: Annotated[
        str, typer.Argument(help="A .csv, .tsv, .jsonl or .parquet file, FASTA, a folder of files, or a Hub data set.")
    ],
    output: Annotated[Path, typer.Option(help="The table to write: .csv, .tsv, .jsonl or .parquet.")],
    text: Text = None,
    explain: Annotated[
        int, typer.Option(min=0, help="Name so many spans of each text, those that moved its score most.")
    ] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a batch at most, padding included.")] = 16384,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu",
    revision: Revision = None,
    encoding: Encoding = "utf-8",
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Add the answers of a trained model to the rows of a table: a label and its score, or a value, or spans.

    All columns stay. Rows with an empty input get empty cells. A run that is begun again goes on where it ended, and
    the output is there as a whole or not at all.
    """
    options: dict[str, Any] = {"text": columns_of(text), "explain": explain, "batch_steps": batch_tokens}
    options |= {"engine": engine, "workers": workers}
    report(predict_table(folder, data, output, device=device, revision=revision, encoding=encoding, **options))


@with_shared
def embed(
    shared: Shared,
    layer: Annotated[int, typer.Option(help="0: embeddings of tokens; i: after i layers; -1: what heads read.")] = -1,
    pooling: Annotated[Pooling, typer.Option(help="Of the steps of a row: mean, or as the model's heads do.")] = "mean",
    text: Text = None,
    encoding: Encoding = "utf-8",
    engine: EngineName = "local",
    workers: Workers = None,
) -> None:
    """Write one vector for every row of a table, beside its columns, or for every record of a FASTA file.

    A run that is begun again goes on where it ended, and the output is there as a whole or not at all.
    """
    options: dict[str, Any] = {
        "layer": layer, "pooling": pooling, "batch_steps": shared.batch_tokens, "dtype": shared.dtype,
        **shared.of_hub,
    }  # fmt: skip
    check_output(shared.output, EMBEDDINGS)
    check_engine(engine, workers)
    in_processes: dict[str, Any] = {"engine": engine, "workers": workers}
    if shared.data.is_file() and kind_of(shared.data) not in TABLES:
        found = read_fasta(shared.data, shared.letters)
        records = [{"name": one.name, "length": len(one.sequence), "sequence": one.sequence} for one in found]
        request = {"source": identity(shared.data), "letters": shared.letters, "revision": shared.revision}
        embedder = made_for(engine, shared.device, partial(Embedder, shared.model, text=["sequence"], **options))
        report(embed_rows(embedder, records, shared.output, request, keep=["name", "length"], **in_processes))
    else:
        options |= {"text": columns_of(text), "encoding": encoding, "device": shared.device, **in_processes}
        report(embed_table(shared.model, shared.data, shared.output, **options))
