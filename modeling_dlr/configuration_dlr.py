"""`DLRConfig`: every field of a DLR model, with its range and meaning, checked when the configuration is born.

This file imports no torch. Field annotations must stay real types (no postponed annotations): `strict` reads them.
"""

# First, since an older transformers lacks what comes after it.
from .versions_dlr import TRANSFORMERS_FLOOR  # noqa: F401

# isort: split
import os
from collections.abc import Callable
from dataclasses import field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, logging

from .kernel_parameters_dlr import (
    MAX_FLOAT,
    NOT_NEGATIVE,
    PROBABILITY,
    SIZE,
    Range,
    complete_kernel_parameters,
    refuse_unknown_names,
    why_no_recurrence,
)
from .labels_dlr import (
    ProblemType,
    check_label2id,
    check_num_labels,
    check_problem_type,
    complete_labels,
    default_id2label,
    inverted,
    ordered_id2label,
    relabelled,
    with_numbers,
)
from .names_dlr import (
    LEFT_TO_TRANSFORMERS,
    MAX_DEPTH,
    OF_TRANSFORMERS,
    check_kept,
    check_readable,
    check_undeclared,
    one_line,
    parted,
    refuse,
    refuse_misspelt,
    what_is_kept,
)

# Bytes and five special tokens: what `DLRConfig()` reads when neither vocab_size nor input_size is given.
BYTE_VOCAB_SIZE = 261

LAYER_TYPES = ("dlr", "full_attention", "local_attention")

# What config.json says instead: transformers also reads it with its base class (to resume training, to find a
# tokenizer), which refuses layer types other than its own.
SAVED_LAYER_TYPES = {"dlr": "linear_attention", "local_attention": "chunked_attention"}

# The names of torch's types of real numbers.
DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
DTYPES += ("float8_e5m2fnuz", "float8_e8m0fnu")

# A kernel of more taps than this fits into no memory: it has a number for each tap and channel.
MAX_TAPS = 2**30

# Bytes of config.json: a million classes, of which it keeps each name twice, take a quarter of it.
MAX_FILE_SIZE = 2**28

logger = logging.get_logger(__name__)


def config_field(default: Any, meaning: str, allowed: Range | None = None, symbol: str = "") -> Any:
    """A field of `DLRConfig`: its default, what it means, what it may hold, and its symbol in the papers."""
    validators: list[Callable[[Any], None]] = [] if allowed is None else [_checker(allowed)]
    return field(
        default=default,
        metadata={"validator": validators, "meaning": meaning, "range": allowed, "symbol": symbol},
    )


def _checker(allowed: Callable[[Any], None]) -> Callable[[Any], None]:
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
        raise ValueError(f"rope_parameters['rope_type'] must be 'default', got {short(rope_type)}: leave it out.")
    if isinstance(theta, bool) or not isinstance(theta, (float, int)) or not 0 < theta <= MAX_FLOAT:
        raise ValueError(f"rope_parameters['rope_theta'] must be a number > 0, got {short(theta)}.")
    return complete


def check_dtype(dtype: Any) -> None:
    """Raise ValueError unless ``dtype`` is None, or a type of real numbers of torch or its name."""
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
    if name is not None and name not in DTYPES:
        raise ValueError(f"dtype must be one of {list(DTYPES[:4])}, got {short(dtype)}.")


# Fields that are completed whenever they are set.
COMPLETE: dict[str, Callable[[Any], Any]] = {
    "id2label": ordered_id2label,
    "label2id": with_numbers,
    "kernel_parameters": complete_kernel_parameters,
    "rope_parameters": complete_rope_parameters,
}


class FamilyConfig(PreTrainedConfig):
    """What the configurations of every family of models do alike: they know their names and bound their files."""

    @classmethod
    def known_names(cls) -> frozenset[str]:
        """The names that the constructor takes: the fields, and what transformers reads without declaring it."""
        return OF_TRANSFORMERS | {spec.name for spec in fields(cls)}

    def validate_labels(self):
        """What a head predicts."""
        id2label = ordered_id2label(self.id2label or {})
        check_label2id(id2label, self.label2id or {})
        check_problem_type(self.problem_type, len(id2label))

    def validate_kept(self):
        """What the configuration holds beside its fields can be written, and read again."""
        check_undeclared(self)
        names = self.__dict__.keys() - self.known_names()
        kept = {name for name in names if not name.startswith("_") or name.startswith("__")}
        if kept:
            check_kept({name: value for name, value in self.to_dict().items() if name in kept}, type(self))

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Any:
        """As in transformers, within bounds.

        Raises:
            ValueError: for a file that is too large, too deep, or holds something else than one JSON object.
        """
        path = Path(pretrained_model_name_or_path)
        for file in (path, path / (kwargs.get("subfolder") or "") / CONFIG_NAME):
            if file.is_file() and file.stat().st_size > MAX_FILE_SIZE:
                raise ValueError(
                    f"{file} has {file.stat().st_size} bytes: a configuration has at most {MAX_FILE_SIZE}."
                )
        try:
            return super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(
                f"The configuration of {path} is not one JSON object of at most {MAX_DEPTH} levels."
            ) from error

    @classmethod
    def _take_fields(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take those ``arguments`` of `from_dict` that are fields out of the others."""
        given = {name: arguments.pop(name) for name in cls.known_names() & arguments.keys() - LEFT_TO_TRANSFORMERS}
        given = {"dtype": given.pop("torch_dtype")} | given if "torch_dtype" in given else given
        if given.get("dtype") == "auto":
            del given["dtype"]  # the type of the saved weights, which the file says
        return given

    @classmethod
    def _load(cls, values: dict[str, Any], kept: dict[str, Any], arguments: dict[str, Any]) -> tuple[Any, Any]:
        """What `from_dict` of transformers returns, and the configuration in it, with what is ``kept``, checked.

        Raises:
            ValueError: for a field that is refused.
        """
        try:
            returned = super().from_dict(values, **arguments)
            config = returned[0] if isinstance(returned, tuple) else returned
            config.__dict__.update(kept)
            config.validate()
        except StrictDataclassError as error:
            raise ValueError(one_line(error)) from error
        return returned, config

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """As in transformers; a file that is there stays as it is where nothing can be written, or read again.

        Raises:
            ValueError: for more than could be loaded.
        """
        written = self.to_json_string(use_diff=use_diff).encode()
        if len(written) > MAX_FILE_SIZE:
            raise ValueError(f"The configuration has {len(written)} bytes, and at most {MAX_FILE_SIZE} can be loaded.")
        Path(json_file_path).write_bytes(written)


@strict
class DLRConfig(FamilyConfig):
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
    kernel_parameters: dict | None = config_field(None, "what only the kernel reads; see below")
    bidirectional: bool = config_field(False, "read the sequence in both directions: two kernels per channel")
    num_kernel_channels: int = config_field(1, "kernels per hidden channel (channels)", SIZE, "C")
    channel_gate_act: str | None = config_field(
        None, "activation by which half of twice as many kernels gates the other half (hyper_act)"
    )
    hidden_act: str | None = config_field("gelu", "activation after the convolution or attention")
    output_gate: Literal["glu", "geglu"] | None = config_field(None, "gate after the output projection (postact)")
    norm_position: Literal["pre", "post"] = config_field("pre", "normalise before each mixer, or after each residual")
    norm_type: Literal["layer", "scalar_layer", "batch"] = config_field(
        "layer",
        "LayerNorm, the official one with a single scale and shift for all channels, or BatchNorm over the steps that "
        "are not padding (in each process by itself, of its own batches)",
    )
    residual_type: Literal["plain", "decay"] = config_field(
        "plain", "x + y, or sqrt(1 - β²) x + β y with β = i^(-1/2) at layer i (R, D)"
    )
    layer_norm_eps: float | int | None = config_field(
        None, "added to the variance; None is 1e-5, and 0 for 'scalar_layer'", NOT_NEGATIVE
    )
    hidden_dropout_prob: float | int = config_field(
        0.0, "dropout after the activation and on the residual branch", PROBABILITY
    )
    dropout_type: Literal["element", "channel"] = config_field(
        "element", "drop single numbers, or whole channels of a sequence at once"
    )
    classifier_dropout: float | int | None = config_field(
        None, "dropout before a head's projection; None is hidden_dropout_prob", PROBABILITY
    )
    pooling: Literal["mean", "last", "first", "max"] = config_field(
        "mean", "how a sequence head reduces the steps that are not padding"
    )
    layer_types: list[str] | None = config_field(
        None,
        "what mixes the steps in each layer: 'dlr' (any kernel), 'full_attention', or 'local_attention' to the own and "
        "the previous chunk (and the next if bidirectional); None is 'dlr' in all",
    )
    num_attention_heads: int = config_field(4, "heads of an attention layer", SIZE)
    attention_window: int = config_field(1024, "steps per chunk of local attention (chunk_size)", SIZE)
    attention_ff_ratio: int = config_field(
        0, "width of the two feed-forward layers after attention over hidden_size; 0 has none (attn_ff)", Range(0, 1000)
    )
    rope_parameters: dict | None = config_field(
        None, "rotary positions of attention layers; None is {'rope_type': 'default', 'rope_theta': 10000.0}"
    )
    initializer_range: float | int | None = config_field(
        None,
        "std of Linear and Embedding weights; None is the official one (embeddings N(0,1), Linear as torch)",
        Range(0, open_minimum=True),
    )
    pad_token_id: int | None = config_field(None, "token of padding")
    bos_token_id: int | None = config_field(None, "token that begins a sequence")
    eos_token_id: int | list[int] | None = config_field(None, "token or tokens that end a sequence")
    tie_word_embeddings: bool = config_field(False, "a language head shares the weights of the embedding")
    use_cache: bool = config_field(False, "return the state as cache from every forward pass; generation always does")

    # Fields of transformers, declared again so that `strict` sees their types.
    id2label: dict | None = None
    label2id: dict | None = None
    problem_type: ProblemType | None = None
    architectures: list[str] | None = None
    transformers_version: str | None = None
    dtype: Any = field(default=None, metadata={"validator": [_checker(check_dtype)]})
    output_hidden_states: bool | None = False
    return_dict: bool | None = True
    is_encoder_decoder: bool = False

    # The class of the head that saved `problem_type`; None where a person gave it.
    _problem_type_of = None

    def __post_init__(self, **kwargs):
        for name in kwargs:
            if name not in self.known_names() and not name.startswith("_"):
                refuse(name, self.known_names())
        check_dtype(kwargs.get("torch_dtype"))
        if self.vocab_size is None and self.input_size is None:
            self.vocab_size = BYTE_VOCAB_SIZE
        if self.layer_norm_eps is None:
            self.layer_norm_eps = 0.0 if self.norm_type == "scalar_layer" else 1e-5
        names = {saved: name for name, saved in SAVED_LAYER_TYPES.items()}
        types = ["dlr"] * self.num_hidden_layers if self.layer_types is None else self.layer_types
        self.layer_types = [names.get(name, name) for name in types]
        self.rope_parameters = self.rope_parameters or {}
        self.kernel_parameters = self.kernel_parameters or {}
        self.id2label, self.label2id = complete_labels(kwargs.pop("num_labels", None), self.id2label, self.label2id)
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """As in transformers; what is left out of a dictionary is filled in, and `id2label` fills `label2id`."""
        if key in COMPLETE and value is not None:
            value = COMPLETE[key](value)
        super().__setattr__(key, value)
        if key == "id2label" and value is not None:
            self.label2id = inverted(value)

    @property
    def num_labels(self) -> int:
        """Outputs of a classification or regression head: as many as there are names in `id2label`."""
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        check_num_labels(num_labels)
        if num_labels != self.num_labels:
            self.id2label = default_id2label(num_labels)

    def problem_type_for(self, head: type) -> ProblemType | None:
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

    def validate_norm(self):
        """A norm over one channel without an epsilon is 0/0."""
        if self.norm_type == "scalar_layer" and self.hidden_size == 1 and self.layer_norm_eps == 0:
            raise ValueError(
                "norm_type='scalar_layer' divides by the deviation over channels: hidden_size must be > 1."
            )

    def validate_special_tokens(self):
        """Special tokens are of the vocabulary."""
        size = self.vocab_size
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            given = getattr(self, name)
            for token in given if isinstance(given, list) else [given]:
                if token is not None and size is None:
                    raise ValueError(
                        f"{name}={token} needs a vocabulary, but input_size={self.input_size} says the input is "
                        f"real-valued: leave {name} out and pad with an attention_mask."
                    )
                if token is not None and not 0 <= token < (size or 0):
                    raise ValueError(
                        f"{name} must lie in 0 … vocab_size-1 = {(size or 0) - 1}, got {token}: set vocab_size to the "
                        "length of the tokenizer."
                    )

    def validate_direction(self):
        """There is an encoder or a decoder, not both."""
        if self.is_encoder_decoder:
            raise ValueError(
                "is_encoder_decoder=True needs an encoder and a decoder, but DLR is one of them: leave it out."
            )

    def validate_dictionaries(self):
        """What was changed inside of a dictionary after it was set."""
        complete_rope_parameters(self.rope_parameters)
        complete_kernel_parameters(self.kernel_parameters)

    def validate_taps(self):
        """The taps of SGConv double with each scale."""
        scales = (self.kernel_parameters or {}).get("num_scales")
        if scales is not None and self.state_size * 2 ** (scales - 1) > MAX_TAPS:
            raise ValueError(
                f"state_size · 2^(num_scales-1) taps must be <= {MAX_TAPS}, got {self.state_size} · 2^{scales - 1}: "
                "lower num_scales to the length of the sequences."
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
        another. Another number of classes gets names, and a problem type, of its own. Names of the dictionary that are
        no fields are kept, and a warning lists them; an unknown one among ``kwargs`` is refused, unless the caller
        wants those back that no configuration knows.

        Raises:
            ValueError: for a field that is refused, the dictionary of another kind of model, or a misspelt argument.
        """
        check_readable(config_dict, cls.model_type)
        read, kept = parted(config_dict, cls, cls.known_names())
        kept |= {name: kwargs.pop(name) for name in kept.keys() & kwargs.keys()}
        refuse_misspelt(kwargs, cls.known_names())
        given = cls._take_fields(kwargs)
        saved, new = read.get("kernel_parameters") or {}, given.get("kernel_parameters")
        if isinstance(saved, dict) and isinstance(new, dict):
            saved = {"kernel_type": "dlr"} | saved
            if new.get("kernel_type", saved["kernel_type"]) == saved["kernel_type"]:
                given["kernel_parameters"] = saved | new
        returned, config = cls._load(relabelled(read, given) | given, kept, kwargs)
        if "problem_type" not in given and config.problem_type is not None:
            config._problem_type_of = next((name for name in config.architectures or () if "For" in name), None)
        if kept:
            logger.warning_once(what_is_kept(kept, cls.known_names()))
        return returned

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; `layer_types` by the names that it knows, or None for "dlr" in all layers.

        A backbone or a language model does not pass on the problem type of the head whose folder it was loaded from.
        """
        output = super().to_dict()
        head = output.pop("_problem_type_of", None)
        if head not in (None, *(output.get("architectures") or [head])):
            output["problem_type"] = None
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
                f"{len(self.layer_types)}: {short(self.layer_types)}."
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
