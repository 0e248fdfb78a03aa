"""Fresh parameters follow the documented distributions, whichever way a model is made."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_data import GOLDEN
from scipy import stats
from tiny import perturbed
from transformers import AutoModelForSequenceClassification

from hub_upload.official import config_of, parameters_of
from modeling_dlr import DLRConfig, DLRForSequenceClassification, DLRForTokenClassification, DLRKernel
from modeling_dlr.blocks_dlr import DLRMixer
from modeling_dlr.kernels_dlr import KERNELS, SGConvKernel

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


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_scale_of_queries(way: Callable[[DLRConfig], torch.nn.Module]):
    """However a model is made, its attention starts with queries over the root of the width of a head."""
    model = way(DLRConfig(**CONFIG | {"hidden_size": 64}, layer_types=["full_attention"], num_attention_heads=4))
    scales = [value for name, value in model.named_parameters() if name.endswith("query_scale")]
    assert [scale.tolist() for scale in scales] == [[0.25]]


def test_bare_layers():
    """A mixer and a kernel on their own, without a model around them, start like those of a model."""
    for name, values in DLRMixer(config(None), 0).named_parameters(prefix="mixer"):
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


def log_uniform(low: float, high: float) -> Any:
    return stats.uniform(math.log(low), math.log(high / low))


def roots_of_unity() -> np.ndarray:
    return 2 * np.pi * np.arange(N) / N


def hippo_frequencies() -> np.ndarray:
    """The positive half of the eigenvalues of the skew part of the 2N × 2N HiPPO matrix, decreasing."""
    root = np.sqrt(2 * np.arange(2 * N) + 1)
    lower = np.tril(np.outer(root, root), -1)
    return np.sort(np.linalg.eigvals((lower - lower.T) / 2).imag)[::-1][:N]


HALF, LOG_HALF = np.full(N, -0.5), np.full(N, np.log(0.5))
OFFICIAL_DSS = {"log_time_step": log_uniform(1e-3, 1e-1), "weights": stats.norm()}
OFFICIAL_S4D = {
    "log_time_step": log_uniform(1e-3, 1e-1),
    "weights": stats.norm(0, 0.5**0.5),
    "log_decay": np.tile(LOG_HALF, (H, 1)),
}
INVERSE = 2 * N / np.pi * (2 * N / (2 * np.arange(N) + 1) - 1)

# Options, and for each parameter (or part of it: the last axis of pairs) its distribution, or its value.
STARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DLR": (
        {},
        {
            "angle": roots_of_unity(),
            "decay_root": stats.loguniform((1e-4 / 2) ** 0.5, (1e-1 / 2) ** 0.5),
            "weights": stats.norm(0, 1 / N),
        },
    ),
    "DLR with real weights": (
        {"version": "imag_real_weight"},
        {"angle": roots_of_unity(), "weights": stats.norm(0, 1 / N)},
    ),
    "DSS": (
        {"kernel_type": "dss"},
        OFFICIAL_DSS | {"log_decay": LOG_HALF, "frequency": hippo_frequencies()},
    ),
    "DSS lin": (
        {"kernel_type": "dss", "pole_init": "lin", "time_step_min": 1e-4},
        OFFICIAL_DSS
        | {"log_time_step": log_uniform(1e-4, 1e-1), "log_decay": LOG_HALF, "frequency": np.pi * np.arange(N)},
    ),
    "DSS in logarithms": (
        {"kernel_type": "dss", "version": "exp_re_im"},
        OFFICIAL_DSS | {"log_decay": LOG_HALF, "log_frequency": np.log(hippo_frequencies())},
    ),
    "DSS softmax": (
        {"kernel_type": "dss", "version": "softmax"},
        OFFICIAL_DSS | {"pole": np.stack([HALF, hippo_frequencies()], -1)},
    ),
    "DSS random": (
        {"kernel_type": "dss", "pole_init": "randn", "weight_init_std": 0.7},
        OFFICIAL_DSS | {"log_decay": LOG_HALF, "frequency": stats.norm(), "weights": stats.norm(0, 0.7)},
    ),
    "S4D-Lin": ({"kernel_type": "s4d"}, OFFICIAL_S4D | {"frequency": np.tile(np.pi * np.arange(N), (H, 1))}),
    "S4D-Inv": ({"kernel_type": "s4d", "pole_init": "inv"}, OFFICIAL_S4D | {"frequency": np.tile(INVERSE, (H, 1))}),
    "S4D-LegS": (
        {"kernel_type": "s4d", "pole_init": "legs"},
        OFFICIAL_S4D | {"frequency": np.tile(hippo_frequencies(), (H, 1))},
    ),
    "S4D random": ({"kernel_type": "s4d", "pole_init": "randn"}, OFFICIAL_S4D | {"frequency": stats.norm()}),
    "SGConv": ({"kernel_type": "sgconv"}, {"scales": stats.norm(), "alpha": stats.uniform(0.3, 0.7)}),
}


@pytest.mark.parametrize(("options", "expected"), STARTS.values(), ids=STARTS.keys())
def test_kernels_start_as_published(options: dict[str, Any], expected: dict[str, Any]):
    """Each parameter of a kernel has its distribution, or its value."""
    named = dict(KERNELS[options.get("kernel_type", "dlr")](2, H, N, options).named_parameters())
    assert named.keys() == expected.keys()
    for name, values in named.items():
        if isinstance(expected[name], np.ndarray):
            np.testing.assert_allclose(values.detach(), expected[name], rtol=2e-6, err_msg=name)
        else:
            assert_drawn_from(values, expected[name])


def test_dfout_gives_each_channel_its_own_roots_of_unity():
    """λ = exp(-ξ/2 + 2πi(n/N + h/(NH))), one damping ξ per channel: arXiv 2508.20441, its poles layer by layer."""
    kernel = DLRKernel(1, H, N, {"pole_init": "dfout", "time_step_min": 1e-3})
    turns = np.arange(N) / N + np.arange(H)[:, None] / (N * H)
    np.testing.assert_allclose(kernel.angle.detach(), 2 * np.pi * turns, rtol=1e-6, atol=1e-6)
    damping = 2 * kernel.decay_root.detach().square()
    assert torch.equal(damping, damping[:, :1].expand(H, N))
    assert_drawn_from(damping[:, 0].log(), log_uniform(1e-3, 1e-1))


def test_separate_time_steps_start_equal():
    """The time step of the real and that of the imaginary part are one draw, as in the official code."""
    log_time_step = KERNELS["dss"](1, 1000, 1, {"separate_time_steps": True}).get_parameter("log_time_step")
    assert torch.equal(log_time_step[:, 0], log_time_step[:, 1])
    assert_drawn_from(log_time_step[:, 0], log_uniform(1e-3, 1e-1))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_sgconv_starts_with_a_norm_of_one(way: Callable[[DLRConfig], torch.nn.Module]):
    """However a model is made, the norm in the buffer is that of the kernel drawn with it."""
    parameters = {"kernel_type": "sgconv", "num_scales": 3}
    (kernel,) = (
        module
        for module in way(DLRConfig(**CONFIG, kernel_parameters=parameters)).modules()
        if isinstance(module, SGConvKernel)
    )
    torch.testing.assert_close(kernel(4 * N).norm(dim=-1), torch.ones(1, H))


OFFICIAL_STARTS = json.loads((GOLDEN / "initial.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", OFFICIAL_STARTS)
def test_models_start_like_the_official_ones(case: str):
    """Mean, deviation, least and largest value of every parameter are the official ones, up to five sampling errors."""
    official = OFFICIAL_STARTS[case]["arguments"]
    head = DLRForTokenClassification if official["l_output"] else DLRForSequenceClassification
    first, second = (dict(head(config_of(official)).named_parameters()) for _ in range(2))
    statistics = {name: torch.tensor(row) for name, row in OFFICIAL_STARTS[case]["statistics"].items()}
    for name, (count, mean, std, least, largest) in parameters_of(statistics, official["kernel_type"]).items():
        values = first[name].detach()
        assert values.numel() == count
        ours = torch.stack([values.mean(), values.std() if count > 1 else std, values.min(), values.max()])
        if torch.equal(first[name], second[name]):  # not drawn; official eigenvalues are off by 6e-5
            errors = torch.full((4,), 3e-4 * max(abs(least), abs(largest)))
        else:
            errors = 5 * std * torch.tensor([(2 / count) ** 0.5, (1 / count) ** 0.5, 0.4, 0.4])
        theirs = torch.stack([mean, std, least, largest])
        assert ((ours - theirs).abs() <= errors).all(), f"{name}: {ours} instead of {theirs}"
