"""Fresh parameters follow the documented distributions, whichever way a model is made."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from tiny import perturbed
from transformers import AutoModelForSequenceClassification

from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRKernel
from modeling_dlr.modeling_dlr import DLRMixer

H, N, LABELS = 63, 100, 37
CONFIG = {"vocab_size": 101, "hidden_size": H, "state_size": N, "num_hidden_layers": 1, "num_labels": LABELS}
LINEAR = stats.uniform(-(H**-0.5), 2 * H**-0.5)

# The official distributions, by the end of the parameter's name.
OFFICIAL = {
    "embed_tokens.weight": stats.norm(),
    "mixer.D": stats.norm(),
    "out_proj.weight": LINEAR,
    "out_proj.bias": LINEAR,
    "classifier.weight": LINEAR,
    "classifier.bias": LINEAR,
    "kernel.weights": stats.norm(0, 1 / N),
    "kernel.decay_root": stats.loguniform((1e-4 / 2) ** 0.5, (1e-1 / 2) ** 0.5),
}

# What initializer_range=0.02 makes of the projections and embeddings, and of nothing else.
OF_TRANSFORMERS = OFFICIAL | {
    "embed_tokens.weight": stats.norm(0, 0.02),
    "out_proj.weight": stats.norm(0, 0.02),
    "classifier.weight": stats.norm(0, 0.02),
}


def config(initializer_range: float | None) -> DLRConfig:
    return DLRConfig(**CONFIG, initializer_range=initializer_range)


def initialised_again(config: DLRConfig) -> DLRForSequenceClassification:
    """A model whose parameters are all replaced by `_init_weights`, as where a checkpoint has none of them."""
    model = perturbed(DLRForSequenceClassification(config), 5.0)
    for module in model.modules():
        model._init_weights(module)
    return model


WAYS: dict[str, Callable[[DLRConfig], torch.nn.Module]] = {
    "constructor": DLRForSequenceClassification,
    "from_config": AutoModelForSequenceClassification.from_config,
    "loaded from nothing": lambda config: DLRForSequenceClassification.from_pretrained(
        None, config=config, state_dict={}
    ),
    "init_weights": initialised_again,
}


def assert_drawn_from(values: torch.Tensor, distribution: stats.rv_continuous) -> None:
    """Kolmogorov and Smirnov would see this in one of 10000 fair draws at most."""
    assert stats.kstest(values.detach().double().flatten().numpy(), distribution.cdf).pvalue > 1e-4


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("initializer_range", [None, 0.02], ids=["official", "initializer_range"])
def test_distributions(way: Callable[[DLRConfig], torch.nn.Module], initializer_range: float | None):
    """Every parameter has its distribution: the official one, or that of transformers for weights and embeddings."""
    expected = OFFICIAL if initializer_range is None else OF_TRANSFORMERS
    for name, values in way(config(initializer_range)).named_parameters():
        kind = ".".join(name.split(".")[-2:])
        if kind.startswith("norm."):
            assert (values == (1 if kind == "norm.weight" else 0)).all()
        elif kind == "kernel.angle":
            torch.testing.assert_close(values.detach(), 2 * math.pi / N * torch.arange(N))
        elif initializer_range is not None and kind.endswith(".bias"):
            assert not values.any()
        else:
            assert_drawn_from(values, expected[kind])


def test_bare_layers():
    """A mixer and a kernel on their own, without a model around them, start like those of a model."""
    for name, values in DLRMixer(config(None)).named_parameters(prefix="mixer"):
        kind = ".".join(name.split(".")[-2:])
        if kind != "kernel.angle":
            assert_drawn_from(values, OFFICIAL[kind])


def test_options_of_the_kernel():
    """Random angles, the range of time steps and the deviation of the weights do what they say."""
    options = {"pole_init": "randn", "time_step_min": 0.02, "time_step_max": 0.3, "weight_init_std": 0.7}
    kernel = DLRKernel(2, H, 1000, options)
    assert_drawn_from(kernel.decay_root, stats.loguniform(0.01**0.5, 0.15**0.5))
    assert_drawn_from(kernel.weights, stats.norm(0, 0.7))
    angle = torch.where(kernel.angle > math.pi, kernel.angle - 2 * math.pi, kernel.angle)
    assert_drawn_from(angle, stats.truncnorm(-math.pi, math.pi))


def test_seed_decides():
    """The same seed draws the same model, and two draws differ in everything that is random."""
    torch.manual_seed(7)
    first = dict(DLRForSequenceClassification(config(None)).named_parameters())
    other = dict(DLRForSequenceClassification(config(None)).named_parameters())
    torch.manual_seed(7)
    again = dict(DLRForSequenceClassification(config(None)).named_parameters())
    for name, values in first.items():
        assert torch.equal(values, again[name])
        assert torch.equal(values, other[name]) == (".norm." in name or name.endswith("kernel.angle"))
