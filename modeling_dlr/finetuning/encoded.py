"""Encoded rows in a file that is mapped into memory, and the batches that are made of them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn

from .encoding import IGNORED, Encoder
from .rows import rows_of

_BATCH = 200


def encode_rows(encoder: Encoder, table: Dataset, places: np.ndarray, path: Path) -> Dataset:
    """The features of rows, with ``length``, ``place`` in the table and, but for tokens, ``labels``.

    Args:
        encoder: gives the features.
        table: the rows that were read.
        places: of those that are encoded.
        path: of the file that is written.
    """
    schema = _schema(encoder)
    rows = _encoded(encoder, table, places)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            columns = [pa.array([row[field.name] for row in batch], type=field.type) for field in schema]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return Dataset.from_file(str(path)).with_format("numpy")


def _schema(encoder: Encoder) -> pa.Schema:
    task = encoder.task
    integers, numbers = pa.list_(pa.int32()), pa.list_(pa.float32())
    inputs: dict[str, Any] = {
        "image": {"pixel_values": numbers},
        "sound": {"input_values": numbers},
    }.get(task.input, {"input_ids": integers} | ({"other_ids": integers} if task.task == "pairs" else {}))
    labels: Any = {"tokens": integers, "several labels": numbers}.get(task.task, pa.int64())
    labels = pa.float64() if task.is_number else labels
    places = {"length": pa.int32(), "place": pa.int64()} | ({"start": pa.int32()} if task.task == "tokens" else {})
    return pa.schema(list((inputs | {"labels": labels} | places).items()))


def _encoded(encoder: Encoder, table: Dataset, places: np.ndarray) -> Iterator[dict[str, Any]]:
    targets, several = encoder.labels.targets, encoder.task.task == "several labels"
    for place, row in zip(places.tolist(), rows_of(table.select(places)), strict=True):
        for features in encoder.features(row):
            length = max(len(value) for name, value in features.items() if name not in ("labels", "start"))
            given: dict[str, Any] = {"length": length, "place": place}
            if several:
                labels = np.zeros(len(encoder.labels.names), dtype=np.float32)
                labels[targets[place]] = 1
                given["labels"] = labels
            elif targets is not None:
                given["labels"] = targets[place]
            yield given | features


class Collator:
    """Make a batch: inputs by the names of the model, an attention mask for texts, and labels.

    Args:
        encoder: that encoded the rows.
        shape: of the input of an image or recording.
        mean: of the numbers to predict.
        std: of these numbers.
    """

    def __init__(self, encoder: Encoder, shape: tuple[int, ...] = (), mean: float = 0.0, std: float = 1.0):
        self.task, self.shape, self.mean, self.std = encoder.task, shape, mean, std
        self.padding = getattr(encoder.processor, "pad_token_id", None) or 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of encoded rows."""
        signal = {"image": "pixel_values", "sound": "input_values"}.get(self.task.input)
        if signal is not None:
            batch = {signal: torch.stack([torch.as_tensor(row[signal]).view(self.shape) for row in rows])}
        elif self.task.task == "pairs":
            batch = self._padded([row[name] for row in rows for name in ("input_ids", "other_ids")])
            batch = {name: values.unflatten(0, (-1, 2)) for name, values in batch.items()}
        else:
            batch = self._padded([row["input_ids"] for row in rows])
        return batch | {"labels": self._labels(rows)}

    def _labels(self, rows: list[dict[str, Any]]) -> Tensor:
        labels = [torch.as_tensor(row["labels"]) for row in rows]
        if self.task.task == "tokens":
            return nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED).long()
        if self.task.is_number:
            return ((torch.stack(labels) - self.mean) / self.std).float().unsqueeze(-1)
        return torch.stack(labels)

    def _padded(self, sequences: list[Any]) -> dict[str, Tensor]:
        ids = [torch.as_tensor(each).long() for each in sequences]
        masks = [torch.ones_like(each) for each in ids]
        return {
            "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.padding),
            "attention_mask": nn.utils.rnn.pad_sequence(masks, batch_first=True),
        }
