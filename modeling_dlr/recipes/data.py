"""Data sets of recipes: texts, pairs of texts, grey images or recordings, each with a class.

They come from a local folder or file, or from the Hub, through 🤗 Datasets. Rows are stored as they are; the processor
that is saved with the model makes every batch. `KINDS` maps names to classes, whose fields are the options.
"""

import importlib.util
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from modeling_dlr.processing import pixel_processor, sound_extractor

from .files import without_empty_cells
from .sources import SPLITS, parted, some

Batch = dict[str, Tensor]
DataKind = Literal["texts", "text_pairs", "grey_images", "recordings"]


class View(NamedTuple):
    """Rows, and the function that makes a batch from them."""

    data: Any
    collate: Callable[[list[dict[str, Any]]], Batch]
    step: int = 1
    """Factor on the model's time steps, relative to training."""


class Prepared(NamedTuple):
    """The prepared data for the Trainer."""

    train: View
    validation: View
    at_the_end: Mapping[str, View] = {}
    """Data that are scored once, after training, by name."""
    sizes: Mapping[str, Any] = {}
    """Fields of DLRConfig that depend on the data."""
    processor: Any = None
    """The processor to save with the model."""


@dataclass(frozen=True, kw_only=True)
class ClassifiedData(ABC):
    """Rows with a class.

    Args:
        label: the column of the class, a number or a name.
        classes: names of the classes to use; rows of other classes are dropped. None uses all classes.
        files: tab-separated files without a header, by split, relative to the folder; None lets 🤗 Datasets find them.
        columns: names of the columns of these files, from left to right.
        validation_share: share of the training rows for validation if there is no validation split; with 0, the test
            split is used for validation.
        test_share: share of the training rows for the test if there is no test split.
    """

    label: str = "label"
    classes: Sequence[str] | None = None
    files: Mapping[str, str] | None = None
    columns: Sequence[str] | None = None
    validation_share: float = 0.0
    test_share: float = 0.0

    needs: ClassVar[dict[str, str]] = {}

    @property
    @abstractmethod
    def inputs(self) -> list[str]:
        """The input columns, without the class."""

    @abstractmethod
    def processor(self, train: Dataset) -> Any:
        """Build the processor that makes a batch, fitted to the training rows."""

    @abstractmethod
    def sizes(self, processor: Any) -> dict[str, Any]:
        """The fields of DLRConfig that depend on the inputs."""

    @abstractmethod
    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """Make the inputs of a model from rows."""

    @abstractmethod
    def stand_in(self) -> DatasetDict:
        """Make a few artificial rows, to check that everything runs."""

    def prepare(self, data: DatasetDict, num_train: int | None, num_validation: int | None) -> Prepared:
        """Check the columns, drop rows with empty cells, find the classes, make the splits and fit the processor.

        Raises:
            ValueError: for missing columns, rows or classes.
        """
        self._check_columns(data["train"])
        columns = [*self.inputs, self.label]
        data = DatasetDict({split: rows.select_columns(columns) for split, rows in data.items()})
        data = without_empty_cells(data, columns)
        place_of, names = self._classes(data)
        data = parted(data, self.validation_share, self.test_share)
        data["train"], data["validation"] = some(data["train"], num_train), some(data["validation"], num_validation)
        processor = self.processor(data["train"])
        sizes = self.sizes(processor) | {"id2label": dict(enumerate(names)), "label2id": _places(names)}

        def view(split: str, kind: ClassifiedData = self, step: int = 1) -> View:
            return View(data[split], partial(kind.collate, processor, place_of), step)

        tests = {name: view("test", *how) for name, how in self.tests().items()} if "test" in data else {}
        return Prepared(view("train"), view("validation"), tests, sizes, processor)

    def tests(self) -> dict[str, tuple["ClassifiedData", int]]:
        """How to score the test rows, by name: the class that reads them, and the factor on the model's time steps."""
        return {"test": (self, 1)}

    def collate(self, processor: Any, place_of: Mapping[Any, int], rows: list[dict[str, Any]]) -> Batch:
        """Make a batch: the inputs and ``labels`` [B]."""
        return self.batch(processor, rows) | {"labels": torch.tensor([place_of[row[self.label]] for row in rows])}

    def _check_columns(self, train: Dataset) -> None:
        missing = [column for column in [*self.inputs, self.label] if column not in train.column_names]
        if missing:
            raise ValueError(
                f"The data set has no column {missing[0]!r}; it has {train.column_names}: name your columns with "
                f"--data_options, one of {[field.name for field in fields(self)]}."
            )

    def _classes(self, data: DatasetDict) -> tuple[dict[Any, int], list[str]]:
        """Find the index of every label value and the names of the classes; drop rows of other classes."""
        feature = data["train"].features[self.label]
        values = {value for rows in data.values() for value in rows.unique(self.label)}
        named = feature.int2str if isinstance(feature, datasets.ClassLabel) else _name
        name_of = {value: named(value) for value in sorted(values)}
        names = list(name_of.values())
        if self.classes is not None:
            unknown = sorted(set(self.classes) - set(names))
            if unknown:
                raise ValueError(
                    f"No row has the class {unknown[0]!r}; there are {names}: --data_options classes=null uses all."
                )
            names = list(self.classes)
        places = _places(names)
        place_of = {value: places[name] for value, name in name_of.items() if name in places}
        for split, rows in data.items():
            kept = [i for i, value in enumerate(rows[self.label]) if value in place_of]
            data[split] = rows if len(kept) == len(rows) else rows.select(kept)
        return place_of, names


@dataclass(frozen=True, kw_only=True)
class Texts(ClassifiedData):
    """Texts, read character by character, with an end token.

    Args:
        text: the column of the texts.
        max_length: maximum number of tokens of a text, with its end token; longer texts are truncated.
        min_count: minimum count of a character in the training texts to get its own token.
    """

    text: str = "text"
    max_length: int
    min_count: int = 1

    @property
    def inputs(self) -> list[str]:
        """The column of the text."""
        return [self.text]

    def processor(self, train: Dataset) -> PreTrainedTokenizerFast:
        """Build a tokenizer of the characters in the training texts."""
        batches = train.select_columns(self.inputs).iter(1000)
        texts = (text for batch in batches for column in self.inputs for text in batch[column])
        return character_tokenizer(texts, self.max_length, self.min_count)

    def sizes(self, processor: PreTrainedTokenizerFast) -> dict[str, Any]:
        """The size of the vocabulary, and the ids of padding and end."""
        ids = {name: getattr(processor, name) for name in ("pad_token_id", "eos_token_id")}
        return {"vocab_size": len(processor)} | ids

    def batch(self, processor: PreTrainedTokenizerFast, rows: list[dict[str, Any]]) -> Batch:
        """Make ``input_ids`` and ``attention_mask`` [B, L]."""
        return self._encode(processor, [row[self.text] for row in rows])

    def stand_in(self) -> DatasetDict:
        """Make texts of the letter a (class 0) or b (class 1)."""
        rows = [{self.text: "ab"[i % 2] * (3 + i), self.label: i % 2} for i in range(4)]
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "test")})

    def _encode(self, processor: PreTrainedTokenizerFast, texts: list[str]) -> Batch:
        return dict(processor(texts, padding=True, truncation=True, return_tensors="pt"))


@dataclass(frozen=True, kw_only=True)
class TextPairs(Texts):
    """Pairs of texts, read character by character, in the columns ``text`` and ``other_text``."""

    other_text: str = "other_text"

    @property
    def inputs(self) -> list[str]:
        """The columns of both texts."""
        return [self.text, self.other_text]

    def batch(self, processor: PreTrainedTokenizerFast, rows: list[dict[str, Any]]) -> Batch:
        """Make ``input_ids`` and ``attention_mask`` [B, 2, L]."""
        texts = [row[column] for row in rows for column in self.inputs]
        return {name: values.unflatten(0, (-1, 2)) for name, values in self._encode(processor, texts).items()}

    def stand_in(self) -> DatasetDict:
        """Make pairs of texts that have the same letter (class 0) or different ones (class 1)."""
        rows = [{self.text: "a" * (3 + i), self.other_text: "ab"[i % 2] * 5, self.label: i % 2} for i in range(4)]
        return DatasetDict({split: Dataset.from_list(rows) for split in SPLITS})


@dataclass(frozen=True, kw_only=True)
class GreyImages(ClassifiedData):
    """Images of the same size, read in grey, pixel by pixel.

    Args:
        image: the column of the images.
        mean: mean that is subtracted from the pixels, which are in 0 … 1.
        std: standard deviation by which the pixels are then divided.
    """

    image: str = "image"
    mean: float = 0.5
    std: float = 0.5

    needs = {"PIL": "Pillow"}

    @property
    def inputs(self) -> list[str]:
        """The column of the image."""
        return [self.image]

    def processor(self, train: Dataset) -> Any:
        """Build a processor that does not resize images."""
        processor: Any = pixel_processor()
        processor.image_mean, processor.image_std = self.mean, self.std
        return processor

    def sizes(self, processor: Any) -> dict[str, Any]:
        """Input size 1: one value for each pixel."""
        return {"input_size": 1}

    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """Make ``pixel_values`` [B, 3, h, w]; a model with one input channel converts them to grey."""
        images = [row[self.image] for row in rows]
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            raise ValueError(f"Images must have the same width and height, got {sizes}: resize them.")
        return dict(processor(images, return_tensors="pt"))

    def stand_in(self) -> DatasetDict:
        """Make dark images (class 0) and bright ones (class 1)."""
        from PIL import Image

        rows = [{self.image: Image.new("RGB", (8, 8), (60 * i,) * 3), self.label: i // 2} for i in range(4)]
        features = datasets.Features({self.image: datasets.Image(), self.label: datasets.Value("int64")})
        return DatasetDict({split: Dataset.from_list(rows, features=features) for split in ("train", "test")})


@dataclass(frozen=True, kw_only=True)
class Recordings(ClassifiedData):
    """Recordings of one channel as WAV files, read sample by sample; each is scaled to mean 0 and variance 1.

    Args:
        audio: the column of the recordings.
        sampling_rate: samples per second of every recording.
        max_samples: maximum number of samples of a recording; longer recordings are truncated.
        every: read only every ``every``-th sample.
        test_every: score the test recordings a second time with this value instead of ``every``.
    """

    audio: str = "audio"
    sampling_rate: int
    max_samples: int
    every: int = 1
    test_every: int | None = None

    needs = {"scipy": "SciPy"}

    @property
    def inputs(self) -> list[str]:
        """The column of the recording."""
        return [self.audio]

    def tests(self) -> dict[str, tuple[ClassifiedData, int]]:
        """Score at the training rate; with ``test_every`` also at the lower rate, with usual and longer time steps."""
        if self.test_every is None:
            return super().tests()
        fewer, name = replace(self, every=self.test_every), f"test_every_{self.test_every}"
        return super().tests() | {name: (fewer, 1), f"{name}_longer_steps": (fewer, self.test_every // self.every)}

    def processor(self, train: Dataset) -> Any:
        """Build a feature extractor for this sampling rate."""
        return sound_extractor(self.sampling_rate)

    def sizes(self, processor: Any) -> dict[str, Any]:
        """Input size 1: one value for each sample."""
        return {"input_size": 1}

    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """Make ``input_values`` and ``attention_mask`` [B, L]."""
        recordings = [self._samples(row[self.audio])[: self.max_samples : self.every] for row in rows]
        return dict(processor(recordings, sampling_rate=self.sampling_rate, padding=True, return_tensors="pt"))

    def stand_in(self) -> DatasetDict:
        """Make sine waves, one of two frequencies each."""
        from scipy.io import wavfile

        rows = []
        for i, name in enumerate(2 * list(self.classes or ("low", "high"))):
            file, wave = io.BytesIO(), np.sin(np.arange(40 + i % 3) * (0.2 + i % 2))
            wavfile.write(file, self.sampling_rate, (wave * 2**14).astype(np.int16))
            rows.append({self.audio: {"bytes": file.getvalue(), "path": None}, self.label: name})
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "test")})

    def _samples(self, file: Mapping[str, Any]) -> np.ndarray:
        """Read the samples of a file: [L] float32 from -1 to 1."""
        from scipy.io import wavfile

        rate, samples = wavfile.read(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"]))
        if rate != self.sampling_rate or samples.ndim != 1 or samples.dtype.kind not in "if":
            raise ValueError(
                f"Recordings must have one channel, sampling_rate={self.sampling_rate} and signed samples, but "
                f"{file['path'] or 'one'} has shape {list(samples.shape)}, rate {rate} and type {samples.dtype}: "
                "convert it, or change the option 'sampling_rate'."
            )
        scale = np.iinfo(samples.dtype).max + 1 if samples.dtype.kind == "i" else 1
        return samples.astype(np.float32) / np.float32(scale)


KINDS: dict[DataKind, type[ClassifiedData]] = {
    "texts": Texts,
    "text_pairs": TextPairs,
    "grey_images": GreyImages,
    "recordings": Recordings,
}


def build_kind(name: DataKind, options: Mapping[str, Any]) -> ClassifiedData:
    """Build a kind of data from its name and options.

    Raises:
        ValueError: for an unknown kind, an unknown option, or a missing one.
        ModuleNotFoundError: if the library that reads such data is not installed.
    """
    if name not in KINDS:
        raise ValueError(f"data must be one of {list(KINDS)}, got {name!r}.")
    known = {field.name for field in fields(KINDS[name])}
    if not options.keys() <= known:
        unknown = sorted(options.keys() - known)
        raise ValueError(f"Data of kind {name!r} have no option {unknown[0]!r}; the options are {sorted(known)}.")
    missing = [library for module, library in KINDS[name].needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"Reading {name} needs {missing[0]}: pip install 'modeling-dlr[tasks]'")
    return KINDS[name](**options)


def character_tokenizer(texts: Iterable[str], max_length: int, min_count: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer with a token for each character that occurs ``min_count`` times, most frequent first.

    An end token is added to each text.

    Args:
        texts: the training texts; characters that truncation removes are not counted.
        max_length: maximum number of tokens of a text, with its end token.
        min_count: minimum count of a character; rarer ones become the unknown token.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text[: max_length - 1])
    frequent = sorted((-count, character) for character, count in counts.items() if count >= min_count)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    symbols = [*special.values(), *(character for _, character in frequent)]
    tokenizer = Tokenizer(models.WordLevel(_places(symbols), unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    end = special["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", special_tokens=[(end, symbols.index(end))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **special,
    )


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
