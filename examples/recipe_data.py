"""What a recipe may train on beside a task: texts, pairs of texts, grey images or recordings, each with a class.

They come from a local folder or file, or from the Hub, through 🤗 Datasets. Rows stay as they are; every batch is made
by the processor that is saved with the model. `KINDS` has the kinds by name; the fields of each are its options.
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
from data_files import without_empty_cells
from datasets import Dataset, DatasetDict
from recipe_sources import SPLITS, parted, some
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from modeling_dlr.processing import pixel_processor, sound_extractor

Batch = dict[str, Tensor]
DataKind = Literal["texts", "text_pairs", "grey_images", "recordings"]


class View(NamedTuple):
    """Rows, and how a batch is made of them."""

    data: Any
    collate: Callable[[list[dict[str, Any]]], Batch]
    step: int = 1
    """How many times as long the model's time steps are to be as in training."""


class Prepared(NamedTuple):
    """All that the Trainer needs to know of what it trains on."""

    train: View
    validation: View
    at_the_end: Mapping[str, View] = {}
    """What is scored once, after training, by name."""
    sizes: Mapping[str, Any] = {}
    """The fields of DLRConfig that are known only now."""
    processor: Any = None
    """What is saved with the model."""


@dataclass(frozen=True, kw_only=True)
class ClassifiedData(ABC):
    """Rows with a class.

    Args:
        label: the column of the class: a number or a name.
        classes: the names of those that count; None are all.
        files: by split, the names of tab-separated files without a header in the folder; None: what 🤗 Datasets finds.
        columns: the names of the columns of these files, from left to right.
        validation_share: how much of the training rows validates, where there is no such split; 0: the test split does.
        test_share: how much is tested, where there is no such split.
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
        """The columns that are read beside the class."""

    @abstractmethod
    def processor(self, train: Dataset) -> Any:
        """What makes a batch, fitted to the training rows."""

    @abstractmethod
    def sizes(self, processor: Any) -> dict[str, Any]:
        """The fields of DLRConfig that the inputs decide."""

    @abstractmethod
    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """The inputs of a model."""

    @abstractmethod
    def stand_in(self) -> DatasetDict:
        """A few rows made in code, to see that everything runs."""

    def prepare(self, data: DatasetDict, num_train: int | None, num_validation: int | None) -> Prepared:
        """Check the columns, leave out rows with empty cells, find the classes, part the splits, fit the processor.

        Raises:
            ValueError: for columns, rows or classes that are not there.
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
        """How the test rows are read, and how long the model's time steps are then, by the name of the score."""
        return {"test": (self, 1)}

    def collate(self, processor: Any, place_of: Mapping[Any, int], rows: list[dict[str, Any]]) -> Batch:
        """A batch with the ``labels``."""
        return self.batch(processor, rows) | {"labels": torch.tensor([place_of[row[self.label]] for row in rows])}

    def _check_columns(self, train: Dataset) -> None:
        missing = [column for column in [*self.inputs, self.label] if column not in train.column_names]
        if missing:
            raise ValueError(
                f"The data set has no column {missing[0]!r}; it has {train.column_names}: name yours with "
                f"--data_options, one of {[field.name for field in fields(self)]}."
            )

    def _classes(self, data: DatasetDict) -> tuple[dict[Any, int], list[str]]:
        """The place of every value of the label, and the names of the classes; rows of other classes go."""
        feature = data["train"].features[self.label]
        values = {value for rows in data.values() for value in rows.unique(self.label)}
        named = feature.int2str if isinstance(feature, datasets.ClassLabel) else _name
        name_of = {value: named(value) for value in sorted(values)}
        names = list(name_of.values())
        if self.classes is not None:
            unknown = sorted(set(self.classes) - set(names))
            if unknown:
                raise ValueError(
                    f"No row has the class {unknown[0]!r}; there are {names}: --data_options classes=null takes all."
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
    """Texts, read character by character, with an end.

    Args:
        text: the column of the texts.
        max_length: of a text, its end counted; what follows is cut off.
        min_count: how often a character must occur in the training texts to have a token of its own.
    """

    text: str = "text"
    max_length: int
    min_count: int = 1

    @property
    def inputs(self) -> list[str]:
        """The text."""
        return [self.text]

    def processor(self, train: Dataset) -> PreTrainedTokenizerFast:
        """A tokenizer of the characters that occur."""
        batches = train.select_columns(self.inputs).iter(1000)
        texts = (text for batch in batches for column in self.inputs for text in batch[column])
        return character_tokenizer(texts, self.max_length, self.min_count)

    def sizes(self, processor: PreTrainedTokenizerFast) -> dict[str, Any]:
        """The vocabulary."""
        ids = {name: getattr(processor, name) for name in ("pad_token_id", "eos_token_id")}
        return {"vocab_size": len(processor)} | ids

    def batch(self, processor: PreTrainedTokenizerFast, rows: list[dict[str, Any]]) -> Batch:
        """``input_ids`` and ``attention_mask`` [B, L]."""
        return self._encode(processor, [row[self.text] for row in rows])

    def stand_in(self) -> DatasetDict:
        """Texts of one letter or another."""
        rows = [{self.text: "ab"[i % 2] * (3 + i), self.label: i % 2} for i in range(4)]
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "test")})

    def _encode(self, processor: PreTrainedTokenizerFast, texts: list[str]) -> Batch:
        return dict(processor(texts, padding=True, truncation=True, return_tensors="pt"))


@dataclass(frozen=True, kw_only=True)
class TextPairs(Texts):
    """Two texts, read character by character: ``text`` and ``other_text`` are their columns."""

    other_text: str = "other_text"

    @property
    def inputs(self) -> list[str]:
        """Both texts."""
        return [self.text, self.other_text]

    def batch(self, processor: PreTrainedTokenizerFast, rows: list[dict[str, Any]]) -> Batch:
        """``input_ids`` and ``attention_mask`` [B, 2, L]."""
        texts = [row[column] for row in rows for column in self.inputs]
        return {name: values.unflatten(0, (-1, 2)) for name, values in self._encode(processor, texts).items()}

    def stand_in(self) -> DatasetDict:
        """Two letters, the same or not."""
        rows = [{self.text: "a" * (3 + i), self.other_text: "ab"[i % 2] * 5, self.label: i % 2} for i in range(4)]
        return DatasetDict({split: Dataset.from_list(rows) for split in SPLITS})


@dataclass(frozen=True, kw_only=True)
class GreyImages(ClassifiedData):
    """Images of one size, read in grey, pixel by pixel.

    Args:
        image: the column of the images.
        mean: of the pixels, from 0 to 1, to be subtracted.
        std: what is divided by then.
    """

    image: str = "image"
    mean: float = 0.5
    std: float = 0.5

    needs = {"PIL": "Pillow"}

    @property
    def inputs(self) -> list[str]:
        """The image."""
        return [self.image]

    def processor(self, train: Dataset) -> Any:
        """A processor of images of any size."""
        processor: Any = pixel_processor()
        processor.image_mean, processor.image_std = self.mean, self.std
        return processor

    def sizes(self, processor: Any) -> dict[str, Any]:
        """One value for each pixel."""
        return {"input_size": 1}

    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """``pixel_values`` [B, 3, h, w], which a model of one channel reads in grey."""
        images = [row[self.image] for row in rows]
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            raise ValueError(f"Images must have one size, width and height, got {sizes}: resize them.")
        return dict(processor(images, return_tensors="pt"))

    def stand_in(self) -> DatasetDict:
        """Dark images and bright ones."""
        from PIL import Image

        rows = [{self.image: Image.new("RGB", (8, 8), (60 * i,) * 3), self.label: i // 2} for i in range(4)]
        features = datasets.Features({self.image: datasets.Image(), self.label: datasets.Value("int64")})
        return DatasetDict({split: Dataset.from_list(rows, features=features) for split in ("train", "test")})


@dataclass(frozen=True, kw_only=True)
class Recordings(ClassifiedData):
    """Recordings of one channel as WAV files, read sample by sample; each is brought to mean 0 and variance 1.

    Args:
        audio: the column of the recordings.
        sampling_rate: samples per second of all of them.
        max_samples: of a recording; what follows is cut off.
        every: only every so many of the samples are read.
        test_every: the test recordings are scored once more with this in the place of ``every``.
    """

    audio: str = "audio"
    sampling_rate: int
    max_samples: int
    every: int = 1
    test_every: int | None = None

    needs = {"scipy": "SciPy"}

    @property
    def inputs(self) -> list[str]:
        """The recording."""
        return [self.audio]

    def tests(self) -> dict[str, tuple[ClassifiedData, int]]:
        """As they are, and with fewer samples: for the model as it is, and with time steps that are longer for it."""
        if self.test_every is None:
            return super().tests()
        fewer, name = replace(self, every=self.test_every), f"test_every_{self.test_every}"
        return super().tests() | {name: (fewer, 1), f"{name}_longer_steps": (fewer, self.test_every // self.every)}

    def processor(self, train: Dataset) -> Any:
        """An extractor for this rate."""
        return sound_extractor(self.sampling_rate)

    def sizes(self, processor: Any) -> dict[str, Any]:
        """One value for each sample."""
        return {"input_size": 1}

    def batch(self, processor: Any, rows: list[dict[str, Any]]) -> Batch:
        """``input_values`` and ``attention_mask`` [B, L]."""
        recordings = [self._samples(row[self.audio])[: self.max_samples : self.every] for row in rows]
        return dict(processor(recordings, sampling_rate=self.sampling_rate, padding=True, return_tensors="pt"))

    def stand_in(self) -> DatasetDict:
        """Waves of two pitches."""
        from scipy.io import wavfile

        rows = []
        for i, name in enumerate(2 * list(self.classes or ("low", "high"))):
            file, wave = io.BytesIO(), np.sin(np.arange(40 + i % 3) * (0.2 + i % 2))
            wavfile.write(file, self.sampling_rate, (wave * 2**14).astype(np.int16))
            rows.append({self.audio: {"bytes": file.getvalue(), "path": None}, self.label: name})
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "test")})

    def _samples(self, file: Mapping[str, Any]) -> np.ndarray:
        """[L] float32 from -1 to 1."""
        from scipy.io import wavfile

        rate, samples = wavfile.read(file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"]))
        if rate != self.sampling_rate or samples.ndim != 1 or samples.dtype.kind not in "if":
            raise ValueError(
                f"Recordings must have one channel, sampling_rate={self.sampling_rate} and signed samples, but "
                f"{file['path'] or 'one'} has the shape {list(samples.shape)}, the rate {rate} and {samples.dtype}: "
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
    """The kind of data with these options.

    Raises:
        ValueError: for an unknown kind or option, or one that is missing.
        ModuleNotFoundError: if what reads such data is not installed.
    """
    if name not in KINDS:
        raise ValueError(f"data must be one of {list(KINDS)}, got {name!r}.")
    known = {field.name for field in fields(KINDS[name])}
    if not options.keys() <= known:
        unknown = sorted(options.keys() - known)
        raise ValueError(f"Data of the kind {name!r} have no option {unknown[0]!r}; known are {sorted(known)}.")
    missing = [library for module, library in KINDS[name].needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(f"{name} are read with {missing[0]}: pip install 'modeling-dlr[tasks]'")
    return KINDS[name](**options)


def character_tokenizer(texts: Iterable[str], max_length: int, min_count: int) -> PreTrainedTokenizerFast:
    """A token for each character that occurs ``min_count`` times, the frequent ones first, and an end for each text.

    Args:
        texts: of which only what is not cut off counts.
        max_length: of a text, its end counted.
        min_count: rarer characters are unknown.
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
