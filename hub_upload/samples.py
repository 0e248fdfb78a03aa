"""What each Auto class is given when a folder is tried out: tensors for the model, examples for its pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer

from modeling_dlr import DLRConfig
from modeling_dlr.auto_dlr import AUTO_CLASSES

_LENGTH, _SHORT = 63, 7
_TEXTS = ["a", "Grüße, 世界", "Every word of this is read, one byte or one piece at a time. " * 3]


class Task(NamedTuple):
    """A pipeline: its name at the Hub and for `pipeline`, what it is tried with and how, and an example to show."""

    name: str
    examples: Callable[[Path], list[Any]]
    options: dict[str, Any]
    shown: str


class Sample(NamedTuple):
    """One Auto class: which output to compare, a maker of inputs (None where it does not fit), and its pipeline."""

    output: str
    inputs: Callable[[DLRConfig], dict[str, Tensor] | None]
    task: Task


def _texts(_folder: Path) -> list[Any]:
    return list(_TEXTS)


def _sequences(config: DLRConfig) -> dict[str, Tensor]:
    """Two sequences of tokens or values, the second padded, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(_LENGTH) < torch.tensor([[_LENGTH], [_SHORT]])).long()
    if config.vocab_size is not None:
        ids = torch.randint(config.vocab_size, (2, _LENGTH), generator=generator)
        return {"input_ids": ids, "attention_mask": mask}
    values = torch.randn(2, _LENGTH, config.input_size or 1, generator=generator)
    return {"input_values": values, "attention_mask": mask}


# One row per Auto class of the family.
SAMPLES: dict[str, Sample] = {
    "AutoModel": Sample(
        "last_hidden_state", _sequences, Task("feature-extraction", _texts, {}, "It was a long and winding sentence.")
    ),
    "AutoModelForSequenceClassification": Sample(
        "logits",
        _sequences,
        Task("text-classification", _texts, {"top_k": None}, "The match was decided in the last minute."),
    ),
    "AutoModelForTokenClassification": Sample(
        "logits", _sequences, Task("token-classification", _texts, {}, "for i in range(3):  # count")
    ),
}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is written; empty if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def auto_class_of(folder: Path) -> str:
    """The Auto class of the head that was saved; "AutoModel" if it is none of ours."""
    saved = (read_config(folder).get("architectures") or ["DLRModel"])[0]
    return next((name for name, model in AUTO_CLASSES.items() if model.__name__ == saved), "AutoModel")


def task_of(folder: Path) -> Task | None:
    """The pipeline of the head that was saved; None where it reads values that no pipeline makes."""
    return SAMPLES[auto_class_of(folder)].task if read_config(folder).get("vocab_size") is not None else None


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, without any code of its own."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
