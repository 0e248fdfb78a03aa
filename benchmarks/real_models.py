"""The models that `real_data.py` compares: DLR, attention, LSTM and a windowed CNN of equal sizes, and simpler ones."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from real_sets import RealSet
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.training import parameter_groups

# Widths are multiples of this.
STEP = 8
# Steps that one layer of the CNN reads, and characters on both sides of one that the linear model of steps reads.
WINDOW, AROUND, DILATIONS = 9, 5, (1, 2, 4)
MOST_STEPS = 100_000
LAYERS = 3


class Framed(nn.Module):
    """Symbols or numbers into features, layers of another kind, and their maximum and mean, or each step, into classes.

    Args:
        data: gives the inputs and the classes.
        width: of the features.
        layers: of features [B, L, width], mask [B, L, 1] to features.
    """

    def __init__(self, data: RealSet, width: int, layers: nn.Module):
        super().__init__()
        symbols, self.per_step = data.symbols, data.per_step
        self.embed = nn.Linear(1, width) if symbols is None else nn.Embedding(symbols + 1, width, padding_idx=0)
        self.layers = layers
        self.classify = nn.Linear(width if self.per_step else 2 * width, len(data.classes))

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Inputs and mask [B, L] to logits [B, classes] or [B, L, classes]."""
        real = mask.unsqueeze(-1)
        features = self.embed(inputs.unsqueeze(-1) if inputs.is_floating_point() else inputs) * real
        features = self.layers(features, real)
        if self.per_step:
            return self.classify(features)
        mean = (features * real).sum(1) / real.sum(1)
        largest = features.masked_fill(~real.bool(), -torch.inf).amax(1)
        return self.classify(torch.cat([mean, largest], dim=-1))


class Convolutions(nn.Module):
    """Three layers that read nine steps each, every one, every second and every fourth; of the past only if causal."""

    def __init__(self, width: int, *, causal: bool):
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(nn.Conv1d(width, width, WINDOW, dilation=dilation) for dilation in DILATIONS)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in DILATIONS)

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """[B, L, width] and [B, L, 1] to [B, L, width]."""
        for layer, norm, dilation in zip(self.layers, self.norms, DILATIONS, strict=True):
            reach = dilation * (WINDOW - 1)
            padding = (reach, 0) if self.causal else (reach // 2, reach - reach // 2)
            found = layer(functional.pad(norm(features).transpose(1, 2), padding)).transpose(1, 2)
            features = (features + functional.gelu(found)) * real
        return features


class Recurrence(nn.Module):
    """Two layers of an LSTM, in both directions unless causal; padding is at the end and read last.

    Packed sequences would do the same, but the time of their backward pass grows with the square of the length.
    """

    def __init__(self, width: int, *, causal: bool):
        super().__init__()
        directions = 1 if causal else 2
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.LSTM(width, width // directions, batch_first=True) for _ in range(directions))
            for _ in range(2)
        )

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """[B, L, width] and [B, L, 1] to [B, L, width]."""
        places = torch.arange(features.shape[1], device=features.device)
        # The real steps from the last to the first; padding stays where it is.
        backwards = torch.where(real.squeeze(-1).bool(), real.sum(1).long() - 1 - places, places).unsqueeze(-1)
        layers: Any = self.layers
        for forward, *others in layers:
            found = [forward(features)[0]]
            for backward in others:
                reversed_ = features.gather(1, backwards.expand_as(features))
                y, _ = backward(reversed_)
                found.append(y.gather(1, backwards.expand_as(y)))
            features = torch.cat(found, dim=-1)
        return features


class Ours(nn.Module):
    """A model of this library, with layers of one type."""

    def __init__(self, data: RealSet, width: int, kind: str):
        super().__init__()
        fields: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": LAYERS,
            "state_size": 64,
            "layer_types": [kind] * LAYERS,
            "attention_ff_ratio": 0 if kind == "dlr" else 2,
            "bidirectional": not data.causal,
            "output_gate": "glu",
            "hidden_dropout_prob": 0.1,
            "num_labels": len(data.classes),
            "problem_type": "single_label_classification",
        }
        fields |= {"input_size": 1} if data.symbols is None else {"vocab_size": data.symbols + 1}
        fields |= {} if data.per_step else {"pooling": "mean_max"}
        head = DLRForTokenClassification if data.per_step else DLRForSequenceClassification
        self.model = head(DLRConfig(**fields))

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Inputs and mask [B, L] to logits [B, classes] or [B, L, classes]."""
        name = "input_values" if inputs.is_floating_point() else "input_ids"
        return self.model(**{name: inputs}, attention_mask=mask.long(), use_cache=False).logits


# By name: what builds a model of a width, and its learning rate.
MODELS: dict[str, tuple[Callable[[RealSet, int], nn.Module], float]] = {
    "DLR": (lambda data, width: Ours(data, width, "dlr"), 2e-3),
    "attention": (lambda data, width: Ours(data, width, "full_attention"), 1e-3),
    "LSTM": (lambda data, width: Framed(data, width, Recurrence(width, causal=data.causal)), 3e-3),
    "CNN": (lambda data, width: Framed(data, width, Convolutions(width, causal=data.causal)), 2e-3),
}
STATE_RATE = 1e-3


def build(name: str, data: RealSet, parameters: int) -> nn.Module:
    """The model whose number of parameters is nearest to a given one."""
    make = MODELS[name][0]

    def distance(width: int) -> int:
        with torch.device("meta"):
            return abs(sum(each.numel() for each in make(data, width).parameters()) - parameters)

    return make(data, min(range(2 * STEP, 257, STEP), key=distance))


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with the rates of the model."""
    return torch.optim.AdamW(parameter_groups(model, MODELS[name][1], 0.05, STATE_RATE), lr=MODELS[name][1])


def majority(data: RealSet) -> np.ndarray:
    """Whether the most frequent class of the training rows is right, for each test row: its share of the steps."""
    labels = [np.atleast_1d(data.labels[place]) for place in data.places("train")]
    most = np.bincount(np.concatenate(labels)).argmax()
    return np.array([(np.atleast_1d(data.labels[place]) == most).mean() for place in data.places("test")])


def linear(data: RealSet) -> np.ndarray:
    """The same of logistic regression: of words, of numbers, of bases in their places, or of what is around a step."""
    train, test = (data.places(split) for split in ("train", "test"))
    if data.per_step:
        return _linear_of_steps(data, train, test)
    if data.symbols == 256:
        texts = [row.tobytes().decode("latin-1") for row in data.inputs]
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, max_features=200_000)
        features: Any = vectorizer.fit([texts[place] for place in train]).transform(texts)
    elif data.symbols is not None:
        features = np.stack([np.eye(data.symbols)[row].ravel() for row in data.inputs])
    else:
        features = np.stack([_spectrum(row) if len(data.inputs[0]) > 1000 else row for row in data.inputs])
    labels = np.array(data.labels)
    model = LogisticRegression(C=10 if data.symbols == 256 else 1, max_iter=300).fit(features[train], labels[train])
    return (model.predict(features[test]) == labels[test]).astype(float)


def _spectrum(row: np.ndarray) -> np.ndarray:
    """The mean log spectrum of a recording, [129]."""
    padded = np.pad(row, (0, max(0, 256 - len(row))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 256)[::128] * np.hanning(256)
    return np.log1p(np.abs(np.fft.rfft(frames))).mean(0)


def _linear_of_steps(data: RealSet, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Logistic regression of the symbols around a step, each with its distance, alone and in pairs."""
    hasher: Any = FeatureHasher(2**16, input_type="string", alternate_sign=False)
    generator, features, labels = np.random.default_rng(0), list[list[str]](), list[int]()
    total = sum(len(data.inputs[place]) for place in train)
    for place in train:
        for step in np.flatnonzero(generator.random(len(data.inputs[place])) < MOST_STEPS / total):
            features.append(list(_around(data, data.inputs[place], int(step))))
            labels.append(int(data.labels[place][step]))
    model = LogisticRegression(C=1, max_iter=50).fit(hasher.transform(features), labels)
    shares = []
    for place in test:
        row = data.inputs[place]
        found = model.predict(hasher.transform(list(_around(data, row, step)) for step in range(len(row))))
        shares.append(float((found == data.labels[place]).mean()))
    return np.array(shares)


def _around(data: RealSet, row: np.ndarray, step: int) -> Iterator[str]:
    last = 0 if data.causal else AROUND
    near = [int(row[i]) if 0 <= i < len(row) else -1 for i in range(step - AROUND, step + last + 1)]
    yield from (f"{i} {symbol}" for i, symbol in enumerate(near))
    yield from (f"{i} {one} {other}" for i, (one, other) in enumerate(pairwise(near)))
