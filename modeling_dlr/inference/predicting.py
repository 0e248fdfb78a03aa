"""Answers of a trained model for rows: in memory, or for a table of any length into a file."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .answers import Cells, answers, new_columns, spans
from .columns import columns_to_read, free_names
from .engines import check_engine, made_for, run
from .explaining import explain
from .folders import load_folder
from .inputs import Row, base_of, batches, inputs_of, is_empty, letters_in
from .jobs import Engine, Job, Table
from .parts import Written, check_output, identity

# Steps of a batch, padding included, unless a caller says otherwise.
BATCH_STEPS = 16384


class Predictor:
    """A trained model with all that is needed to answer rows.

    Args:
        folder: where `modeling-dlr train` or ``save_pretrained`` has saved a model of this library, or OWNER/NAME of
            its repository on the Hub.
        text: the columns that are read; None are those of the training, or else the column that is called as the input
            ("text", "sequence", "image", "sound"), or the only one.
        explain: for every row, how many spans of its text are named that moved its score most; 0 for none.
        batch_steps: steps of a batch at most, padding included.
        device: such as "cpu" or "cuda".
        revision: of the repository.

    Raises:
        ValueError: for a folder that cannot answer rows, or that cannot explain its answers.

    Example:
        ```python
        Predictor("reviews")(["I thought the plot was superb."])
        # [{"text": "I thought the plot was superb.", "label": "good", "score": 0.998}]
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        text: Sequence[str] | None = None,
        explain: int = 0,
        batch_steps: int = BATCH_STEPS,
        device: str = "cpu",
        revision: str | None = None,
    ):
        loaded = load_folder(folder, device, revision)
        self.folder, self.model, self.processor, self.task, self._columns_known = loaded
        self.explain, self.batch_steps = explain, batch_steps
        if explain and (self.task.input in ("image", "sound") or self.task.task == "tokens"):
            raise ValueError(
                f"Labels and numbers of texts and of pairs of texts are explained, but {folder} answers "
                f"{self.task.task} of {self.task.input}: leave --explain out."
            )
        if text is not None:
            self.task.text_columns, self._columns_known = list(text), True
        self.base, self.device, self._given = Path(), device, (folder, revision)
        self.names: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """All but the model, which another process loads itself, on ``device``."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "processor")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        folder, revision = self._given
        loaded = load_folder(folder, self.device, revision)
        self.folder, self.model, self.processor = loaded.folder, loaded.model, loaded.processor

    @property
    def spans_per_row(self) -> bool:
        """Whether a row becomes one row for each of its spans."""
        return self.task.task == "tokens"

    def __call__(self, rows: Sequence[Row | str]) -> list[Row]:
        """Add answers to rows.

        Args:
            rows: dictionaries by column, or texts (paths of sound or images) alone. A row whose input is empty is
                answered by None.

        Returns:
            For every row, in their order, all its columns and the new ones: "label" and "score"; for several labels the
            list of those given, and "score_…" of each; for a number "value". For labels of steps, one row for every
            span, with "start", "end" (the one after the last), "label" and "score", and one without for a row that has
            no span. A new column whose name is taken is called "predicted_…".

        Raises:
            ValueError: for rows without the columns that are read.
        """
        whole = [{self._column: row} if isinstance(row, str) else dict(row) for row in rows]
        if not whole:
            return []
        if not self.names:
            self.look_at(whole[0])
        names = self.names
        if taken := next((name for name in names.values() for row in whole if name in row), None):
            raise ValueError(f"Some rows have a column {taken!r}, which the first has not: rename it, or take it out.")
        found = self._answers(whole)
        return [
            row | {names[name]: cell for name, cell in cells.items()}
            for row, added in zip(whole, found, strict=True)
            for cells in added
        ]

    def is_empty(self, row: Row) -> bool:
        """Whether a row has nothing to read."""
        return is_empty(row, self.task)

    def look_at(self, first: Row) -> None:
        """Settle by the first row which columns are read, and how new ones are called.

        Raises:
            ValueError: for a row without the columns that are read.
        """
        given = self.task.text_columns if self._columns_known else None
        self.task.text_columns = columns_to_read(list(first), given, self.task)
        added = new_columns(self.task) + (["explanation"] if self.explain else [])
        self.names = free_names(added, list(first))

    @property
    def _column(self) -> str:
        if len(self.task.text_columns) > 1:
            raise ValueError(f"Every row must have the columns {self.task.text_columns}: give dictionaries.")
        return self.task.text_columns[0]

    def _answers(self, rows: Sequence[Row]) -> list[list[Cells]]:
        """The new cells of every row: several of them where it has several spans."""
        reader = inputs_of(self.processor, self.task, self.base)
        nothing: Cells = dict.fromkeys(self.names)
        found: list[list[Cells]] = [[nothing] for _ in rows]
        items = reader.items(rows)
        steps: dict[int, Tensor] = {}
        for some in batches(items, self.batch_steps):
            inputs = {name: value.to(self.model.device) for name, value in reader.batch(some).items()}
            with torch.inference_mode():
                logits = self.model(**inputs).logits.float().cpu()
            if self.spans_per_row:
                steps |= {id(item): one[: item.length].clone() for item, one in zip(some, logits, strict=True)}
            else:
                for item, cells in zip(some, answers(self.task, logits), strict=True):
                    found[item.row] = [nothing | cells]
            if self.explain:
                told = explain(self.model, inputs, some, self.task, self.explain)
                for item, words in zip(some, told, strict=True):
                    found[item.row][0]["explanation"] = words
        if self.spans_per_row:
            for row, windows in groupby(items, key=lambda item: item.row):
                parts = [(item, steps[id(item)]) for item in windows]
                found[row] = [span._asdict() for span in spans(self.task, parts)] or [nothing]
        return found


def predict(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: Sequence[str] | None = None,
    explain: int = 0,
    batch_steps: int = BATCH_STEPS,
    device: str = "cpu",
    revision: str | None = None,
    encoding: str = "utf-8",
    engine: Engine = "local",
    workers: int | None = None,
    progress: bool = True,
) -> Written:
    """Add answers to the rows of a table, which is read and written piece by piece.

    A run that ends early leaves ``output.parts``, from which the same call goes on; the output is there as a whole or
    not at all.

    Args:
        folder: see `Predictor`, also for what is not said here.
        source: a .csv, .tsv, .jsonl or .parquet file, FASTA, a folder of files, or a data set of the Hub.
        output: the .csv, .tsv, .jsonl or .parquet file to write.
        text: the columns that are read.
        explain: spans to name per row.
        batch_steps: steps of a batch at most.
        device: of the model.
        revision: of a repository of the Hub.
        encoding: of text files, or several after commas, of which the first that fits is taken.
        engine: "local" computes in this process, "ray" in actors, each with a model; see docs/large.md.
        workers: how many actors; None is one for each processor, or each GPU.
        progress: show a progress bar, on terminals.

    Returns:
        What was written.

    Raises:
        ImportError: without Ray, where it is asked for.
        ValueError: for what cannot be read or answered, an output that is there, or parts of another request.
        OSError: for a file that cannot be written.
    """
    output = Path(output)
    check_output(output)
    check_engine(engine, workers)
    options: dict[str, Any] = {"text": text, "explain": explain, "batch_steps": batch_steps}
    predictor = made_for(engine, device, partial(Predictor, folder, revision=revision, **options))
    predictor.base = base_of(source)
    table = Table(str(source), encoding)
    rows = iter(table)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source} has no rows.")
    predictor.look_at(first)
    request = {
        "command": "predict", "model": identity(predictor.folder), "source": identity(source), "encoding": encoding,
        "text": predictor.task.text_columns, "explain": explain,
    }  # fmt: skip
    letters = partial(letters_in, medium=predictor.task.input)
    empty = partial(is_empty, task=predictor.task)
    job = Job(table if engine == "ray" else chain([first], rows), letters, empty, predictor)
    written = run(job, output, request, engine=engine, workers=workers, device=device, progress=progress)
    return written._replace(columns=tuple(predictor.names.values()))
