"""The official code's words in ours: its constructor arguments as a `DLRConfig`, its state dict as our parameters."""

import re
from typing import Any

from torch import Tensor

from modeling_dlr import DLRConfig

VERSIONS = {"": "complex"}
NORMS = {("layer", True): "scalar_layer", ("layer", False): "layer"}  # by (norm, transposed)

# Patterns in official names, replaced one after the other.
RENAMED = {
    r"^encoder\.": "model.embed_tokens.",
    r"^decoder\.output_transform\.": "classifier.",
    r"\.layer\.": ".mixer.",
    r"\bnorm\.norm\.": "norm.",
    r"\bnorm\.m$": "norm.shift",
    r"\bnorm\.s$": "norm.scale",
    r"\bLambda_log_neg_re$": "decay_root",
    r"\bLambda_im$": "angle",
    r"\bW$": "weights",
    r"\boutput_linear\.(0\.)?": "out_proj.",
}


def kernel_parameters_of(official: dict[str, Any]) -> dict[str, Any]:
    """The ``kernel_parameters`` of a kernel, block or model."""
    return {
        "kernel_type": official["kernel_type"],
        "version": VERSIONS[official["version"]],
        "read_out": official["kernel_to_real"],
        "pole_init": official["Lambda_init"],
        "max_length": official.get("max_kernel_length"),
    }


def config_of(official: dict[str, Any]) -> DLRConfig:
    """The configuration of a block or model; what a block leaves out takes its default."""
    return DLRConfig(
        vocab_size=official.get("n_tokens"),
        input_size=official.get("d_input"),
        hidden_size=official["d_model"],
        num_hidden_layers=official.get("n_layers", 1),
        state_size=official["d_state"],
        kernel_parameters=kernel_parameters_of(official),
        bidirectional=official["bidirectional"],
        hidden_act=official["activation"],
        output_gate=official["postact"],
        norm_position="pre" if official.get("prenorm") else "post",
        norm_type=NORMS[official.get("norm", "layer"), official["transposed"]],
        pooling=official.get("decoder", "mean"),
        num_labels=official.get("d_output", 1),
    )


def parameters_of(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict, or the gradients by it, under our names and in our shapes."""
    ours = {_our_name(name): value for name, value in official.items()}
    if "model.embed_tokens.bias" in ours:  # an embedding has none: this encoder is a projection
        ours = {name.replace("embed_tokens", "input_projection"): value for name, value in ours.items()}
    return {name: value.flatten() if name.endswith("out_proj.bias") else value for name, value in ours.items()}


def _our_name(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name
