"""The model for a task, and the rates at which it learns."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modeling_dlr import (
    DLRConfig,
    DLRForAudioClassification,
    DLRForImageClassification,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
)

from .encoding import Encoder
from .options import SIZES, TrainOptions
from .pretrained import installed_model, pretrained_folder
from .signals import MEL_BINS
from .task import Task


@dataclass
class Recipe:
    """Sizes and rates; an option that is given takes the place of each."""

    layers: int
    hidden_size: int
    state_size: int
    dropout: float
    learning_rate: float
    state_learning_rate: float
    batch_size: int
    epochs: float
    label_smoothing: float = 0.0
    pooling: str = "mean_max"


# As many as there are bytes, and some.
FEW_TOKENS = 300
# Characters with labels for which the pretrained model was better than a fresh one, and some (docs/real.md).
FEW_CHARACTERS = 250_000

# By what is read; for texts, by how they are cut. "tokens" is for a label of every character.
RECIPES = {
    "byte-pairs": Recipe(1, 128, 64, 0.3, 2e-3, 1e-3, 16, 8, 0.1),
    "bytes": Recipe(3, 64, 64, 0.1, 2e-3, 1e-3, 16, 30, 0.1),
    "letters": Recipe(3, 64, 64, 0.1, 2e-3, 1e-3, 16, 30, 0.1),
    "tokens": Recipe(3, 64, 64, 0.1, 2e-3, 1e-3, 8, 30),
    "image": Recipe(3, 96, 64, 0.1, 4e-3, 1e-3, 32, 30, 0.1),
    "sound": Recipe(2, 96, 64, 0.2, 4e-3, 1e-3, 32, 40, 0.1),
}
# Of a pretrained model, which gives the sizes.
PRETRAINED: dict[str, Any] = {
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "state_learning_rate": 5e-4,
    "batch_size": 16,
    "epochs": 10,
    "label_smoothing": 0.1,
}


def recipe_for(encoder: Encoder, options: TrainOptions) -> Recipe:
    """The recipe for what is read, or for the pretrained model, with what the options give."""
    task = encoder.task
    if options.pretrained is not None:
        config: Any = DLRConfig.from_pretrained(pretrained_folder(options.pretrained))
        recipe = Recipe(config.num_hidden_layers, config.hidden_size, config.state_size, **PRETRAINED)
    else:
        recipe = Recipe(**vars(RECIPES[_kind_of(encoder)]))
    if task.task == "several labels":
        recipe.pooling = "max"  # finds what occurs anywhere
    for field in vars(recipe):
        given = getattr(options, field)
        if given is not None:
            setattr(recipe, field, given)
    return recipe


def with_installed_model(options: TrainOptions, encoder: Encoder) -> TrainOptions:
    """The options, and the installed model of bytes for few texts in which every character has a label.

    There it is better after the same time (docs/real.md). With many labels a small model is, which sees more of them,
    and for classes of whole texts one of byte pairs. Nothing changes with an option that says otherwise: a model, a
    size or random weights.
    """
    folder, said = installed_model(), options.pretrained or options.from_scratch
    if folder is None or said or any(getattr(options, size) for size in SIZES):
        return options
    if encoder.task.task != "tokens" or sum(encoder.labels.counts) > FEW_CHARACTERS:
        return options
    reads_bytes = DLRConfig.from_pretrained(folder).vocab_size == len(encoder.processor)
    return replace(options, pretrained=folder) if reads_bytes else options


def _kind_of(encoder: Encoder) -> str:
    task = encoder.task
    if task.input in ("image", "sound"):
        return task.input
    if task.task == "tokens":
        return "tokens"
    vocabulary = len(encoder.processor)
    return "letters" if vocabulary < 200 else "bytes" if vocabulary < FEW_TOKENS else "byte-pairs"


def input_shape(encoder: Encoder) -> tuple[int, ...]:
    """The shape of an image or of a recording as features; () for texts."""
    if encoder.task.input == "image":
        size = encoder.processor.size
        return encoder.channels, size["height"], size["width"]
    return (encoder.processor.max_length, MEL_BINS) if encoder.task.input == "sound" else ()


def build_model(encoder: Encoder, recipe: Recipe, pretrained: Path | None = None) -> PreTrainedModel:
    """A model for the task, fresh or with the layers of a pretrained one, with the names of its labels filled in.

    Raises:
        ValueError: for a pretrained model that does not read bytes.
    """
    task, processor = encoder.task, encoder.processor
    of_task: dict[str, Any] = {
        "hidden_dropout_prob": recipe.dropout,
        "pooling": recipe.pooling,
        "id2label": dict(enumerate(["value"] if task.is_number else task.labels)),
        "problem_type": problem_type_of(task),
    }
    if pretrained is not None:
        folder = pretrained_folder(pretrained)
        config = DLRConfig.from_pretrained(folder)
        if config.vocab_size != len(processor):
            raise ValueError(
                f"--pretrained must be a model of bytes, with {len(processor)} tokens, got {config.vocab_size}."
            )
        return head_of(task).from_pretrained(folder, dtype=torch.float32, **of_task)
    if task.input in ("image", "sound"):
        reads: dict[str, Any] = {"input_size": encoder.channels if task.input == "image" else MEL_BINS}
    else:
        ids = {name: getattr(processor, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        reads = {"vocab_size": len(processor)} | ids
    fields: dict[str, Any] = (
        reads
        | of_task
        | {
            "hidden_size": recipe.hidden_size,
            "num_hidden_layers": recipe.layers,
            "state_size": recipe.state_size,
            "bidirectional": True,
            "output_gate": "glu",
            # Embeddings of few tokens are seen often: they start as in the official code.
            "initializer_range": 0.02 if len(getattr(processor, "vocab", ())) > FEW_TOKENS else None,
        }
    )
    return head_of(task)(DLRConfig(**fields))


def head_of(task: Task) -> Any:
    """The class of the model for a task."""
    if task.input == "image":
        return DLRForImageClassification
    if task.input == "sound":
        return DLRForAudioClassification
    heads = {"tokens": DLRForTokenClassification, "pairs": DLRForSequencePairClassification}
    return heads.get(task.task, DLRForSequenceClassification)


def problem_type_of(task: Task) -> Any:
    """The problem type of transformers."""
    if task.is_number:
        return "regression"
    return "multi_label_classification" if task.task == "several labels" else "single_label_classification"
