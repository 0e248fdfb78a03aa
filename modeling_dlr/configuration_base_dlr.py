"""`BaseConfig`: what the configurations of all families of models share.

It checks the version of transformers, the types and ranges of fields, labels, special tokens, and names that are not
fields. This file imports no torch.
"""

import transformers

# As in pyproject.toml. Checked before the other imports, because an older transformers lacks some of them.
MINIMUM_TRANSFORMERS, FIRST_UNTESTED_TRANSFORMERS = "5.24", "5.25"


def _release(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:2]]


if _release(transformers.__version__) < _release(MINIMUM_TRANSFORMERS):
    raise ImportError(
        f"This model needs transformers >= {MINIMUM_TRANSFORMERS}, but {transformers.__version__} is installed: "
        f'pip install "transformers>={MINIMUM_TRANSFORMERS},<{FIRST_UNTESTED_TRANSFORMERS}".'
    )

# isort: split
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import field, fields
from numbers import Integral
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, get_args

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, logging

from .kernel_parameters_dlr import SIZE, check_dtype, config_field, did_you_mean, one_line, validator

logger = logging.get_logger(__name__)

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)
DEFAULT_NUM_LABELS = 2
# Losses and metrics ignore labels of this class.
IGNORED_CLASS = -100
# config.json holds each name of a class twice. With a million classes, it has about a quarter of the largest size.
MAX_NUM_LABELS = 1_000_000
MAX_FILE_SIZE = 2**28
# Levels of nesting in config.json: the functions that read and write it are recursive.
MAX_DEPTH = 32

# Names that transformers reads from a configuration, or writes into it, without declaring them as fields.
UNDECLARED_NAMES = frozenset({
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path",
    "num_labels", "output_attentions", "quantization_config", "torch_dtype",
})  # fmt: skip

# Those of them that are also arguments of `from_pretrained`, with another meaning.
LOADING_ARGUMENTS = frozenset({"auto_map", "custom_pipelines", "model_type", "name_or_path", "quantization_config"})

# Arguments of `from_dict` that are not fields.
OPTIONS_OF_FROM_DICT = frozenset({"gguf_file", "return_unused_kwargs"})

# Private attributes that transformers sets on a configuration, and that its class does not declare.
PRIVATE = frozenset({"_commit_hash", "_heterogeneity_spec", "_name_or_path", "_post_init_done"})

# A name with at least this similarity to a field is certainly misspelt. "bos_token" and "vocab_file" have less.
CERTAINLY_MISSPELT = 0.87


def check_num_labels(num_labels: Any) -> None:
    """Raise ValueError unless ``num_labels`` is a number of classes, as an integer of Python or numpy."""
    integer = isinstance(num_labels, Integral) and not isinstance(num_labels, bool)
    if not integer or not 1 <= int(num_labels) <= MAX_NUM_LABELS:
        raise ValueError(f"num_labels must be an integer >= 1 and <= {MAX_NUM_LABELS}, got {short(num_labels)}.")


def default_id2label(num_labels: int) -> dict[int, str]:
    """The names that transformers gives to unnamed classes."""
    return {label: f"LABEL_{label}" for label in range(num_labels)}


def ordered_id2label(id2label: Mapping[Any, Any]) -> dict[int, str]:
    """``id2label`` with integers as keys, in their order. JSON holds them as strings, sorted as such.

    Raises:
        ValueError: if the ids are not 0, 1, … without a gap, or the names are not different strings.

    >>> ordered_id2label({"1": "yes", "0": "no"})
    {0: 'no', 1: 'yes'}
    """
    names = _ordered_by_class(id2label.items())
    if names is None:
        raise ValueError(
            f"id2label must name the classes 0, 1, …, got the ids {short(list(id2label))}: begin at 0 and leave no gap."
        )
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"id2label must name every class by a string, got {short(names)}.")
    if len(set(names.values())) < len(names):
        raise ValueError(f"id2label gives two classes one name, got {short(names)}: give each a name of its own.")
    return names


def _ordered_by_class(pairs: Iterable[tuple[Any, Any]]) -> dict[int, Any] | None:
    """A dictionary of pairs (class, value), ordered by class; None if the classes are not 0, 1, … without a gap."""
    pairs = list(pairs)
    values = {_class_id(label): value for label, value in pairs}
    if not pairs or len(values) < len(pairs) or values.keys() != set(range(len(pairs))):
        return None
    return {label: values[label] for label in range(len(pairs))}


def _class_id(label: Any) -> int | None:
    """The integer that ``label`` is or spells; None if it is neither."""
    if isinstance(label, str) and label.isascii() and label.isdigit() and len(label) < 10:
        return int(label)
    return int(label) if isinstance(label, Integral) and not isinstance(label, bool) else None


def with_integer_ids(label2id: Mapping[Any, Any]) -> dict[Any, Any]:
    """``label2id`` with Python's integers in place of ids that are strings, or integers of numpy."""
    return {name: label if _class_id(label) is None else _class_id(label) for name, label in label2id.items()}


def inverted(id2label: Mapping[int, str]) -> dict[str, int]:
    """``label2id`` of ``id2label``."""
    return {name: label for label, name in id2label.items()}


def complete_labels(num_labels: Any, id2label: Any, label2id: Any) -> tuple[dict[int, str], dict[str, int]]:
    """``id2label`` and ``label2id``, from whichever of the three is given; two classes if none is.

    Raises:
        ValueError: for an invalid value, or a contradiction.

    >>> complete_labels(None, None, {"no": 0, "yes": 1})
    ({0: 'no', 1: 'yes'}, {'no': 0, 'yes': 1})
    """
    if num_labels is not None:
        check_num_labels(num_labels)
    if id2label is None and label2id is None:
        id2label = default_id2label(DEFAULT_NUM_LABELS if num_labels is None else num_labels)
    elif id2label is None:
        id2label = _ordered_by_class((label, name) for name, label in label2id.items())
        if id2label is None:
            raise ValueError(f"label2id must map one name to each of the classes 0, 1, …, got {short(label2id)}.")
    id2label = ordered_id2label(id2label)
    if num_labels not in (None, len(id2label)):
        raise ValueError(
            f"num_labels={num_labels} contradicts the {len(id2label)} names of classes: leave num_labels out."
        )
    if label2id is not None:
        check_label2id(id2label, label2id)
    return id2label, inverted(id2label)


def check_label2id(id2label: Mapping[int, str], label2id: Mapping[Any, Any]) -> None:
    """Raise ValueError unless ``label2id`` is the inverse of ``id2label``."""
    if with_integer_ids(label2id) != inverted(id2label):
        raise ValueError(
            f"label2id must be the inverse of id2label, got {short(label2id)} and {short(id2label)}: leave label2id "
            "out, it follows from id2label."
        )


def check_problem_type(problem_type: Any, num_labels: int) -> None:
    """Raise ValueError unless a head with ``num_labels`` outputs can have this problem type."""
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type must be None or one of {list(PROBLEM_TYPES)}, got {short(problem_type)}.")
    if problem_type == "single_label_classification" and num_labels == 1:
        raise ValueError(
            "problem_type='single_label_classification' needs num_labels > 1, got 1: leave problem_type out for a "
            "regression."
        )


def without_outdated_labels(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``saved`` fields without those that labels ``given`` while loading replace.

    ``id2label`` decides where the saved fields contradict each other. A new number of classes also removes a saved
    problem type that is the default for the old number: regression for one output, single-label for several.
    """
    fields = dict(saved)
    if isinstance(fields.get("id2label"), dict):
        fields = {name: value for name, value in fields.items() if name not in ("num_labels", "label2id")}
    old, new = _num_labels_of(fields) or DEFAULT_NUM_LABELS, _num_labels_of(given)
    resized = new not in (None, old)
    if resized or given.get("id2label") is not None or given.get("label2id") is not None:
        for name in ("num_labels", "id2label", "label2id"):
            fields.pop(name, None)
    default = "regression" if old == 1 else "single_label_classification"
    if resized and fields.get("problem_type") == default:
        del fields["problem_type"]
    return fields


def _num_labels_of(fields: Mapping[str, Any]) -> Any:
    """The number of classes that the fields name or state; None if they do neither."""
    names = fields.get("id2label") or fields.get("label2id")
    return len(names) if isinstance(names, dict) else fields.get("num_labels")


def check_readable(config_dict: Any, model_type: str) -> None:
    """Raise ValueError unless ``config_dict`` is a dictionary for this type of model, not nested too deeply."""
    if not isinstance(config_dict, dict):
        raise ValueError(f"A configuration must be one JSON object, got {short(config_dict)}.")
    if depth_exceeds(config_dict, MAX_DEPTH):
        raise ValueError(f"A configuration must be nested in at most {MAX_DEPTH} levels: this one is deeper.")
    for dtype in (entries["dtype"] for entries in _dictionaries(config_dict) if "dtype" in entries):
        if not isinstance(dtype, (str, int, dict, type(None))):
            raise ValueError(f"every dtype must be a name, got {short(dtype)}: take it out.")
    other = config_dict.get("model_type", model_type)
    if other != model_type:
        raise ValueError(
            f"This is a model of the type {short(other)}, not {model_type!r}: use AutoConfig and AutoModel."
        )


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether dictionaries and lists are nested in more than ``limit`` levels."""
    level = [value]
    for _ in range(limit):
        level = [item for container in level for item in _items(container)]
    return any(isinstance(item, (dict, list, tuple)) for item in level)


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, (list, tuple)) else ()


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """A dictionary and all dictionaries in it: transformers converts a dtype in each of them."""
    yield value
    for item in value.values():
        if isinstance(item, dict):
            yield from _dictionaries(item)


class BaseConfig(PreTrainedConfig):
    """The base class of the configurations of all families."""

    vocab_size: int | None = config_field(None, "number of tokens", SIZE)
    pad_token_id: int | None = config_field(None, "padding token")
    bos_token_id: int | None = config_field(None, "token at the beginning of a sequence")
    eos_token_id: int | list[int] | None = config_field(None, "token or tokens at the end of a sequence")

    # Fields of transformers, declared again with types that `strict` can check.
    id2label: dict | None = None
    label2id: dict | None = None
    problem_type: ProblemType | None = None
    architectures: list[str] | None = None
    transformers_version: str | None = None
    dtype: Any = field(default=None, metadata={"validator": [validator(check_dtype)]})
    output_hidden_states: bool | None = False
    return_dict: bool | None = True
    is_encoder_decoder: bool = False

    # The class of the head that saved `problem_type`; None if it was given.
    _problem_type_of = None

    def __post_init__(self, **kwargs):
        for name in kwargs.keys() & self.attribute_map.keys():
            setattr(self, name, kwargs.pop(name))
        for name in kwargs:
            if not name.startswith("_"):
                self._check_name(name)
        check_dtype(kwargs.get("torch_dtype"))
        self.id2label, self.label2id = complete_labels(kwargs.pop("num_labels", None), self.id2label, self.label2id)
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """As in transformers. Ids of classes become integers, and `id2label` also sets `label2id`."""
        if value is not None and key in ("id2label", "label2id"):
            value = ordered_id2label(value) if key == "id2label" else with_integer_ids(value)
        super().__setattr__(key, value)
        if key == "id2label" and value is not None:
            self.label2id = inverted(value)

    @property
    def num_labels(self) -> int:
        """Outputs of a classification or regression head: the number of names in `id2label`."""
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        check_num_labels(num_labels)
        if num_labels != self.num_labels:
            self.id2label = default_id2label(num_labels)

    def copy_for(self, head: type) -> Any:
        """A copy for a new head of the class ``head``, whose labels set the problem type of this copy only.

        A saved problem type applies to heads of the class that saved it and its subclasses. One that is given to the
        constructor or to `from_pretrained` applies to every head.
        """
        config = deepcopy(self)
        if self._problem_type_of not in (None, *(base.__name__ for base in head.__mro__)):
            config.problem_type = None
        config.architectures, config._problem_type_of = [head.__name__], head.__name__
        return config

    def to_dict(self) -> dict[str, Any]:
        """As in transformers. A problem type that another class of head saved is left out."""
        output = super().to_dict()
        head = output.pop("_problem_type_of", None)
        if head not in (None, *(output.get("architectures") or [head])):
            output["problem_type"] = None
        return output

    @classmethod
    def known_names(cls) -> frozenset[str]:
        """The names that the constructor accepts: fields, their aliases, and names that transformers reads."""
        return UNDECLARED_NAMES | cls.attribute_map.keys() | {spec.name for spec in fields(cls)}

    @classmethod
    def _hint(cls, name: str) -> str | None:
        """What an unknown name means, or the nearest known name; None if there is neither."""
        if name in GenerationConfig._get_default_generation_params():
            return "it belongs to generation: set it in the model's generation_config."
        return did_you_mean(name, cls.known_names())

    @classmethod
    def _certainly_meant(cls, name: str) -> bool:
        """Whether an unknown name is certainly meant for the configuration, and not for a model or a tokenizer."""
        return did_you_mean(name, cls.known_names(), CERTAINLY_MISSPELT) is not None

    @classmethod
    def _check_name(cls, name: str) -> None:
        """Raise ValueError for a name that the constructor does not accept."""
        known = cls.known_names()
        if name not in known:
            hint = cls._hint(name) or f"known names are {sorted(known)}."
            raise ValueError(f"{cls.__name__}: unknown name {short(name)}; {hint}")

    @classmethod
    def _split(cls, config_dict: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The entries of a dictionary with known names, and those with other names, which are kept.

        Both leave out private attributes and, as transformers does, parameters of generation, which are read from
        generation_config.json.

        Raises:
            ValueError: for a name or a value that cannot be kept.
        """
        known = {name: value for name, value in config_dict.items() if name in cls.known_names()}
        if known.get("quantization_config", {}) is None:
            del known["quantization_config"]  # transformers takes even None to mean that the weights are quantized
        ignored = GenerationConfig._get_default_generation_params().keys() | PRIVATE
        ignored |= {name for name in dir(cls) if name.startswith("_") and not name.startswith("__")}
        others = {name: value for name, value in config_dict.items() if name not in known.keys() | ignored}
        cls._check_others(others)
        return known, others

    @classmethod
    def _check_others(cls, others: dict[str, Any]) -> None:
        """Refuse names and values that config.json cannot hold besides the fields.

        Raises:
            ValueError: for the name of a method, or a value that is not made of strings, numbers, lists and
                dictionaries.
        """
        for name, value in others.items():
            if name.startswith("__") or name == "attribute_map" or callable(getattr(cls, name, None)):
                raise ValueError(f"{short(name)} is a name of {cls.__name__} itself: rename it, or take it out.")
            if depth_exceeds(value, MAX_DEPTH):
                raise ValueError(f"{short(name)} is nested in more than {MAX_DEPTH} levels: take it out.")
            try:
                json.dumps(value, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{short(name)} cannot be written as JSON ({error}): take it out.") from None

    @classmethod
    def _warn_of(cls, others: Iterable[str]) -> None:
        """Warn once about names in a file that are kept but not read. It lists at most eight, with hints."""
        names = sorted(others)
        hints = [(short(name), cls._hint(name)) for name in names[:8]]
        shown = [f"{name} ({hint.rstrip('.?')})" if hint else name for name, hint in hints]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        logger.warning_once(f"{cls.__name__} keeps names of a file that it does not read: {', '.join(shown)}{more}.")

    def set_auto_map(self, auto_classes: Mapping[str, type]) -> None:
        """Name the file and class for each Auto class, by which transformers loads a folder with code."""
        classes = {"AutoConfig": type(self), **auto_classes}
        self.auto_map = {name: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for name, cls in classes.items()}

    def validate_labels(self):
        """Labels and the problem type do not contradict each other."""
        id2label = ordered_id2label(self.id2label or {})
        check_label2id(id2label, self.label2id or {})
        check_problem_type(self.problem_type, len(id2label))

    def validate_special_tokens(self):
        """Special tokens are in the vocabulary."""
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and self.vocab_size is None:
                    raise ValueError(
                        f"{name}={token} needs a vocabulary, but vocab_size is None: leave {name} out, and pass an "
                        "attention_mask for padding."
                    )
                if token is not None and not 0 <= token < (self.vocab_size or 0):
                    raise ValueError(
                        f"{name} must lie in 0 … vocab_size-1 = {(self.vocab_size or 0) - 1}, got {token}: set "
                        "vocab_size to the length of the tokenizer."
                    )

    def validate_direction(self):
        """The model is not an encoder with a decoder."""
        if self.is_encoder_decoder:
            raise ValueError("is_encoder_decoder must be False, got True: leave it out. The model has no second part.")

    def validate_undeclared(self):
        """Values that transformers reads without declaring them have the types that it expects."""
        mappings = dict.fromkeys(("auto_map", "custom_pipelines", "quantization_config"), dict)
        attention = dict.fromkeys(("attn_implementation", "_attn_implementation"), (str, dict))
        for name, kind in {**mappings, **attention, "_output_attentions": bool}.items():
            value = getattr(self, name, None)
            if value is not None and not isinstance(value, kind) and getattr(value, "to_dict", None) is None:
                raise ValueError(f"{name.removeprefix('_')} cannot be {short(value)}: leave it out.")

    def validate_others(self):
        """Attributes that are not fields can be saved and loaded."""
        names = self.__dict__.keys() - self.known_names()
        others = {name for name in names if not name.startswith("_") or name.startswith("__")}
        if others:
            self._check_others({name: value for name, value in self.to_dict().items() if name in others})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Any:
        """As in transformers, with limits.

        Raises:
            ValueError: for a file that is too large, nested too deeply, or not one JSON object.
        """
        path = Path(pretrained_model_name_or_path)
        for file in (path, path / (kwargs.get("subfolder") or "") / CONFIG_NAME):
            if file.is_file() and file.stat().st_size > MAX_FILE_SIZE:
                raise ValueError(f"{file} has {file.stat().st_size} bytes, and may have at most {MAX_FILE_SIZE}.")
        try:
            return super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"{path} is not one JSON object of at most {MAX_DEPTH} levels.") from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers. Fields among ``kwargs`` replace those of the dictionary, and are checked like them.

        Another number of classes also replaces their names, and a problem type that was the default of the old number.
        Names of the dictionary that are not fields are kept, and a warning lists them. An unknown name among ``kwargs``
        is refused. Auto classes and models also pass arguments for other objects: of these, a name is refused only if
        it is certainly meant for the configuration.

        Raises:
            ValueError: for a field that is refused, the dictionary of another type of model, or an unknown argument.
        """
        check_readable(config_dict, cls.model_type)
        saved, others = cls._split(config_dict)
        others |= {name: kwargs.pop(name) for name in others.keys() & kwargs.keys()}
        passed_on = bool(kwargs.get("return_unused_kwargs")) or "name_or_path" in kwargs
        for name in sorted(kwargs.keys() - OPTIONS_OF_FROM_DICT):
            if not name.startswith("_") and (not passed_on or cls._certainly_meant(name)):
                cls._check_name(name)
        given = {name: kwargs.pop(name) for name in cls.known_names() & kwargs.keys() - LOADING_ARGUMENTS}
        given = {"dtype": given.pop("torch_dtype")} | given if "torch_dtype" in given else given
        if given.get("dtype") == "auto":
            del given["dtype"]  # keep the type of the saved weights
        saved, given = ({cls.attribute_map.get(n, n): value for n, value in each.items()} for each in (saved, given))
        try:
            returned = super().from_dict(cls._merged(saved, given), **kwargs)
            config = returned[0] if isinstance(returned, tuple) else returned
            config.__dict__.update(others)
            config.validate()
        except StrictDataclassError as error:
            raise ValueError(one_line(error)) from error
        if "problem_type" not in given and config.problem_type is not None:
            config._problem_type_of = next((name for name in config.architectures or () if "For" in name), None)
        if others:
            cls._warn_of(others)
        return returned

    @classmethod
    def _merged(cls, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """The ``saved`` fields of a configuration, with those ``given`` while loading in their place."""
        return without_outdated_labels(saved, given) | given

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """As in transformers. An existing file stays unchanged where the configuration cannot be written.

        Raises:
            ValueError: for more bytes than can be loaded.
        """
        written = self.to_json_string(use_diff=use_diff).encode()
        if len(written) > MAX_FILE_SIZE:
            raise ValueError(f"The configuration has {len(written)} bytes, and at most {MAX_FILE_SIZE} can be loaded.")
        Path(json_file_path).write_bytes(written)
