"""Names that are no fields of `DLRConfig`: what a person means by one, and which of a file are kept as they are.

This file imports no torch.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from reprlib import repr as short
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from .kernel_parameters_dlr import KERNEL_FIELDS, did_you_mean

# What other libraries, and the official code, call a field.
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

_LENGTH = "there is no limit of length: leave it out."
_DIRECTION = "a model is causal unless bidirectional=True: leave it out."
_WIDTH = "only attention has feed-forward layers, and attention_ff_ratio is their width over hidden_size."
_DROPOUT = "attention has no dropout of its own: set hidden_dropout_prob."

# What has no field of its own, in a sentence.
REMARKS: dict[str, str] = {
    "block_size context_length l_max max_len max_position_embeddings max_seq_len max_seq_length": _LENGTH,
    "max_sequence_length model_max_length n_ctx n_positions seq_len seq_length sequence_length": _LENGTH,
    "add_cross_attention causal is_causal is_decoder unidirectional": _DIRECTION,
    "d_ff d_inner expand ffn_dim intermediate_size n_inner": _WIDTH,
    "attention_dropout attention_probs_dropout_prob attn_pdrop": _DROPOUT,
    "n_ssm": "every channel has a kernel of its own, of state_size poles: leave it out.",
    "per_layer_config": "all layers share one configuration, and layer_types says which of them attend: leave it out.",
}

_FOUND = {other: f"it is {name!r} here." for name, others in OTHER_NAMES.items() for other in others.split()}
_FOUND |= {name: remark for names, remark in REMARKS.items() for name in names.split()}

# Arguments of `from_dict` that are not of the configuration.
OF_FROM_DICT = frozenset({"gguf_file", "return_unused_kwargs"})

# How alike a name and a field are where one is surely the other misspelt; "bos_token" and "vocab_file" are less.
_SURE = 0.87

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


def hint(name: Any, known: Iterable[str]) -> str | None:
    """What an unknown name is called here, or which known one it resembles; None if nothing is known of it."""
    if any(name in specs for specs in KERNEL_FIELDS.values()):
        limit = "there is no limit of length; " if name == "max_length" else ""
        return f"{limit}only the kernel reads it: pass it as kernel_parameters={{{name!r}: …}}."
    if name in GenerationConfig._get_default_generation_params():
        return "it belongs to generation: set it in the model's generation_config."
    return _FOUND.get(name) or did_you_mean(name, known)


def refuse(name: Any, known: Iterable[str]) -> None:
    """Raise ValueError for a ``name`` that a person wrote and that is not ``known``."""
    known = sorted(known)
    raise ValueError(f"DLRConfig: unknown name {short(name)}; {hint(name, known) or f'known names are {known}.'}")


def refuse_misspelt(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse unknown names among the arguments of `from_dict`, through which those of every `from_pretrained` come.

    An Auto class passes on all that its caller said of a model or a tokenizer, with a ``name_or_path`` of its own, and
    a model asks for what no configuration knows. From these, only what surely means the configuration is refused.

    Raises:
        ValueError: for the first of them.
    """
    known = frozenset(known)
    passed_on = bool(given.get("return_unused_kwargs")) or "name_or_path" in given
    for name in given.keys() - known - OF_FROM_DICT:
        if not name.startswith("_") and (not passed_on or _surely_meant(name, known)):
            refuse(name, known)


def _surely_meant(name: str, known: Iterable[str]) -> bool:
    of_kernel = any(name in specs for specs in KERNEL_FIELDS.values())
    return of_kernel or name in _FOUND or bool(difflib.get_close_matches(name, known, n=1, cutoff=_SURE))


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
    attention = dict.fromkeys(("attn_implementation", "_attn_implementation"), (str, dict))
    for name, kind in {**kinds, **attention, "_output_attentions": bool}.items():
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
