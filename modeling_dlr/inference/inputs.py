"""Rows of a table as batches of a model's input: texts, pairs of texts, recordings and images."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_dlr.finetuning import Task
from modeling_dlr.finetuning.signals import read_image, read_sound

Row = Mapping[str, Any]


@dataclass
class Item:
    """What a model reads at once: a row, or a window of one.

    Attributes:
        row: its place among the rows that were given.
        length: in steps.
        features: what the processor made of it, without padding.
        text: that it was made from; empty for sound and images.
        units: for texts, [length] pairs of the first character of every step, and the one after the last.
        skip: steps at the begin that repeat those of the window before, and at the end those of the one after.
        sides: of a pair, its two texts.
    """

    row: int
    length: int
    features: dict[str, Any]
    text: str = ""
    units: list[tuple[int, int]] = field(default_factory=list)
    skip: tuple[int, int] = (0, 0)
    sides: tuple["Item", ...] = ()


class Inputs(ABC):
    """What turns rows into items, and items into batches."""

    def __init__(self, processor: Any, task: Task, base: Path = Path()):
        self.processor, self.task, self.base = processor, task, base

    @abstractmethod
    def items(self, rows: Sequence[Row]) -> list[Item]:
        """The items of rows, in their order; a row whose input is empty has none."""

    @abstractmethod
    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """The arguments of a model for some items, padded to the longest."""


class TextInputs(Inputs):
    """Texts as tokens; several columns are joined by line breaks."""

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """The texts that are not empty."""
        texts = [text_of(row, self.task.text_columns) for row in rows]
        return self._items([(place, text) for place, text in enumerate(texts) if text is not None])

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` [B, L]."""
        features = [item.features for item in items]
        return dict(self.processor.pad(features, padding_side="right", return_tensors="pt"))

    def _items(self, numbered: Sequence[tuple[int, str]]) -> list[Item]:
        return [
            Item(place, len(ids), {"input_ids": ids}, text, units)
            for (place, text), (ids, units) in zip(numbered, self._tokens([text for _, text in numbered]), strict=True)
            if ids
        ]

    def _tokens(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """The tokens of each text, cut where the task says so, and what of it every token stands for."""
        if not texts:
            return
        cut = {} if self._cut is None else {"truncation": True, "max_length": self._cut}
        found = self.processor(list(texts), return_offsets_mapping=True, **cut)
        yield from zip(found["input_ids"], found["offset_mapping"], strict=True)

    @property
    def _cut(self) -> int | None:
        return self.task.max_length


class WindowedTexts(TextInputs):
    """Texts with a label for every step: read whole, or in windows that overlap by a quarter."""

    def _items(self, numbered: Sequence[tuple[int, str]]) -> list[Item]:
        whole = super()._items(numbered)
        return whole if self.task.max_length is None else [part for item in whole for part in self._windows(item)]

    @property
    def _cut(self) -> None:
        return None

    def _windows(self, item: Item) -> Iterator[Item]:
        size = self.task.max_length or item.length
        shared = size // 4
        starts = range(0, max(1, item.length - shared), max(1, size - shared))
        for start in starts:
            ids = item.features["input_ids"][start : start + size]
            skip = (shared // 2 if start else 0, 0 if start == starts[-1] else shared - shared // 2)
            units = item.units[start : start + size]
            yield Item(item.row, len(ids), {"input_ids": ids}, item.text, units, skip)


class PairInputs(TextInputs):
    """Pairs of texts as tokens, each pair in one item."""

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """The pairs of which neither text is empty."""
        texts = [
            [(place, text_of(row, [column]) or "") for place, row in enumerate(rows)]
            for column in self.task.text_columns
        ]
        one, other = ({item.row: item for item in self._items(numbered)} for numbered in texts)
        return [
            Item(place, max(one[place].length, other[place].length), {}, sides=(one[place], other[place]))
            for place in one
            if place in other
        ]

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` [B, 2, L]."""
        flat = [side for item in items for side in item.sides]
        return {name: value.unflatten(0, (-1, 2)) for name, value in super().batch(flat).items()}


class MediaInputs(Inputs):
    """Files that rows name by their paths, from the folder of the table or from the current one."""

    def _paths(self, rows: Sequence[Row]) -> Iterator[tuple[int, Path]]:
        """The rows that name a file, and where it lies."""
        for place, row in enumerate(rows):
            name = text_of(row, self.task.text_columns)
            if name is not None:
                beside = self.base / name
                yield place, beside if beside.is_file() else Path(name)


class SoundInputs(MediaInputs):
    """Recordings as the feature extractor makes them: samples, or spectra of windows of them."""

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """The recordings."""
        rate, found = self.processor.sampling_rate, []
        for place, path in self._paths(rows):
            samples = read_sound(str(path), rate)
            values = self.processor(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
            found.append(Item(place, len(values), {"input_values": values}))
        return found

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """``input_values`` [B, L] or [B, L, bins], and an ``attention_mask`` [B, L] where recordings are padded."""
        return dict(self.processor.pad([item.features for item in items], padding=True, return_tensors="pt"))


class ImageInputs(MediaInputs):
    """Images, each scaled as the image processor says."""

    def items(self, rows: Sequence[Row]) -> list[Item]:
        """The images."""
        found = []
        for place, path in self._paths(rows):
            pixels = self.processor(read_image(str(path)), return_tensors="pt")["pixel_values"][0]
            found.append(Item(place, int(np.prod(pixels.shape[1:])), {"pixels": pixels}))
        return found

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """``pixel_values`` [B, 3, h, w]."""
        return {"pixel_values": torch.stack([item.features["pixels"] for item in items])}


def inputs_of(processor: Any, task: Task, base: Path = Path()) -> Inputs:
    """What reads the rows of a task; files are looked for in ``base`` first."""
    of_texts = {"tokens": WindowedTexts, "pairs": PairInputs}.get(task.task, TextInputs)
    return {"sound": SoundInputs, "image": ImageInputs}.get(task.input, of_texts)(processor, task, base)


def letters_in(row: Row, medium: str) -> int:
    """How much work a row is, in letters; a recording or an image is as much as some thousand of them."""
    return 2**13 if medium in ("image", "sound") else sum(len(cell) for cell in row.values() if isinstance(cell, str))


def base_of(source: str | os.PathLike[str]) -> Path:
    """The folder from which a table names files."""
    return Path(source) if Path(source).is_dir() else Path(source).parent


def text_of(row: Row, columns: Sequence[str]) -> str | None:
    """The cells that are read, joined by line breaks, and words of a list by spaces; None where all are empty."""
    cells = (row.get(column) for column in columns)
    texts = [
        " ".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell) for cell in cells
    ]
    return "\n".join(text for text in texts if text.strip()) or None


def is_empty(row: Row, task: Task) -> bool:
    """Whether a row has nothing to read: of pairs, whether a text of two is empty."""
    texts = task.text_columns
    return any(not text_of(row, [name]) for name in texts) if task.task == "pairs" else not text_of(row, texts)


def batches(items: Sequence[Item], most_steps: int) -> Iterator[list[Item]]:
    """Items of similar lengths, the longest first, at most ``most_steps`` a batch with padding; images of one size."""
    order = sorted(items, key=lambda item: (-item.length, _size(item)))
    while order:
        size = max(1, most_steps // order[0].length)
        same = next((i for i, item in enumerate(order[:size]) if _size(item) != _size(order[0])), size)
        some, order = order[:same], order[same:]
        yield some


def _size(item: Item) -> tuple[int, ...]:
    return tuple(item.features["pixels"].shape) if "pixels" in item.features else ()
