"""Test inputs for each Auto class: tensors for the model, and examples for its pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer

from .errors import InputError, reason_of
from .families import auto_class_of, family_of
from .model_folder import read_config

_LENGTH, _SHORT = 63, 7
_HEIGHT, _WIDTH = 5, 7
_TEXTS = ["a", "Grüße, 世界", "Every word of this is read, one byte or one piece at a time. " * 3]

_ASK = 'outputs = model(**tokenizer({example}, return_tensors="pt"))'
_ASK_ABOUT = """question, context = {example}
outputs = model(**tokenizer(question, context, return_tensors="pt"))"""
_ASK_TOGETHER = """inputs = tokenizer({example}, padding=True, return_tensors="pt")
outputs = model(**{{name: value.unsqueeze(0) for name, value in inputs.items()}})"""


class Task(NamedTuple):
    """The task of a head.

    Attributes:
        name: name of the task on the Hub.
        kind: kind of input.
        shown: an example for the card: a text with {mask} for the mask token, or Python code.
        code: code in the card that calls the model on the example.
        runs: whether transformers has a pipeline of this name.
        options: options of that pipeline in the test.
    """

    name: str
    kind: Literal["text", "audio", "image"]
    shown: str | list[str]
    code: str = _ASK
    runs: bool = True
    options: dict[str, Any] = {}

    def examples(self, folder: Path) -> list[Any]:
        """Test inputs of the pipeline as JSON: texts, samples, or pixels [height, width, channels]."""
        generator = torch.Generator().manual_seed(1)
        if self.kind == "audio":
            return [(0.1 * torch.randn(size, generator=generator)).tolist() for size in (400, 161)]
        if self.kind == "image":
            return [torch.randint(256, (_HEIGHT, _WIDTH, 3), generator=generator).tolist()]
        return [with_mask(f"{text}{{mask}}" if "{mask}" in self.shown else text, folder) for text in _TEXTS]


class Sample(NamedTuple):
    """An Auto class: the output to compare, a function that makes inputs (None if it does not fit), and the task."""

    output: str
    inputs: Callable[[Any], dict[str, Tensor] | None]
    task: Task


def with_mask(text: str, folder: Path) -> str:
    """Insert the tokenizer's mask token into a text with {mask}.

    Raises:
        InputError: if there is no tokenizer, or it has no mask token.
    """
    if "{mask}" not in text:
        return text
    try:
        mask = load_tokenizer(folder).mask_token
    except Exception as error:
        raise InputError(
            f"No tokenizer loads from {folder} ({reason_of(error)}): save one beside the model."
        ) from error
    if mask is None:
        raise InputError(f"The tokenizer in {folder} has no mask_token, which a masked language model needs.")
    return text.replace("{mask}", mask)


def _sequences(config: Any, *together: int) -> dict[str, Tensor]:
    """Make two sequences of tokens or values, the second padded; with ``together``, that many in each example."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, *together, _LENGTH)
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, ..., _SHORT:] = 0
    if config.vocab_size is not None:
        return {"input_ids": torch.randint(config.vocab_size, shape, generator=generator), "attention_mask": mask}
    return {"input_values": torch.randn(*shape, config.input_size or 1, generator=generator), "attention_mask": mask}


def _tokens(config: Any) -> dict[str, Tensor] | None:
    return None if config.vocab_size is None else _sequences(config)


def _causal_tokens(config: Any) -> dict[str, Tensor] | None:
    return None if getattr(config, "bidirectional", False) else _tokens(config)


def _sound(config: Any) -> dict[str, Tensor] | None:
    if config.input_size != 1:
        return None
    return {name: value.view(2, _LENGTH) for name, value in _sequences(config).items()}


def _pixels(config: Any) -> dict[str, Tensor] | None:
    if config.input_size is None:
        return None
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, config.input_size, _HEIGHT, _WIDTH, generator=generator)}


_SENTENCE = "The match was decided in the last minute."
_QUESTION = ["When was the match decided?", _SENTENCE]
_DOCUMENTS = ["The first document.", "The second document, which is longer."]
_SECOND = 'numpy.zeros(16000, dtype="float32")'
_LISTEN = "outputs = model(input_values=torch.zeros(1, 16000))"
_LOOK = "outputs = model(pixel_values=torch.zeros(1, {input_size}, 32, 32))"

# One row per Auto class of the family.
SAMPLES: dict[str, Sample] = {
    "AutoModel": Sample("last_hidden_state", _sequences, Task("feature-extraction", "text", _SENTENCE)),
    "AutoModelForAudioClassification": Sample(
        "logits", _sound, Task("audio-classification", "audio", _SECOND, _LISTEN, options={"top_k": None})
    ),
    "AutoModelForAudioFrameClassification": Sample(
        "logits", _sound, Task("voice-activity-detection", "audio", _SECOND, _LISTEN, runs=False)
    ),
    "AutoModelForCausalLM": Sample(
        "logits",
        _causal_tokens,
        Task("text-generation", "text", "def ", options={"max_new_tokens": 5, "do_sample": False}),
    ),
    "AutoModelForImageClassification": Sample(
        "logits", _pixels, Task("image-classification", "image", '"picture.png"', _LOOK, options={"top_k": None})
    ),
    "AutoModelForMaskedLM": Sample("logits", _tokens, Task("fill-mask", "text", "def __{mask}nit__(self):")),
    "AutoModelForMultipleChoice": Sample(
        "logits",
        lambda config: _sequences(config, 3),
        Task("multiple-choice", "text", _DOCUMENTS, _ASK_TOGETHER, runs=False),
    ),
    "AutoModelForNextSentencePrediction": Sample(
        "logits",
        lambda config: _sequences(config, 2),
        Task("text-classification", "text", _DOCUMENTS, _ASK_TOGETHER, runs=False),
    ),
    "AutoModelForQuestionAnswering": Sample(
        "start_logits", _sequences, Task("question-answering", "text", _QUESTION, _ASK_ABOUT, runs=False)
    ),
    "AutoModelForSemanticSegmentation": Sample(
        "logits", _pixels, Task("image-segmentation", "image", '"picture.png"', _LOOK)
    ),
    "AutoModelForSequenceClassification": Sample(
        "logits", _sequences, Task("text-classification", "text", _SENTENCE, options={"top_k": None})
    ),
    "AutoModelForTokenClassification": Sample(
        "logits", _sequences, Task("token-classification", "text", "for i in range(3):  # count")
    ),
}


def inputs_of(folder: Path, config: Any) -> dict[str, dict[str, Tensor]]:
    """Inputs for each Auto class of the family that the model can serve."""
    served = ((name, SAMPLES[name].inputs(config)) for name in SAMPLES if name in family_of(folder).auto_classes)
    return {name: inputs for name, inputs in served if inputs is not None}


def task_of(folder: Path) -> Task | None:
    """The task of the saved head; None if it reads values that no tokenizer or processor makes."""
    task = SAMPLES[auto_class_of(folder)].task
    return None if task.kind == "text" and read_config(folder).get("vocab_size") is None else task


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder, without running code of the folder."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
