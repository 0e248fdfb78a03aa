"""Translate the official code: constructor arguments to a `DLRConfig`, a state dict to our parameters."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeling_dlr import DLRConfig

from .errors import InputError

DLR_VERSIONS = {
    "": "complex",
    "Lambda_imag": "imag",
    "Lambda_imag_W_real": "imag_real_weight",
    "Lambda_real_W_real": "real_real_weight",
}
DSS_INITS = {"hippo_skew_pos_imag": "hippo_skew", "lin": "lin", "randn": "randn"}


class Family(NamedTuple):
    """A kernel_type: its options, its parameters by name, and how many official states share one of our poles.

    ``renamed`` are options with another name and the same values; absent options keep our defaults.
    """

    options: Callable[[dict[str, Any]], dict[str, Any]]
    names: dict[str, str]
    renamed: dict[str, str]
    states_per_pole: int = 1


_TIME_STEPS = {"dt_min": "time_step_min", "dt_max": "time_step_max"}
_DIAGONAL = _TIME_STEPS | {"max_kernel_length": "max_length"}

FAMILIES = {
    "dlr": Family(
        lambda official: {
            "version": DLR_VERSIONS[official["version"]],
            "read_out": official["kernel_to_real"].replace("-", "_"),
            "pole_init": official["Lambda_init"],
        },
        {"Lambda_log_neg_re": "decay_root", "Lambda_im": "angle", "W": "weights"},
        _DIAGONAL | {"W_scale": "weight_init_std"},
    ),
    "dss": Family(
        lambda official: {
            "version": official["version"].replace("-", "_"),
            "read_out": official["kernel_to_real"].replace("-", "_"),
            "pole_init": DSS_INITS[official["Lambda_init"]],
            "separate_time_steps": official["sep_dt_re_im"],
        },
        {
            "log_dt": "log_time_step",
            "Lambda": "pole",
            "Lambda_log_neg_re": "log_decay",
            "Lambda_im": "frequency",
            "Lambda_log_im": "log_frequency",
            "W": "weights",
        },
        _DIAGONAL | {"max_real_Lambda": "max_pole_real"},
    ),
    "sgconv": Family(
        lambda official: {"num_scales": official["n_scales"]},
        {"ws": "scales", "alpha": "alpha", "k_norm": "norm"},
        {
            "max_kernel_length": "max_length",
            "w_scale": "weight_init_std",
            "alpha_min": "alpha_min",
            "alpha_max": "alpha_max",
        },
    ),
    "s4d": Family(
        lambda official: {"discretization": official["disc"]},
        {"log_dt": "log_time_step", "log_A_real": "log_decay", "A_imag": "frequency", "C": "weights"},
        _TIME_STEPS | {"l_max": "max_length"},
        states_per_pole=2,  # the official N also counts the conjugates
    ),
    "attn": Family(lambda official: {}, {}, {}),
}
NORMS: dict[tuple[str, bool], Any] = {  # by (norm, transposed)
    ("layer", True): "scalar_layer",
    ("layer", False): "layer",
    ("batch", True): "batch",
    ("batch", False): "batch",
    ("nn.LayerNorm", True): "layer",
}
ACTIVATIONS: dict[str | None, None] = dict.fromkeys(("id", "identity", "linear"))  # the other activations have one name
RESIDUALS: dict[str, Any] = {"R": "plain", "D": "decay"}
POOLINGS: dict[str, Any] = {"pool": "mean", "last": "last"}

# Patterns in official names outside the kernel, replaced in this order.
RENAMED = {
    r"^s4_layers\.(\d+)\.": r"model.layers.\1.layer.",
    r"^norms\.(\d+)\.": r"model.layers.\1.norm.",
    r"^encoder\.": "model.embed_tokens.",
    r"^decoder\.retrieval\.classifier\.": "pair_classifier.",
    r"^decoder\.(output_transform\.)?(?=\w+$)": "classifier.",
    r"\.layer\.(layer\.)?": ".mixer.",
    r"\bnorm\.norm\.": "norm.",
    r"\bnorm\.m$": "norm.shift",
    r"\bnorm\.s$": "norm.scale",
    r"\boutput_linear\.(0\.)?": "out_proj.",
    r"\battn\.": "attention.",
    r"\b([QKVO])\.": lambda match: f"{match[1].lower()}_proj.",
    r"\bff(2?)\.": lambda match: f"feed_forwards.{1 if match[1] else 0}.",
    r"(^|\battention\.)scale$": r"\1query_scale",
}

# A skip that the official attention layer does not use, and a table that follows from the sizes.
UNUSED_BY_ATTENTION = r"(^|\.)(D|rope\.freqs)$"


def state_size_of(official: dict[str, Any]) -> int:
    """Our number of poles per kernel."""
    return official.get("d_state", 64) // FAMILIES[official["kernel_type"]].states_per_pole


def kernel_parameters_of(official: dict[str, Any]) -> dict[str, Any]:
    """The ``kernel_parameters`` of a kernel, block or model."""
    kernel_type = official["kernel_type"]
    family = FAMILIES[kernel_type]
    options = {family.renamed[name]: value for name, value in official.items() if name in family.renamed}
    return {"kernel_type": kernel_type} | options | family.options(official)


def attention_of(official: dict[str, Any]) -> dict[str, Any]:
    """The fields of an attention block or model, with or without a chunk size."""
    window = official["chunk_size"]
    kind = "full_attention" if window is None else "local_attention"
    return {
        "layer_types": [kind] * official.get("n_layers", 1),
        "num_attention_heads": official.get("n_heads", 4),
        "attention_window": 1024 if window is None else window,
        "attention_ff_ratio": official["attn_ff"],
    }


def config_of(official: dict[str, Any]) -> DLRConfig:
    """The configuration of a block or model; missing arguments of a block get their defaults."""
    attends = official["kernel_type"] == "attn"
    mixer = attention_of(official) if attends else {"kernel_parameters": kernel_parameters_of(official)}
    return DLRConfig(
        **mixer,
        vocab_size=official.get("n_tokens"),
        input_size=official.get("d_input"),
        hidden_size=official["d_model"],
        num_hidden_layers=official.get("n_layers", 1),
        state_size=state_size_of(official),
        bidirectional=official["bidirectional"],
        num_kernel_channels=official.get("channels", 1),
        channel_gate_act=ACTIVATIONS.get(official.get("hyper_act"), official.get("hyper_act")),
        hidden_act=ACTIVATIONS.get(official["activation"], official["activation"]),
        output_gate=official["postact"],
        norm_position="pre" if official.get("prenorm") else "post",
        norm_type=NORMS[official.get("norm", "layer"), official["transposed"]],
        residual_type=RESIDUALS[official.get("residual", "R")],
        hidden_dropout_prob=official.get("dropout", 0.0),
        dropout_type="channel" if official["transposed"] else "element",
        pooling=POOLINGS.get(official.get("decoder", ""), "mean"),
        # pyrefly: ignore[unexpected-keyword] - transformers turns it into id2label
        num_labels=official.get("d_output", 1),
    )


def parameters_of(official: dict[str, Tensor], kernel_type: str) -> dict[str, Tensor]:
    """Rename a state dict, or its gradients, to our names; shapes may differ by axes of size 1.

    Raises:
        InputError: if two tensors get the same name, or a scale of SGConv is missing.
    """
    if kernel_type == "attn":
        official = {name: value for name, value in official.items() if not re.search(UNUSED_BY_ATTENTION, name)}
    ours: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, value in _stacked(official).items():
        new_name = our_name(name, kernel_type)
        if new_name in ours:
            raise InputError(f"{origins[new_name]} and {name} are both {new_name}: is the state dict of one model?")
        ours[new_name], origins[new_name] = value, name
    if "model.embed_tokens.bias" in ours:  # an embedding has no bias: this encoder is a projection
        ours = {name.replace("embed_tokens", "input_projection"): value for name, value in ours.items()}
    return ours


def our_name(name: str, kernel_type: str) -> str:
    """Translate an official name to ours; an encoder is treated as an embedding."""
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    module, dot, last = name.rpartition(".")
    inside_kernel = not module or module.endswith("kernel")
    return module + dot + (FAMILIES[kernel_type].names.get(last, last) if inside_kernel else last)


def _stacked(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the scales of SGConv, which the official code stores as ws.0, ws.1, ..., into one tensor each."""
    stacked, parts = {}, {}
    for name, value in official.items():
        scale = re.fullmatch(r"(.*\bws)\.(0|[1-9][0-9]*)", name)
        if scale:
            parts.setdefault(scale[1], {})[int(scale[2])] = value
        else:
            stacked[name] = value
    return stacked | {name: _stack(name, scales) for name, scales in parts.items()}


def _stack(name: str, scales: dict[int, Tensor]) -> Tensor:
    """Stack scales in the order of their numbers.

    Raises:
        InputError: if one is missing, or has another shape than the first.
    """
    for number in range(len(scales)):
        if number not in scales:
            raise InputError(
                f"The state dict has {len(scales)} of the scales {name}, but no {name}.{number}: is it whole?"
            )
        if scales[number].shape != scales[0].shape:
            raise InputError(
                f"The scales {name} must all be of one shape, but {name}.{number} is {list(scales[number].shape)} and "
                f"{name}.0 {list(scales[0].shape)}: is the state dict whole?"
            )
    return torch.stack([scales[number] for number in range(len(scales))])
