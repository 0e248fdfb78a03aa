"""`DLRConfig`: every field of a DLR model, with its range and meaning, checked when a configuration is made.

This file imports no torch. Annotations of fields must stay types (no postponed annotations): `strict` reads them.
"""

# First, because it checks the version of transformers.
from .configuration_base_dlr import BaseConfig

# isort: split
from collections.abc import Callable
from reprlib import repr as short
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .kernel_parameters_dlr import (
    KERNEL_FIELDS,
    MAX_FLOAT,
    NOT_NEGATIVE,
    PROBABILITY,
    SIZE,
    Range,
    complete_kernel_parameters,
    config_field,
    refuse_unknown_names,
    why_no_recurrence,
)

# Bytes and five special tokens: the vocabulary of `DLRConfig()`, without vocab_size and input_size.
BYTE_VOCAB_SIZE = 261

LAYER_TYPES = ("dlr", "full_attention", "local_attention")

# The names of layer types in config.json: transformers also reads it with its base class (to resume a training, to find
# a tokenizer), which accepts only its own names.
SAVED_LAYER_TYPES = {"dlr": "linear_attention", "local_attention": "chunked_attention"}

# A longer kernel fits into no memory: it has one number per step and channel.
MAX_KERNEL_LENGTH = 2**30

# Names of fields in other libraries and in the official code.
OTHER_NAMES: dict[str, str] = {
    "vocab_size": "n_vocab num_embeddings num_tokens vocabulary_size",
    "input_size": "d_input in_channels in_features input_dim num_channels num_features",
    "hidden_size": "d_model dim embed_dim embedding_dim embedding_size hidden_dim model_dim n_embd width",
    "num_hidden_layers": "depth encoder_layers n_layer n_layers num_blocks num_layers",
    "state_size": "d_state ssm_state_size state_dim",
    "num_kernel_channels": "channels",
    "channel_gate_act": "hyper_act",
    "hidden_act": "act_fn activation activation_fn activation_function",
    "output_gate": "postact",
    "norm_position": "do_layer_norm_before norm_first pre_norm prenorm",
    "layer_norm_eps": "layer_norm_epsilon norm_eps norm_epsilon rms_norm_eps",
    "hidden_dropout_prob": "drop_rate dropout dropout_p dropout_prob dropout_rate hidden_dropout resid_pdrop",
    "classifier_dropout": "classifier_dropout_prob head_dropout summary_first_dropout",
    "pooling": "classifier_pooling pool pooler pooling_mode pooling_type summary_type",
    "layer_types": "attn_layers layers_block_type",
    "num_attention_heads": "n_head n_heads num_heads",
    "attention_window": "attention_chunk_size chunk_size local_attention_window sliding_window",
    "attention_ff_ratio": "attn_ff ff_mult mlp_ratio",
    "rope_parameters": "rope_scaling rope_theta rotary_emb_base",
    "initializer_range": "init_std initializer_std",
    "tie_word_embeddings": "share_embeddings tie_embeddings tie_weights",
    "num_labels": "d_output n_classes num_class num_classes",
}

_LENGTH = "sequences have no maximum length: leave it out."
_DIRECTION = "a model is causal unless bidirectional=True: leave it out."
_WIDTH = "only attention has feed-forward layers, and attention_ff_ratio is their width over hidden_size."
_DROPOUT = "attention has no separate dropout: set hidden_dropout_prob."

# What to do about names without a field here.
REMARKS: dict[str, str] = {
    "block_size context_length l_max max_len max_position_embeddings max_seq_len max_seq_length": _LENGTH,
    "max_sequence_length model_max_length n_ctx n_positions seq_len seq_length sequence_length": _LENGTH,
    "add_cross_attention causal is_causal is_decoder unidirectional": _DIRECTION,
    "d_ff d_inner expand ffn_dim intermediate_size n_inner": _WIDTH,
    "attention_dropout attention_probs_dropout_prob attn_pdrop": _DROPOUT,
    "n_ssm": "every channel has a kernel of its own, of state_size poles: leave it out.",
    "per_layer_config": "all layers share one configuration, and layer_types says which of them attend: leave it out.",
}

_HINTS = {other: f"use {name!r}." for name, others in OTHER_NAMES.items() for other in others.split()}
_HINTS |= {name: remark for names, remark in REMARKS.items() for name in names.split()}


def complete_rope_parameters(given: dict[str, Any] | None) -> dict[str, Any]:
    """Complete ``rope_parameters`` with the defaults of rotary positions (arXiv 2104.09864).

    Raises:
        ValueError: for an unknown key, for an extension of transformers, or a base that is not a positive number.
    """
    complete = {"rope_type": "default", "rope_theta": 10000.0} | (given or {})
    refuse_unknown_names("rope_parameters", complete, ("rope_type", "rope_theta"))
    rope_type, theta = complete["rope_type"], complete["rope_theta"]
    if rope_type != "default":
        raise ValueError(f"rope_parameters['rope_type'] must be 'default', got {short(rope_type)}: leave it out.")
    if isinstance(theta, bool) or not isinstance(theta, (float, int)) or not 0 < theta <= MAX_FLOAT:
        raise ValueError(f"rope_parameters['rope_theta'] must be a number > 0, got {short(theta)}.")
    return complete


# Dictionaries that are completed with defaults when they are set.
COMPLETED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "kernel_parameters": complete_kernel_parameters,
    "rope_parameters": complete_rope_parameters,
}


@strict
class DLRConfig(BaseConfig):
    """Configuration of a diagonal linear RNN (arXiv 2212.00768).

    `DLRConfig()` reads bytes (`vocab_size` 261) and is causal. Set `input_size` instead of `vocab_size` for real-valued
    sequences, and `bidirectional=True` for everything except generation. Parameters that only the kernel reads are in
    `kernel_parameters`, which is completed with defaults. All fields: `configuration/FIELDS.md`.

    Raises:
        ValueError: for an unknown name (with the nearest known one), or an invalid entry of `kernel_parameters`.
        StrictDataclassError: of huggingface_hub, for a value of the wrong type or out of range, or a contradiction.

    >>> config = DLRConfig(hidden_size=64, kernel_parameters={"time_step_max": 0.05})
    >>> config.vocab_size, config.kernel_parameters["time_step_min"]
    (261, 0.0001)
    """

    model_type = "dlr"

    vocab_size: int | None = config_field(
        None, "number of tokens; None with input_size None means bytes and 5 special tokens (261)", SIZE
    )
    input_size: int | None = config_field(
        None,
        "features per step of real-valued input_values; exactly one of vocab_size and input_size is set",
        SIZE,
    )
    hidden_size: int = config_field(128, "width of the hidden states", SIZE, "H")
    num_hidden_layers: int = config_field(4, "number of blocks", Range(1, 10_000))
    state_size: int = config_field(256, "complex poles per kernel", SIZE, "N")
    kernel_parameters: dict | None = config_field(None, "parameters of the kernel; see below")
    bidirectional: bool = config_field(False, "read the sequence in both directions: two kernels per channel")
    num_kernel_channels: int = config_field(1, "kernels per hidden channel (channels)", SIZE, "C")
    channel_gate_act: str | None = config_field(
        None,
        "activation of gates: twice as many kernels are learned, and half of them gate the others; None has no gates "
        "(hyper_act)",
    )
    hidden_act: str | None = config_field("gelu", "activation after the convolution or attention")
    output_gate: Literal["glu", "geglu"] | None = config_field(None, "gate after the output projection (postact)")
    norm_position: Literal["pre", "post"] = config_field(
        "pre", "normalise before each mixer, or after each residual connection"
    )
    norm_type: Literal["layer", "scalar_layer", "batch"] = config_field(
        "layer",
        "LayerNorm; the same with one scale and shift for all channels, as in the official code; or BatchNorm over the "
        "steps that are not padding, with separate statistics in each process",
    )
    residual_type: Literal["plain", "decay"] = config_field(
        "plain", "x + y, or sqrt(1 - β²) x + β y with β = i^(-1/2) in layer i (R, D)"
    )
    layer_norm_eps: float | int | None = config_field(
        None, "added to the variance; None is 1e-5, and 0 for 'scalar_layer'", NOT_NEGATIVE
    )
    hidden_dropout_prob: float | int = config_field(
        0.0, "dropout after the activation and on the residual branch", PROBABILITY
    )
    dropout_type: Literal["element", "channel"] = config_field(
        "element", "drop single numbers, or whole channels of a sequence"
    )
    classifier_dropout: float | int | None = config_field(
        None, "dropout before the projection of a head; None is hidden_dropout_prob", PROBABILITY
    )
    pooling: Literal["mean", "last", "first", "max", "mean_max"] = config_field(
        "mean",
        "how a sequence head reduces the steps, without padding, to one; 'mean_max' is the mean in half of the "
        "channels and the maximum in the others",
    )
    layer_types: list[str] | None = config_field(
        None,
        "type of each layer: 'dlr' (any kernel), 'full_attention', or 'local_attention', which attends to its own "
        "chunk and the previous one (and the next if bidirectional); None is 'dlr' in all layers",
    )
    num_attention_heads: int = config_field(4, "heads of an attention layer", SIZE)
    attention_window: int = config_field(1024, "steps per chunk of local attention (chunk_size)", SIZE)
    attention_ff_ratio: int = config_field(
        0,
        "width of the two feed-forward layers after attention, in multiples of hidden_size; 0 has none (attn_ff)",
        Range(0, 1000),
    )
    rope_parameters: dict | None = config_field(
        None, "rotary positions of attention layers; None is {'rope_type': 'default', 'rope_theta': 10000.0}"
    )
    initializer_range: float | int | None = config_field(
        None,
        "standard deviation of new Linear and Embedding weights; None is as in the official code (embeddings N(0,1), "
        "Linear as in torch)",
        Range(0, open_minimum=True),
    )
    tie_word_embeddings: bool = config_field(False, "share the weights of the embedding with a language head")
    use_cache: bool = config_field(
        False, "return the state as cache from every forward pass; generation always returns it"
    )

    def __post_init__(self, **kwargs):
        if self.vocab_size is None and self.input_size is None:
            self.vocab_size = BYTE_VOCAB_SIZE
        if self.layer_norm_eps is None:
            self.layer_norm_eps = 0.0 if self.norm_type == "scalar_layer" else 1e-5
        names = {saved: name for name, saved in SAVED_LAYER_TYPES.items()}
        types = ["dlr"] * self.num_hidden_layers if self.layer_types is None else self.layer_types
        self.layer_types = [names.get(name, name) for name in types]
        self.rope_parameters = self.rope_parameters or {}
        self.kernel_parameters = self.kernel_parameters or {}
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """As in `BaseConfig`. Dictionaries are completed with defaults."""
        if key in COMPLETED and value is not None:
            value = COMPLETED[key](value)
        super().__setattr__(key, value)

    @classmethod
    def _hint(cls, name: str) -> str | None:
        if any(name in specs for specs in KERNEL_FIELDS.values()):
            limit = "sequences have no maximum length; " if name == "max_length" else ""
            return f"{limit}only the kernel reads it: pass it as kernel_parameters={{{name!r}: …}}."
        return _HINTS.get(name) or super()._hint(name)

    @classmethod
    def _certainly_meant(cls, name: str) -> bool:
        of_kernel = any(name in specs for specs in KERNEL_FIELDS.values())
        return of_kernel or name in _HINTS or super()._certainly_meant(name)

    @classmethod
    def _merged(cls, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """As in `BaseConfig`. ``kernel_parameters`` replace single saved ones, unless their kernel_type is another."""
        old, new = saved.get("kernel_parameters") or {}, given.get("kernel_parameters")
        if isinstance(old, dict) and isinstance(new, dict):
            old = {"kernel_type": "dlr"} | old
            if new.get("kernel_type", old["kernel_type"]) == old["kernel_type"]:
                given = given | {"kernel_parameters": old | new}
        return super()._merged(saved, given)

    def validate_input(self):
        """Exactly one of vocab_size and input_size is set."""
        if (self.vocab_size is None) == (self.input_size is None):
            raise ValueError(
                f"exactly one of vocab_size and input_size must be set, got vocab_size={self.vocab_size} and "
                f"input_size={self.input_size}: leave out the one you do not need."
            )

    def validate_norm(self):
        """The variance over a single channel is 0, so the norm needs an epsilon."""
        if self.norm_type == "scalar_layer" and self.hidden_size == 1 and self.layer_norm_eps == 0:
            raise ValueError(
                "hidden_size must be > 1 for norm_type='scalar_layer' with layer_norm_eps=0, got 1: set layer_norm_eps."
            )

    def validate_dictionaries(self):
        """Dictionaries are valid, also after a change of their entries."""
        complete_rope_parameters(self.rope_parameters)
        complete_kernel_parameters(self.kernel_parameters)

    def validate_kernel_length(self):
        """The kernel of SGConv doubles its length with each scale."""
        scales = (self.kernel_parameters or {}).get("num_scales")
        if scales is not None and self.state_size * 2 ** (scales - 1) > MAX_KERNEL_LENGTH:
            raise ValueError(
                f"the kernel length state_size · 2^(num_scales-1) must be <= {MAX_KERNEL_LENGTH}, got "
                f"{self.state_size} · 2^{scales - 1}: lower num_scales."
            )

    def validate_use_cache(self):
        """use_cache needs layers that have a state."""
        if not self.use_cache:
            return
        reason = why_no_recurrence(self.kernel_parameters or {}) if "dlr" in (self.layer_types or []) else None
        reason = "bidirectional=True reads the future" if self.bidirectional else reason
        if reason is not None:
            raise ValueError(f"use_cache=True needs a state to return, but {reason}: leave use_cache out.")

    def to_dict(self) -> dict[str, Any]:
        """As in `BaseConfig`, with `layer_types` by the names of transformers, or None if all are "dlr"."""
        output = super().to_dict()
        types = output["layer_types"]
        if types is not None:
            all_dlr = all(name == "dlr" for name in types)
            output["layer_types"] = None if all_dlr else [SAVED_LAYER_TYPES.get(name, name) for name in types]
        return output

    def validate_layer_type(self):
        """Every layer has one known type. Overrides the check of transformers, which does not know "dlr"."""
        refuse_unknown_names("layer_types", self.layer_types or [], LAYER_TYPES)
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types must name one type for each of the {self.num_hidden_layers} layers, got "
                f"{len(self.layer_types)}: {short(self.layer_types)}."
            )

    def validate_heads(self):
        """Attention heads have the same even number of channels: rotary positions rotate pairs of them."""
        attention = set(self.layer_types or []) - {"dlr"}
        if attention and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                "hidden_size must be a multiple of 2 · num_attention_heads for attention, got "
                f"{self.hidden_size} and {self.num_attention_heads} heads."
            )

    @property
    def num_directions(self) -> int:
        """Kernels per channel: 2 when the model reads in both directions."""
        return 2 if self.bidirectional else 1


DLRConfig.register_for_auto_class()

__all__ = ["DLRConfig"]
