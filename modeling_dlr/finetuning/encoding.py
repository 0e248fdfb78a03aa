"""How rows become what a model reads: the tokenizer or processor, chosen with a reason, and where rows are cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from modeling_dlr.tokenization import byte_tokenizer, symbol_tokenizer, train_bpe_tokenizer

from .columns import DNA_LETTERS
from .labels import Labels, character_labels
from .options import TokenizerName, TrainOptions
from .rows import cells_of
from .signals import are_grey, image_features, image_processor_for, sound_extractor_for, sound_features
from .task import Task

IGNORED = -100
SPECIAL = ("<pad>", "<unk>")

# Rows by which the tokenizer and the length are chosen, and characters on which byte pairs are fitted.
_LOOKED_AT = 1000
_FITTED_ON = 3_000_000
# Fewer characters than this are too few for byte pairs.
_FEW_CHARACTERS = 50_000
_MOST_LETTERS = 40

# The longest rows that are read by default, in steps.
LONGEST = {"byte-pairs": 1024, "bytes": 2048, "letters": 4096}
WINDOW = 1024


@dataclass
class Encoder:
    """What turns rows into features.

    Attributes:
        task: what is predicted from which input, with the length at which rows are cut.
        processor: the tokenizer, feature extractor or image processor.
        reason: why it was chosen, for the reader.
        cut: share of the rows that are cut.
        labels: what the labels mean.
        channels: of images: 1 if all are grey.
    """

    task: Task
    processor: Any
    reason: str
    cut: float
    labels: Labels
    channels: int = 3

    def features(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The features of a row: one dictionary, or, for tokens, one for each window."""
        match self.task.input:
            case "image":
                yield {"pixel_values": image_features(self.processor, row["text"], self.channels).ravel()}
            case "sound":
                yield {"input_values": sound_features(self.processor, row["text"]).ravel()}
            case _ if self.task.task == "tokens":
                yield from self._windows(row)
            case _:
                names = ["text", "other"] if self.task.task == "pairs" else ["text"]
                ids = [self.processor(row[name], truncation=True, max_length=self.task.max_length) for name in names]
                found = [each.input_ids or [self.processor.unk_token_id] for each in ids]
                yield {"input_ids": found[0], **({"other_ids": found[1]} if len(found) > 1 else {})}

    def _windows(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The windows of a row, equally long, in which a token has the label of the character in which it begins."""
        encoded = self.processor(row["text"], return_offsets_mapping=True)
        labels = character_labels(row, self.labels)
        offsets = np.array(encoded.offset_mapping, dtype=np.int64).reshape(-1, 2)
        given = np.where(offsets[:, 1] > offsets[:, 0], labels[np.minimum(offsets[:, 0], len(labels) - 1)], IGNORED)
        windows = max(1, -(-len(given) // (self.task.max_length or len(given) or 1)))
        step = max(1, -(-len(given) // windows))
        for start in range(0, len(given), step):
            yield {
                "input_ids": encoded.input_ids[start : start + step],
                "labels": given[start : start + step].tolist(),
                "start": int(offsets[start, 0]),
            }


def choose_encoder(task: Task, labels: Labels, table: Dataset, places: np.ndarray, options: TrainOptions) -> Encoder:
    """Choose the tokenizer or processor and the length, by the training rows.

    Args:
        task: what is predicted.
        labels: what the labels mean.
        table: all rows.
        places: of the training rows.
        options: of training.

    Raises:
        ValueError: for files that cannot be read, and for a pretrained model of bytes that is to read signals.
        ImportError: without the library that reads them, with the command that installs it.
    """
    if options.pretrained is not None and task.input in ("image", "sound"):
        raise ValueError(f"--pretrained is a model of bytes, but the input is {task.input}: leave it out.")
    step = max(1, len(places) // _LOOKED_AT)
    sample = table.select(places[::step])
    if task.input == "image":
        paths = list(cells_of(sample, "text"))
        processor, reason = image_processor_for(paths)
        return Encoder(task, processor, reason, 0.0, labels, 1 if are_grey(paths) else 3)
    if task.input == "sound":
        processor, reason, cut = sound_extractor_for(list(cells_of(sample, "text")), options.max_length)
        return Encoder(task, processor, reason, cut, labels)
    names = ["text", "other"] if task.task == "pairs" else ["text"]
    texts = [text for name in names for text in cells_of(sample, name)]
    wanted = options.tokenizer or (None if options.vocab_size is None else "byte-pairs")
    wanted = "bytes" if options.pretrained is not None else wanted
    kind, reason = choose_tokenizer(task, texts, sum(map(len, texts)) * step, wanted)
    processor = build_tokenizer(kind, _some_texts(table, places, names), texts, options.vocab_size)
    lengths = np.array([len(processor(text).input_ids) for text in texts])
    longest = options.max_length or (WINDOW if task.task == "tokens" else LONGEST[kind])
    task.max_length = int(min(longest, max(1, lengths.max())))
    processor.model_max_length = task.max_length if task.task != "tokens" else 10**9
    cut = 0.0 if task.task == "tokens" else float((lengths > task.max_length).mean())
    return Encoder(task, processor, reason, cut, labels)


def choose_tokenizer(
    task: Task, texts: Sequence[str], characters: int, wanted: TokenizerName | None
) -> tuple[TokenizerName, str]:
    """The kind of tokenizer, and why."""
    if wanted is not None:
        return wanted, "as you chose"
    letters = set("".join(texts))
    upper = all(letter.isupper() for letter in letters) and len(letters) <= _MOST_LETTERS
    if task.input == "dna" or (upper and not any(letter.isspace() for letter in letters)):
        return "letters", f"the texts are made of {len(letters)} letters"
    if task.task == "tokens":
        return "bytes", "every character has a label of its own"
    if characters < _FEW_CHARACTERS:
        return "bytes", f"{characters:,} characters are too few to fit byte pairs"
    return "byte-pairs", "fitted to the training texts"


def build_tokenizer(kind: TokenizerName, texts: Iterator[str], sample: Sequence[str], vocab_size: int | None) -> Any:
    """A tokenizer of this kind."""
    if kind == "bytes":
        return byte_tokenizer(add_prefix_space=False, split_special_tokens=True)
    if kind == "letters":
        letters = {letter.upper() for text in sample for letter in text if not letter.isspace()}
        letters |= set("ACGTN") if letters <= DNA_LETTERS else set()
        return symbol_tokenizer([*SPECIAL, *sorted(letters)], separated=False, case="upper")
    characters = sum(map(len, sample))
    size = vocab_size or int(np.clip(characters / 50, 512, 8192))
    return train_bpe_tokenizer(texts, size, show_progress=False)


def _some_texts(table: Dataset, places: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    characters = 0
    for start in range(0, len(places), _LOOKED_AT):
        some = table.select(places[start : start + _LOOKED_AT])
        for texts in zip(*(cells_of(some, name) for name in names), strict=True):
            characters += sum(map(len, texts))
            yield from texts
            if characters > _FITTED_ON:
                return
