"""`DLRConfig`: every field of a DLR model, with its range and meaning, checked when the configuration is born.

This file imports no torch. Field annotations must stay real types (no postponed annotations): `strict` reads them.
"""

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig

from .kernel_parameters_dlr import (
    KERNEL_FIELDS,
    NOT_NEGATIVE,
    POSITIVE_INTEGER,
    PROBABILITY,
    Range,
    complete_kernel_parameters,
    refuse_unknown_names,
    why_no_recurrence,
)
from .labels_dlr import (
    check_label2id,
    check_num_labels,
    check_problem_type,
    complete_labels,
    default_id2label,
    inverted,
    ordered_id2label,
    relabelled,
)

# Bytes and five special tokens: what `DLRConfig()` reads when neither vocab_size nor input_size is given.
BYTE_VOCAB_SIZE = 261

LAYER_TYPES = ("dlr", "full_attention", "local_attention")

# What config.json says instead: transformers also reads it with its base class (to resume training, to find a
# tokenizer), which refuses layer types other than its own.
SAVED_LAYER_TYPES = {"dlr": "linear_attention", "local_attention": "chunked_attention"}

# Keys that transformers and the libraries around it keep in config.json without declaring them as fields.
TOLERATED_KEYS = {
    "adapters",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "task_specific_params",
    "tie_last_hidden_states",
    "tokenizer_class",
    "torch_dtype",
}


def _field(default: Any, meaning: str, allowed: Range | None = None, symbol: str = "") -> Any:
    """A field of `DLRConfig`: its default, what it means, what it may hold, and its symbol in the papers."""
    validators: list[Callable[[Any], None]] = [] if allowed is None else [_checker(allowed)]
    return field(
        default=default,
        metadata={"validator": validators, "meaning": meaning, "range": allowed, "symbol": symbol},
    )


def _checker(allowed: Range) -> Callable[[Any], None]:
    # `strict` accepts plain functions of one annotated argument only.
    def check(value: Any) -> None:
        allowed(value)

    return check


def complete_rope_parameters(given: dict[str, Any] | None) -> dict[str, Any]:
    """Fill ``rope_parameters`` with the published rotary positions (arXiv 2104.09864).

    Raises:
        ValueError: for an unknown key, for one of transformers' extensions, or a base that is no positive number.
    """
    complete = {"rope_type": "default", "rope_theta": 10000.0} | (given or {})
    refuse_unknown_names("rope_parameters", complete, ("rope_type", "rope_theta"))
    rope_type, theta = complete["rope_type"], complete["rope_theta"]
    if rope_type != "default":
        raise ValueError(f"rope_parameters['rope_type'] must be 'default', got {rope_type!r}: leave it out.")
    if isinstance(theta, bool) or not isinstance(theta, (float, int)) or not 0 < theta < float("inf"):
        raise ValueError(f"rope_parameters['rope_theta'] must be a number > 0, got {theta!r}.")
    return complete


@strict
class DLRConfig(PreTrainedConfig):
    """Configuration of a diagonal linear RNN (arXiv 2212.00768).

    `DLRConfig()` reads bytes (`vocab_size` 261) and is causal. Set `input_size` instead of `vocab_size` for real-valued
    sequences, and `bidirectional=True` for everything that is not generation. What only the kernel reads sits in
    `kernel_parameters`, which is filled with defaults. All fields: `configuration/FIELDS.md`.

    Raises:
        ValueError: for a name that is no field (with the nearest one), or a bad entry of `kernel_parameters`.
        StrictDataclassError: of huggingface_hub, for a value of the wrong type or out of range, or a contradiction.

    >>> config = DLRConfig(hidden_size=64, kernel_parameters={"time_step_max": 0.05})
    >>> config.vocab_size, config.kernel_parameters["time_step_min"]
    (261, 0.0001)
    """

    model_type = "dlr"
    keys_to_ignore_at_inference = ["cache"]

    vocab_size: int | None = _field(
        None, "number of tokens; None with input_size None means bytes and 5 special tokens (261)", POSITIVE_INTEGER
    )
    input_size: int | None = _field(
        None,
        "features per step of real-valued input_values; exactly one of vocab_size and input_size is set",
        POSITIVE_INTEGER,
    )
    hidden_size: int = _field(128, "width of the hidden states", POSITIVE_INTEGER, "H")
    num_hidden_layers: int = _field(4, "number of blocks", POSITIVE_INTEGER)
    state_size: int = _field(256, "complex poles per kernel", POSITIVE_INTEGER, "N")
    kernel_parameters: dict | None = _field(None, "what only the kernel reads; see below")
    bidirectional: bool = _field(False, "read the sequence in both directions: two kernels per channel")
    num_kernel_channels: int = _field(1, "kernels per hidden channel (channels)", POSITIVE_INTEGER, "C")
    channel_gate_act: str | None = _field(
        None, "activation by which half of twice as many kernels gates the other half (hyper_act)"
    )
    hidden_act: str | None = _field("gelu", "activation after the convolution or attention")
    output_gate: Literal["glu", "geglu"] | None = _field(None, "gate after the output projection (postact)")
    norm_position: Literal["pre", "post"] = _field("pre", "normalise before each mixer, or after each residual")
    norm_type: Literal["layer", "scalar_layer", "batch"] = _field(
        "layer",
        "LayerNorm, the official one with a single scale and shift for all channels, or BatchNorm over the steps that "
        "are not padding",
    )
    residual_type: Literal["plain", "decay"] = _field(
        "plain", "x + y, or sqrt(1 - β²) x + β y with β = i^(-1/2) at layer i (R, D)"
    )
    layer_norm_eps: float | int | None = _field(
        None, "added to the variance; None is 1e-5, and 0 for 'scalar_layer'", NOT_NEGATIVE
    )
    hidden_dropout_prob: float | int = _field(
        0.0, "dropout after the activation and on the residual branch", PROBABILITY
    )
    dropout_type: Literal["element", "channel"] = _field(
        "element", "drop single numbers, or whole channels of a sequence at once"
    )
    classifier_dropout: float | int | None = _field(
        None, "dropout before a head's projection; None is hidden_dropout_prob", PROBABILITY
    )
    pooling: Literal["mean", "last", "first", "max"] = _field(
        "mean", "how a sequence head reduces the steps that are not padding"
    )
    layer_types: list[str] | None = _field(
        None,
        "what mixes the steps in each layer: 'dlr' (any kernel), 'full_attention', or 'local_attention' to the own and "
        "the previous chunk (and the next if bidirectional); None is 'dlr' in all",
    )
    num_attention_heads: int = _field(4, "heads of an attention layer", POSITIVE_INTEGER)
    attention_window: int = _field(1024, "steps per chunk of local attention (chunk_size)", POSITIVE_INTEGER)
    attention_ff_ratio: int = _field(
        0, "width of the two feed-forward layers after attention over hidden_size; 0 has none (attn_ff)", NOT_NEGATIVE
    )
    rope_parameters: dict | None = _field(
        None, "rotary positions of attention layers; None is {'rope_type': 'default', 'rope_theta': 10000.0}"
    )
    initializer_range: float | int | None = _field(
        None,
        "std of Linear and Embedding weights; None is the official one (embeddings N(0,1), Linear as torch)",
        Range(0, open_minimum=True),
    )
    pad_token_id: int | None = _field(None, "token of padding")
    bos_token_id: int | None = _field(None, "token that begins a sequence")
    eos_token_id: int | list[int] | None = _field(None, "token or tokens that end a sequence")
    tie_word_embeddings: bool = _field(False, "a language head shares the weights of the embedding")
    use_cache: bool = _field(False, "return the state as cache from every forward pass; generation always does")

    # Fields of transformers, declared again so that `strict` sees their types.
    id2label: dict | None = None
    label2id: dict | None = None
    problem_type: str | None = None

    # The class of the head that saved `problem_type`; None where a person gave it.
    _problem_type_of = None

    def __post_init__(self, **kwargs):
        tolerated = TOLERATED_KEYS | GenerationConfig._get_default_generation_params().keys()
        extra = [name for name in kwargs if not name.startswith("_") and name not in tolerated]
        # Before unknown names: transformers drops generation parameters, of which max_length is one, without a word.
        for name in kwargs:
            if any(name in specs for specs in KERNEL_FIELDS.values()):
                raise ValueError(
                    f"DLRConfig: only the kernel reads {name!r}; pass it as kernel_parameters={{{name!r}: …}}."
                )
        refuse_unknown_names("DLRConfig", extra, [spec.name for spec in fields(self)])
        if self.vocab_size is None and self.input_size is None:
            self.vocab_size = BYTE_VOCAB_SIZE
        if self.layer_norm_eps is None:
            self.layer_norm_eps = 0.0 if self.norm_type == "scalar_layer" else 1e-5
        names = {saved: name for name, saved in SAVED_LAYER_TYPES.items()}
        types = ["dlr"] * self.num_hidden_layers if self.layer_types is None else self.layer_types
        self.layer_types = [names.get(name, name) for name in types]
        self.rope_parameters = complete_rope_parameters(self.rope_parameters)
        self.kernel_parameters = complete_kernel_parameters(self.kernel_parameters)
        self.id2label, self.label2id = complete_labels(kwargs.pop("num_labels", None), self.id2label, self.label2id)
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """As in transformers; names of classes are ordered, and `id2label` fills `label2id`."""
        if key == "id2label" and value is not None:
            value = ordered_id2label(value)
            super().__setattr__("label2id", inverted(value))
        super().__setattr__(key, value)

    @property
    def num_labels(self) -> int:
        """Outputs of a classification or regression head: as many as there are names in `id2label`."""
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        check_num_labels(num_labels)
        if num_labels != self.num_labels:
            self.id2label = default_id2label(num_labels)

    def problem_type_for(self, head: type) -> str | None:
        """What a ``head`` of this class starts with: the problem type of a folder belongs to the head that saved it.

        One that is given by a person, in the constructor or to `from_pretrained`, belongs to every head.
        """
        mine = self._problem_type_of in (None, *(base.__name__ for base in head.__mro__))
        return self.problem_type if mine else None

    def validate_input(self):
        """Exactly one kind of input."""
        if (self.vocab_size is None) == (self.input_size is None):
            raise ValueError(
                f"exactly one of vocab_size and input_size must be set, got vocab_size={self.vocab_size} and "
                f"input_size={self.input_size}: leave out the one you do not need."
            )
        if self.input_size is not None and self.pad_token_id is not None:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} needs a vocabulary, but input_size={self.input_size} says the input "
                "is real-valued: leave pad_token_id out and pad with an attention_mask."
            )

    def validate_norm(self):
        """A norm over one channel without an epsilon is 0/0."""
        if self.norm_type == "scalar_layer" and self.hidden_size == 1 and self.layer_norm_eps == 0:
            raise ValueError(
                "norm_type='scalar_layer' divides by the deviation over channels: hidden_size must be > 1."
            )

    def validate_labels(self):
        """What a head predicts."""
        id2label = ordered_id2label(self.id2label or {})
        check_label2id(id2label, self.label2id or {})
        check_problem_type(self.problem_type, len(id2label))

    def validate_padding_token(self):
        """The pad token is one of the vocabulary."""
        if self.vocab_size is None or self.pad_token_id is None:
            return
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must lie in 0 … vocab_size-1 = {self.vocab_size - 1}, got {self.pad_token_id}."
            )

    def validate_use_cache(self):
        """A state comes out of every forward pass only where there is one."""
        if not self.use_cache:
            return
        reason = why_no_recurrence(self.kernel_parameters or {}) if "dlr" in (self.layer_types or []) else None
        reason = "bidirectional=True reads the future" if self.bidirectional else reason
        if reason is not None:
            raise ValueError(f"use_cache=True needs a state to return, but {reason}: leave use_cache out.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers; fields among ``kwargs`` are checked and completed like those of the dictionary.

        Kernel parameters are those of the dictionary with the given ones in their place, unless the kernel_type is
        another. Another number of classes gets names, and a problem type, of its own.
        """
        # transformers knows what dtype="auto" is.
        names = {spec.name for spec in fields(cls)} - {"dtype"} | {"num_labels"}
        given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        saved, new = config_dict.get("kernel_parameters") or {}, given.get("kernel_parameters")
        if isinstance(saved, dict) and isinstance(new, dict):
            saved = {"kernel_type": "dlr"} | saved
            if new.get("kernel_type", saved["kernel_type"]) == saved["kernel_type"]:
                given["kernel_parameters"] = saved | new
        returned = super().from_dict(relabelled(config_dict, given) | given, **kwargs)
        config = returned[0] if isinstance(returned, tuple) else returned
        if "problem_type" not in given and config.problem_type is not None:
            config._problem_type_of = next((name for name in config.architectures or () if "For" in name), None)
        return returned

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; `layer_types` by the names that it knows, or None for "dlr" in all layers."""
        output = super().to_dict()
        output.pop("_problem_type_of", None)
        types = output["layer_types"]
        if types is not None:
            all_dlr = all(name == "dlr" for name in types)
            output["layer_types"] = None if all_dlr else [SAVED_LAYER_TYPES.get(name, name) for name in types]
        return output

    def validate_layer_type(self):
        """One known type per layer; this is transformers' own check, which knows no 'dlr'."""
        refuse_unknown_names("layer_types", self.layer_types or [], LAYER_TYPES)
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types must name one type for each of the {self.num_hidden_layers} layers, got "
                f"{len(self.layer_types)}: {self.layer_types}."
            )

    def validate_heads(self):
        """Where a layer attends, heads share the channels evenly, and rotary positions turn pairs of them."""
        attends = set(self.layer_types or []) - {"dlr"}
        if attends and self.hidden_size % (2 * self.num_attention_heads):
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
