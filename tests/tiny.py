"""Tiny models, batches of odd sizes, and the tables of heads and inputs that several test files use."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.heads_dlr import DLRHead

TINY = {"hidden_size": 3, "num_hidden_layers": 2, "state_size": 5, "num_labels": 4}
VOCABULARY = {"vocab_size": 11, "pad_token_id": 0}

# One row per head with a loss.
HEADS: dict[str, type[DLRHead]] = {
    "sequence head": DLRForSequenceClassification,
    "token head": DLRForTokenClassification,
}


class Example(NamedTuple):
    """What a model under an Auto class reads: fields it needs, inputs and labels for a batch of a length."""

    fields: dict[str, Any]
    inputs: Callable[[DLRConfig, int, int], dict[str, Tensor]]
    labels: Callable[[DLRConfig, int, int], dict[str, Tensor]]

    def arguments(self, config: DLRConfig, batch: int = 2, length: int = 7) -> dict[str, Tensor]:
        """Inputs and labels."""
        return self.inputs(config, batch, length) | self.labels(config, batch, length)


def tokens(config: DLRConfig, *shape: int) -> dict[str, Tensor]:
    """Random tokens of any shape, without the padding token."""
    return {"input_ids": torch.randint(1, config.vocab_size, shape)}


def classes(config: DLRConfig, *shape: int) -> dict[str, Tensor]:
    """Random classes of any shape."""
    return {"labels": torch.randint(config.num_labels, shape)}


BIDIRECTIONAL = VOCABULARY | {"bidirectional": True}
SOUND, IMAGE = {"input_size": 1}, {"input_size": 3, "bidirectional": True}

# One row per Auto class; images are `length` pixels wide and two high.
EXAMPLES: dict[str, Example] = {
    "AutoModel": Example(VOCABULARY, tokens, lambda *_: {}),
    "AutoModelForAudioClassification": Example(
        SOUND, lambda _, b, n: {"input_values": torch.randn(b, n)}, lambda c, b, _: classes(c, b)
    ),
    "AutoModelForAudioFrameClassification": Example(
        SOUND, lambda _, b, n: {"input_values": torch.randn(b, n)}, classes
    ),
    "AutoModelForCausalLM": Example(VOCABULARY, tokens, lambda c, b, n: {"labels": tokens(c, b, n)["input_ids"]}),
    "AutoModelForImageClassification": Example(
        IMAGE, lambda _, b, n: {"pixel_values": torch.randn(b, 3, 2, n)}, lambda c, b, _: classes(c, b)
    ),
    "AutoModelForMaskedLM": Example(BIDIRECTIONAL, tokens, lambda c, b, n: {"labels": tokens(c, b, n)["input_ids"]}),
    "AutoModelForMultipleChoice": Example(
        BIDIRECTIONAL,
        lambda c, b, n: tokens(c, b, 3, n),
        lambda _, b, __: {"labels": torch.randint(3, (b,))},
    ),
    "AutoModelForNextSentencePrediction": Example(
        BIDIRECTIONAL, lambda c, b, n: tokens(c, b, 2, n), lambda c, b, _: classes(c, b)
    ),
    "AutoModelForQuestionAnswering": Example(
        BIDIRECTIONAL,
        tokens,
        lambda _, b, n: {name: torch.randint(n, (b,)) for name in ("start_positions", "end_positions")},
    ),
    "AutoModelForSemanticSegmentation": Example(
        IMAGE, lambda _, b, n: {"pixel_values": torch.randn(b, 3, 2, n)}, lambda c, b, n: classes(c, b, 2, n)
    ),
    "AutoModelForSequenceClassification": Example(BIDIRECTIONAL, tokens, lambda c, b, _: classes(c, b)),
    "AutoModelForTokenClassification": Example(BIDIRECTIONAL, tokens, classes),
}

# One row per kind of input: the name of the argument, and the fields of the configuration that it needs.
INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": ("input_ids", VOCABULARY),
    "embeddings": ("inputs_embeds", VOCABULARY),
    "one value per step": ("input_values", {"input_size": 1}),
    "three values per step": ("input_values", {"input_size": 3}),
}

# One row per kernel that needs something of its own from the model around it.
KERNELS: dict[str, dict[str, Any]] = {
    "DLR with real weights": {"version": "imag_real_weight", "read_out": "sum"},
    "DSS": {"kernel_type": "dss", "separate_time_steps": True},
    "DSS clipped, a product": {"kernel_type": "dss", "version": "clip", "pole_init": "randn", "read_out": "prod"},
    "S4D": {"kernel_type": "s4d", "discretization": "bilinear"},
    "SGConv": {"kernel_type": "sgconv"},
}


def tiny_config(**changes: Any) -> DLRConfig:
    """Two layers, three channels and five poles; eleven tokens unless ``changes`` say otherwise."""
    vocabulary = {} if "input_size" in changes else VOCABULARY
    return DLRConfig(**TINY | vocabulary | changes)


def draw_input(kind: str, config: DLRConfig, batch: int, length: int) -> dict[str, Tensor]:
    """A random input of one of the kinds of ``INPUTS``."""
    name, _ = INPUTS[kind]
    if name == "input_ids":
        return {name: torch.randint(1, config.vocab_size, (batch, length))}
    width = config.hidden_size if name == "inputs_embeds" else config.input_size
    return {name: torch.randn(batch, length, width)}


def draw_labels(head: str, config: DLRConfig, batch: int, length: int) -> Tensor:
    """Random classes of the shape that a head of ``HEADS`` expects."""
    shape = (batch, length) if head == "token head" else (batch,)
    return torch.randint(config.num_labels, shape)


AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)


def perturbed(model: AnyModule, amount: float = 0.3) -> AnyModule:
    """The model with everything moved off its initial value, zeros, statistics and the padding embedding included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn_like(parameter) / (1 + parameter.numel() ** 0.5 / 10))
        for buffer in model.buffers():
            if buffer.is_floating_point():  # variances and norms stay positive
                buffer.add_(amount * torch.rand_like(buffer))
    return model


def parameters_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter by name: none may be missing."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    return gradients


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """Same names and types, and the same values: to the bit unless there is a ``tolerance``."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
