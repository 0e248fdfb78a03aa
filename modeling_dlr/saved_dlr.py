"""What a file with a `DLRConfig` may hold: its fields, and names of other tools, which are kept as they are.

This file imports no torch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from reprlib import repr as short
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from .names_dlr import hint

# Names that transformers reads, or writes into config.json, without declaring them.
OF_TRANSFORMERS = frozenset({
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path",
    "num_labels", "output_attentions", "quantization_config", "torch_dtype",
})  # fmt: skip

# Those of them that are no fields of a model: where they are given to `from_pretrained`, they may mean something else.
LEFT_TO_TRANSFORMERS = frozenset({"auto_map", "custom_pipelines", "model_type", "name_or_path", "quantization_config"})

# What transformers sets of itself on a configuration, beside the attributes of its class.
PRIVATE = frozenset({"_commit_hash", "_heterogeneity_spec", "_name_or_path", "_post_init_done"})

# config.json is read and written by functions that call themselves at each level.
MAX_DEPTH = 32


def check_readable(config_dict: Any, model_type: str) -> None:
    """Refuse what is no dictionary, or is that of another kind of model.

    Raises:
        ValueError: saying so.
    """
    if not isinstance(config_dict, dict):
        raise ValueError(f"A configuration must be one JSON object, got {short(config_dict)}.")
    if depth_exceeds(config_dict, MAX_DEPTH):
        raise ValueError(f"A configuration must be nested in at most {MAX_DEPTH} levels: this one is deeper.")
    for dtype in (fields["dtype"] for fields in _dictionaries(config_dict) if "dtype" in fields):
        if not isinstance(dtype, (str, int, dict, type(None))):
            raise ValueError(f"dtype must be a name wherever it stands, got {short(dtype)}: take it out.")
    other = config_dict.get("model_type", model_type)
    if other != model_type:
        raise ValueError(
            f"This is a model of the type {short(other)}, not {model_type!r}: use AutoConfig and AutoModel."
        )


def parted(config_dict: Mapping[str, Any], owner: type, known: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the class ``owner`` reads of a dictionary, its ``known`` names, and what it only keeps.

    Parameters of generation are in neither, as in transformers: they are read from generation_config.json. Nor is what
    transformers notes of its own work, in names with an underscore.

    Raises:
        ValueError: for a name or a value that cannot be kept.
    """
    generation = GenerationConfig._get_default_generation_params().keys()
    read = {name: value for name, value in config_dict.items() if name in known}
    if read.get("quantization_config", {}) is None:
        del read["quantization_config"]  # that it is there says to transformers that the weights are quantized
    kept = {name: value for name, value in config_dict.items() if name not in known and name not in generation}
    kept = {name: value for name, value in kept.items() if not _is_private(name, owner)}
    check_kept(kept, owner)
    return read, kept


def _is_private(name: str, owner: type) -> bool:
    return name in PRIVATE or (name.startswith("_") and not name.startswith("__") and name in dir(owner))


def what_is_kept(names: Iterable[str], known: Iterable[str]) -> str:
    """The warning about ``names`` of a file that are not ``known``, eight of them at most."""
    names, known = sorted(names), sorted(known)
    shown = [
        f"{short(name)} ({said.rstrip('.?')})" if (said := hint(name, known)) else short(name) for name in names[:8]
    ]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"DLRConfig keeps names of a file that it does not read: {', '.join(shown)}{more}."


def check_kept(kept: Mapping[str, Any], owner: type) -> None:
    """Refuse names and values that a configuration of the class ``owner`` cannot keep in a file beside its fields.

    Raises:
        ValueError: for the name of a method, or a value that is not made of texts, numbers, lists and dictionaries.
    """
    for name, value in kept.items():
        if name.startswith("__") or name == "attribute_map" or callable(getattr(owner, name, None)):
            raise ValueError(f"{short(name)} is a name of {owner.__name__} itself: rename it, or take it out.")
        if depth_exceeds(value, MAX_DEPTH):
            raise ValueError(f"{short(name)} is nested in more than {MAX_DEPTH} levels: take it out.")
        try:
            json.dumps(value, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{short(name)} cannot be written as JSON ({error}): take it out.") from None


def check_undeclared(config: PreTrainedConfig) -> None:
    """Refuse values of `OF_TRANSFORMERS` over which transformers would stumble.

    Raises:
        ValueError: naming the first.
    """
    kinds = dict.fromkeys(("auto_map", "custom_pipelines", "quantization_config"), dict)
    for name, kind in {**kinds, "_attn_implementation": (str, dict), "_output_attentions": bool}.items():
        value = getattr(config, name, None)
        if value is not None and not isinstance(value, kind) and getattr(value, "to_dict", None) is None:
            raise ValueError(f"{name.removeprefix('_')} cannot be {short(value)}: leave it out.")


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether dictionaries and lists are nested in more than ``limit`` levels."""
    level = [value]
    for _ in range(limit):
        level = [item for container in level for item in _items(container)]
    return any(isinstance(item, (dict, list, tuple)) for item in level)


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries in a dictionary, itself first; transformers writes what is in them by their names."""
    yield value
    for item in value.values():
        if isinstance(item, dict):
            yield from _dictionaries(item)


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, (list, tuple)) else ()


def one_line(error: Exception) -> str:
    """The message of an error of `strict` in one line, cut where a value makes it long."""
    message = " ".join(str(error)[:2000].split())
    return message if len(message) <= 300 else f"{message[:250]} … {message[-40:]}"
