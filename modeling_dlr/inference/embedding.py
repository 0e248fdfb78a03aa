"""One vector per row: in memory, or for a table of any length into a file."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from modeling_dlr.finetuning import Task
from modeling_dlr.finetuning.names import find_folder
from modeling_dlr.scoring import check_layer, embeddings, pooled

from .columns import columns_to_read, free_names
from .engines import check_engine, made_for, run
from .folders import check_device, config_of, load_folder, load_text_model
from .inputs import Row, base_of, batches, inputs_of, letters_in, text_of
from .jobs import Engine, Job, Table
from .parts import Written, check_output, identity
from .predicting import BATCH_STEPS

Pooling = Literal["mean", "model"]


class Embedder:
    """A model that turns a row into one vector; its weights are loaded when the first row is.

    Args:
        model: a folder or a repository of the Hub, with or without a head.
        text: the columns that are read; see `Predictor`.
        layer: 0 is the embedding of tokens, i the hidden states after i layers, and the last one, also -1, those that
            a head reads; of sound and images only that one.
        pooling: "mean" over the steps of a row, or "model", as the model's own heads pool.
        batch_steps: steps of a batch at most, padding included.
        device: such as "cpu" or "cuda".
        dtype: of the weights: "auto", "float32", "bfloat16", …
        revision: of a repository.
        trust_remote_code: run code that lies beside the model, if it is not one of this library.

    Raises:
        ValueError: for a model or a device that is not there, a layer that the model does not have, and one that has
            no pooling of its own.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        text: Sequence[str] | None = None,
        layer: int = -1,
        pooling: Pooling = "mean",
        batch_steps: int = BATCH_STEPS,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ):
        check_device(device)
        self.name, self.layer, self.batch_steps, self.text = str(model), layer, batch_steps, text
        self.of_hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        self.of_hub |= {} if revision is None else {"revision": revision}
        self.device, self.dtype = device, dtype
        self.folder = find_folder(model, revision, weights=False)
        config = config_of(self.folder, trust_remote_code=trust_remote_code)
        check_layer(layer, config.num_hidden_layers)
        self.media = getattr(config, "input_size", None) is not None
        if self.media and layer != -1:
            raise ValueError(f"Of sound and images only the last layer is read, got layer {layer}.")
        self.pooling = "mean" if pooling == "mean" else getattr(config, "pooling", None)
        if self.pooling is None:
            raise ValueError(f"{self.name} has no pooling of its own: use the mean.")
        known = (self.folder / "task.json").is_file()
        self.task = Task.load(self.folder) if known else Task("classes", "text", ["text"])
        if known and text is None:
            self.text = self.task.text_columns
        self.base, self.column = Path(), "embedding"

    def __getstate__(self) -> dict[str, Any]:
        """All but the model, which another process loads itself."""
        return {name: value for name, value in vars(self).items() if name != "loaded"}

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model and what prepares its inputs."""
        if self.media:
            loaded = load_folder(self.name, self.device, self.of_hub.get("revision"))
            self.task = loaded.task
            return loaded.model, loaded.processor
        options: dict[str, Any] = self.of_hub
        return load_text_model(transformers.AutoModel, self.name, dtype=self.dtype, device=self.device, **options)

    def __call__(self, rows: Sequence[Row | str]) -> list[Row]:
        """Add the column "embedding", an array [hidden_size] in float32, to rows; None where the input is empty.

        Args:
            rows: dictionaries by column, or texts (paths of sound or images) alone.

        Raises:
            ValueError: for rows without the columns that are read.
        """
        whole = [{"text": row} if isinstance(row, str) else dict(row) for row in rows]
        if whole and isinstance(rows[0], str):
            self.task.text_columns = ["text"]
        elif whole:
            self.look_at(whole[0])
        vectors = (self._of_media if self.media else self._of_texts)(whole)
        return [row | {self.column: vectors.get(place)} for place, row in enumerate(whole)]

    def look_at(self, first: Row) -> None:
        """Settle by the first row which columns are read, and how the new one is called.

        Raises:
            ValueError: for a row without the columns that are read.
        """
        task = Task("classes", self.task.input, ["text"])  # of pairs, both texts are read as one
        self.task.text_columns = columns_to_read(list(first), self.text, task)
        self.column = free_names(["embedding"], list(first))["embedding"]

    def _of_texts(self, rows: Sequence[Row]) -> dict[int, Any]:
        texts = {place: text_of(row, self.task.text_columns) for place, row in enumerate(rows)}
        texts = {place: text for place, text in texts.items() if text is not None}
        if not texts:
            return {}
        options: dict[str, Any] = {"layer": self.layer, "batch_tokens": self.batch_steps, "pooling": self.pooling}
        found = embeddings(*self.loaded, list(texts.values()), **options).numpy()
        return dict(zip(texts, found, strict=True))

    def _of_media(self, rows: Sequence[Row]) -> dict[int, Any]:
        model, processor = self.loaded
        reader, states = inputs_of(processor, self.task, self.base), []
        found: dict[int, Any] = {}
        hook = model.model.register_forward_hook(lambda _module, _args, output: states.append(output[0]))
        try:
            for some in batches(reader.items(rows), self.batch_steps):
                inputs = {name: value.to(model.device) for name, value in reader.batch(some).items()}
                with torch.inference_mode():
                    model(**inputs)
                for item, row in zip(some, states.pop(), strict=True):
                    found[item.row] = pooled(row[: item.length], str(self.pooling)).cpu().numpy()
        finally:
            hook.remove()
        return found


def embed(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: Sequence[str] | None = None,
    layer: int = -1,
    pooling: Pooling = "mean",
    batch_steps: int = BATCH_STEPS,
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    encoding: str = "utf-8",
    engine: Engine = "local",
    workers: int | None = None,
    progress: bool = True,
) -> Written:
    """Add one vector to every row of a table, which is read and written piece by piece; resumed as `predict` is.

    Args:
        model: see `Embedder`, also for what is not said here.
        source: a .csv, .tsv, .jsonl or .parquet file, FASTA, a folder of files, or a data set of the Hub.
        output: a .parquet or .jsonl file with all columns, or a .npy array [rows, hidden_size], NaN for empty rows.
        text: the columns that are read.
        layer: of the hidden states.
        pooling: over the steps of a row.
        batch_steps: steps of a batch at most.
        device: of the model.
        dtype: of the weights.
        revision: of a repository.
        trust_remote_code: run code that lies beside the model.
        encoding: of text files, or several after commas, of which the first that fits is taken.
        engine: see `predict`, also for the next one.
        workers: how many actors.
        progress: show a progress bar, on terminals.

    Returns:
        What was written.

    Raises:
        ImportError: without Ray, where it is asked for.
        ValueError: for what cannot be read, an output that is there, or parts of another request.
        OSError: for a model that is not there, and a file that cannot be written.
    """
    check_output(Path(output), EMBEDDINGS)
    check_engine(engine, workers)
    make = partial(
        Embedder, model, text=text, layer=layer, pooling=pooling, batch_steps=batch_steps, dtype=dtype,
        revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    embedder = made_for(engine, device, make)
    embedder.base = base_of(source)
    rows = Table(str(source), encoding)
    request = {"source": identity(source), "encoding": encoding, "revision": revision}
    return embed_rows(embedder, rows, Path(output), request, engine=engine, workers=workers, progress=progress)


EMBEDDINGS = (".jsonl", ".npy", ".parquet")


def embed_rows(
    embedder: Embedder,
    rows: Iterable[Row],
    output: Path,
    request: dict[str, Any],
    *,
    keep: Sequence[str] | None = None,
    engine: Engine = "local",
    workers: int | None = None,
    progress: bool = True,
) -> Written:
    """Write rows with their vectors.

    Args:
        embedder: makes the vectors.
        rows: dictionaries by column.
        output: see `embed`.
        request: tells their source from others, as JSON has it.
        keep: the columns that are written; None for all.
        engine: see `predict`, also for the next one; Ray needs rows that can be read again.
        workers: how many actors.
        progress: show a progress bar, on terminals.

    Raises:
        ValueError: as `embed`.
    """
    check_output(output, EMBEDDINGS)
    again = iter(rows)
    first = next(again, None)
    if first is None:
        raise ValueError("The source has no rows.")
    embedder.look_at(first)
    if output.suffix == ".npy":
        keep = []
    request = request | {
        "command": "embed", "model": identity(embedder.folder), "text": embedder.task.text_columns,
        "layer": embedder.layer, "pooling": embedder.pooling, "dtype": embedder.dtype, "keep": keep,
    }  # fmt: skip

    def compute(chunk: Sequence[Row]) -> list[Row]:
        column = "embedding" if output.suffix == ".npy" else embedder.column
        return [
            {name: row[name] for name in (row if keep is None else keep) if name != embedder.column}
            | {column: row[embedder.column]}
            for row in embedder(chunk)
        ]

    letters = partial(letters_in, medium="sound" if embedder.media else "text")
    columns = embedder.task.text_columns
    all_rows = rows if engine == "ray" else chain([first], again)
    job = Job(all_rows, letters, lambda row: not text_of(row, columns), compute)
    written = run(job, output, request, engine=engine, workers=workers, device=embedder.device, progress=progress)
    return written._replace(columns=() if output.suffix == ".npy" else (embedder.column,))
