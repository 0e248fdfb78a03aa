"""The options of training, declared once: for `train` in Python and for `modeling-dlr train`."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .pretrained import pretrained_folder

TokenizerName = Literal["byte-pairs", "bytes", "letters"]
TaskChoice = Literal["classes", "several-labels", "number", "pairs", "tokens"]
Pooling = Literal["mean", "max", "mean_max", "first", "last"]
InputChoice = Literal["text", "dna", "image", "sound"]


def option(default: Any, meaning: str) -> Any:
    """A field with its meaning, which the command line shows."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of training; None leaves a choice to the data. What each means stands in ``--help``."""

    output: Path | None = option(None, "folder of the model; by default outputs/NAME of the data")
    text: str | None = option(None, "column of the text, the file or the sequence; several after commas")
    label: str | None = option(None, "column of the labels; several columns of 0 and 1 after commas")
    task: TaskChoice | None = option(None, "what is to be predicted; read from the labels")
    input: InputChoice | None = option(None, "what the text column holds; read from it")
    group: str | None = option(None, "column of groups, of which each stays in one split")
    validation: float = option(0.1, "share of the rows for validation, where the data have no such split")
    test: float = option(0.1, "share of the rows for the test, likewise")
    encoding: str = option("utf-8", "encoding of text files; several after commas are tried in turn")
    budget: str | None = option(None, "time for everything, such as 90s, 5m or 1h; by default as long as it takes")
    epochs: float | None = option(None, "most passes over the training rows")
    patience: int = option(8, "validations without a better score after which training ends")
    evaluations: int = option(16, "validations in a run")
    seed: int = option(0, "random seed of the splits, the model and the order of the rows")
    pretrained: Path | None = option(
        None, "model of bytes whose weights texts start from: a folder, or an installed dlr-small-bytes-bidirectional"
    )
    from_scratch: bool = option(False, "start from random weights, also where a pretrained model is installed")
    tokenizer: TokenizerName | None = option(None, "how texts are cut")
    vocab_size: int | None = option(None, "size of the vocabulary of byte pairs")
    max_length: int | None = option(None, "steps after which a row is cut; for tokens, the length of a window")
    learning_rate: float | None = option(None, "largest learning rate")
    state_learning_rate: float | None = option(None, "largest learning rate of the kernels")
    warmup: float = option(0.1, "share of the training in which the learning rates rise")
    weight_decay: float = option(0.05, "weight decay of projections and embeddings")
    label_smoothing: float | None = option(None, "label smoothing of classes")
    class_weights: bool | None = option(None, "weigh rare classes more; by default where classes are unequal")
    batch_size: int | None = option(None, "rows per step")
    layers: int | None = option(None, "layers of the model")
    hidden_size: int | None = option(None, "width of the model")
    state_size: int | None = option(None, "poles per kernel")
    dropout: float | None = option(None, "dropout")
    pooling: Pooling | None = option(None, "how the steps of a row become one vector")
    pictures: bool = option(True, "draw the confusion matrix and the learning curve, if matplotlib is installed")

    def __post_init__(self):
        for rule, (names, holds) in _RULES.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise ValueError(f"--{name.replace('_', '-')} must {rule}, got {value}.")
        if self.budget is not None:
            seconds_of(self.budget)
        if self.vocab_size is not None and self.tokenizer not in (None, "byte-pairs"):
            raise ValueError(f"--vocab-size is of byte pairs: leave it out with --tokenizer {self.tokenizer}.")
        if self.pretrained is not None:
            self._check_pretrained(self.pretrained)

    def _check_pretrained(self, folder: Path) -> None:
        """Refuse what is no model, and options that the pretrained model decides."""
        pretrained_folder(folder)
        if self.from_scratch:
            raise ValueError("--pretrained and --from-scratch contradict each other: leave one out.")
        for name in SIZES:
            if getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is that of the --pretrained model: leave it out.")
        if self.tokenizer not in (None, "bytes"):
            raise ValueError(f"The --pretrained model reads bytes: leave out --tokenizer {self.tokenizer}.")


# What a pretrained model decides.
SIZES = ("vocab_size", "layers", "hidden_size", "state_size")
# What numbers must be.
_COUNTS = ("max_length", "batch_size", "layers", "hidden_size", "state_size", "patience", "evaluations")
_RULES: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "lie between 0 and 0.5": (("validation", "test"), lambda value: 0 < value < 0.5),
    "be at least 1": (_COUNTS, lambda value: value >= 1),
    "be at least 261, the bytes and special tokens": (("vocab_size",), lambda value: value >= 261),
    "be above 0": (("epochs", "learning_rate", "state_learning_rate"), lambda value: 0 < value < math.inf),
    "be at least 0": (("weight_decay",), lambda value: 0 <= value < math.inf),
    "be at least 0 and below 1": (("warmup", "label_smoothing", "dropout"), lambda value: 0 <= value < 1),
    "lie in 0 … 4294967295": (("seed",), lambda value: 0 <= value < 2**32),
}


def seconds_of(budget: str) -> float:
    """The seconds of a time such as "90s", "5m" or "1h"; a plain number is one of seconds.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", budget.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"--budget must be a time such as 90s, 5m or 1h, got {budget!r}.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
