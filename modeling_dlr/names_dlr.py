"""Names that are no fields of `DLRConfig`, as a person writes them: what each is called here.

This file imports no torch.
"""

import difflib
from collections.abc import Iterable, Mapping
from reprlib import repr as short
from typing import Any

from transformers import GenerationConfig

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
_OF_FROM_DICT = frozenset({"gguf_file", "return_unused_kwargs"})

# How alike a name and a field are where one is surely the other misspelt; "bos_token" and "vocab_file" are less.
_SURE = 0.87


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
    for name in given.keys() - known - _OF_FROM_DICT:
        if not name.startswith("_") and (not passed_on or _surely_meant(name, known)):
            refuse(name, known)


def _surely_meant(name: str, known: Iterable[str]) -> bool:
    of_kernel = any(name in specs for specs in KERNEL_FIELDS.values())
    return of_kernel or name in _FOUND or bool(difflib.get_close_matches(name, known, n=1, cutoff=_SURE))
