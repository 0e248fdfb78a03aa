"""DLRConfig: defaults, round trips, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refusal
from tiny import tiny_config
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_dlr import DLRConfig, DLRForCausalLM, DLRKernel, DLRModel
from modeling_dlr.kernel_parameters_dlr import KERNEL_FIELDS
from modeling_dlr.kernels_dlr import KERNELS

DEFAULTS = {
    "vocab_size": 261, "input_size": None, "hidden_size": 128, "num_hidden_layers": 4, "state_size": 256,
    "bidirectional": False, "num_kernel_channels": 1, "channel_gate_act": None, "hidden_act": "gelu",
    "output_gate": None, "norm_position": "pre", "norm_type": "layer", "residual_type": "plain",
    "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.0, "dropout_type": "element", "classifier_dropout": None,
    "pooling": "mean", "layer_types": ["dlr"] * 4, "num_attention_heads": 4, "attention_window": 1024,
    "attention_ff_ratio": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "initializer_range": None, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    "tie_word_embeddings": False, "use_cache": False, "num_labels": 2, "problem_type": None,
}  # fmt: skip

# A value other than the default for every field, and the values that only some fields admit.
CHANGES: dict[str, dict[str, Any]] = {
    "real-valued input": {"input_size": 3},
    "one of everything": {"vocab_size": 11, "hidden_size": 1, "num_hidden_layers": 1, "state_size": 1},
    "bidirectional with gate": {"bidirectional": True, "output_gate": "glu"},
    "official block": {"norm_position": "post", "norm_type": "scalar_layer", "hidden_act": None},
    "rest of the official block": {"norm_type": "batch", "residual_type": "decay", "output_gate": "geglu"},
    "several kernels per channel": {"num_kernel_channels": 3, "channel_gate_act": "gelu"},
    "integers for real numbers": {"hidden_dropout_prob": 0, "layer_norm_eps": 0, "initializer_range": 1},
    "dropouts": {"hidden_dropout_prob": 0.1, "classifier_dropout": 0.0, "dropout_type": "channel"},
    "pooling": {"pooling": "last"},
    "special tokens": {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": [3, 4]},
    "kernel": {"kernel_parameters": {"pole_init": "randn", "max_length": 7, "time_step_max": 1}},
    "deviation of the weights": {"kernel_parameters": {"weight_init_std": 0.5}},
    "DSS": {"kernel_parameters": {"kernel_type": "dss", "version": "softmax", "separate_time_steps": True}},
    "S4D": {"kernel_parameters": {"kernel_type": "s4d", "discretization": "bilinear", "pole_init": "legs"}},
    "SGConv": {"kernel_parameters": {"kernel_type": "sgconv", "num_scales": 3, "alpha_min": 1}},
    "attention in every layer": {"layer_types": ["full_attention"] * 4, "num_attention_heads": 64},
    "hybrid": {"num_hidden_layers": 2, "layer_types": ["dlr", "local_attention"], "attention_window": 1},
    "feed-forward layers": {"layer_types": ["full_attention"] * 4, "attention_ff_ratio": 4},
    "other rotary positions": {"rope_parameters": {"rope_type": "default", "rope_theta": 500}},
    "number of labels": {"num_labels": 7},
    "named labels": {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
    "regression": {"num_labels": 1, "problem_type": "regression"},
    "several labels at once": {"problem_type": "multi_label_classification"},
    "type of the weights": {"dtype": "bfloat16"},
    "type of the weights, by its old name": {"torch_dtype": "float64"},
    "a state": {"use_cache": True, "kernel_parameters": {"kernel_type": "s4d", "read_out": "imag"}},
    "a state of attention alone": {
        "use_cache": True,
        "layer_types": ["full_attention"] * 4,
        "kernel_parameters": {"kernel_type": "sgconv"},
    },
    "what other libraries keep": {"quantization_config": {"quant_method": "none"}, "auto_map": {"AutoConfig": "a.B"}},
}

# What is refused: the fields, and what the message must contain.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "state of both directions": (
        {"bidirectional": True, "use_cache": True},
        ["use_cache=True", "bidirectional=True reads the future", "leave use_cache out"],
    ),
    "state of a product": (
        {"use_cache": True, "kernel_parameters": {"read_out": "prod"}},
        ["use_cache=True", "'prod' is a product", "leave use_cache out"],
    ),
    "state of a kernel cut off": (
        {"use_cache": True, "kernel_parameters": {"max_length": 7}},
        ["use_cache=True", "max_length=7 cuts", "leave use_cache out"],
    ),
    "state of softmax": (
        {"use_cache": True, "kernel_parameters": {"kernel_type": "dss", "version": "softmax"}},
        ["use_cache=True", "depends on the length", "leave use_cache out"],
    ),
    "state of SGConv": (
        {"use_cache": True, "kernel_parameters": {"kernel_type": "sgconv"}},
        ["use_cache=True", "SGConv learns the kernel itself", "leave use_cache out"],
    ),
    "misspelt field": ({"hiden_size": 8}, ["hiden_size", "'hidden_size'"]),
    "field of another library": ({"d_model": 8}, ["'d_model'", "use 'hidden_size'"]),
    "dropout of another library": ({"dropout": 0.1}, ["'dropout'", "use 'hidden_dropout_prob'"]),
    "length": ({"max_position_embeddings": 512}, ["'max_position_embeddings'", "no maximum length", "leave it out"]),
    "length of a kernel": ({"max_length": 512}, ["no maximum length", "kernel_parameters={'max_length': …}"]),
    "direction of another library": ({"is_decoder": True}, ["'is_decoder'", "causal unless bidirectional=True"]),
    "width of another library": ({"intermediate_size": 8}, ["'intermediate_size'", "attention_ff_ratio"]),
    "parameter of generation": ({"temperature": 0.5}, ["'temperature'", "generation_config"]),
    "name like no other": ({"qqq": 1}, ["'qqq'", "known names are", "'hidden_size'"]),
    "a configuration per layer": ({"per_layer_config": {"0": {}}}, ["per_layer_config", "layer_types"]),
    "encoder and decoder": ({"is_encoder_decoder": True}, ["is_encoder_decoder", "got True", "leave it out"]),
    "misspelt layer": (
        {"layer_types": ["dlr", "full_atention", "dlr", "dlr"]},
        ["layer_types", "'full_atention'", "did you mean 'full_attention'?"],
    ),
    "layer of another library": ({"layer_types": ["rwkv"] * 4}, ["layer_types", "'rwkv'", "'local_attention'"]),
    "too few layer types": ({"layer_types": ["dlr"] * 3}, ["layer_types", "each of the 4 layers", "got 3"]),
    "one word for layer types": ({"layer_types": "dlr"}, ["layer_types", "'dlr'"]),
    "heads of unequal width": (
        {"layer_types": ["full_attention"] * 4, "num_attention_heads": 3},
        ["hidden_size", "multiple of 2 · num_attention_heads", "128 and 3"],
    ),
    "heads of odd width": (
        {"layer_types": ["dlr", "dlr", "dlr", "local_attention"], "num_attention_heads": 128},
        ["hidden_size", "multiple of 2 · num_attention_heads", "128 and 128"],
    ),
    "no heads": ({"num_attention_heads": 0}, ["num_attention_heads", ">= 1", "got 0"]),
    "no window": ({"attention_window": 0}, ["attention_window", ">= 1", "got 0"]),
    "negative feed-forward": ({"attention_ff_ratio": -1}, ["attention_ff_ratio", ">= 0", "got -1"]),
    "misspelt rotary position": ({"rope_parameters": {"theta": 5}}, ["rope_parameters", "'theta'", "'rope_theta'"]),
    "extended rotary positions": ({"rope_parameters": {"rope_type": "yarn"}}, ["rope_type", "'default'", "'yarn'"]),
    "rotary positions to base 0": ({"rope_parameters": {"rope_theta": 0}}, ["rope_theta", "> 0", "got 0"]),
    "rotary positions to no base": ({"rope_parameters": {"rope_theta": True}}, ["rope_theta", "number", "True"]),
    "kernel key outside": ({"time_step_min": 0.1}, ["kernel_parameters={'time_step_min': …}"]),
    "kernel key that transformers drops": ({"max_length": 8}, ["kernel_parameters={'max_length': …}"]),
    "no channels": ({"hidden_size": 0}, ["hidden_size", ">= 1", "got 0"]),
    "no layers": ({"num_hidden_layers": 0}, ["num_hidden_layers", ">= 1", "got 0"]),
    "no poles": ({"state_size": -1}, ["state_size", ">= 1", "got -1"]),
    "no vocabulary": ({"vocab_size": 0}, ["vocab_size", ">= 1", "got 0"]),
    "no features": ({"input_size": 0}, ["input_size", ">= 1", "got 0"]),
    "no labels": ({"num_labels": 0}, ["num_labels", ">= 1", "got 0"]),
    "dropout beyond 1": ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "<= 1", "1.5"]),
    "dropout that is no number": ({"hidden_dropout_prob": float("nan")}, ["hidden_dropout_prob", "<= 1", "nan"]),
    "head dropout below 0": ({"classifier_dropout": -0.5}, ["classifier_dropout", ">= 0", "-0.5"]),
    "negative epsilon": ({"layer_norm_eps": -1e-5}, ["layer_norm_eps", ">= 0", "-1e-05"]),
    "negative deviation": ({"initializer_range": -0.1}, ["initializer_range", "> 0", "-0.1"]),
    "text for a number": ({"hidden_size": "8"}, ["hidden_size", "expected int", "'8'"]),
    "real for an integer": ({"state_size": 8.0}, ["state_size", "expected int", "8.0"]),
    "truth for a number": ({"hidden_dropout_prob": True}, ["hidden_dropout_prob", "float", "True"]),
    "number for truth": ({"bidirectional": 1}, ["bidirectional", "expected bool", "1"]),
    "number for an activation": ({"hidden_act": 3}, ["hidden_act", "expected str", "3"]),
    "list for kernel parameters": ({"kernel_parameters": ["dlr"]}, ["kernel_parameters", "expected dict", "dlr"]),
    "both inputs": ({"vocab_size": 5, "input_size": 2}, ["exactly one", "vocab_size=5", "input_size=2", "leave out"]),
    "padding without vocabulary": ({"input_size": 2, "pad_token_id": 0}, ["pad_token_id=0", "attention_mask"]),
    "padding beyond the vocabulary": ({"vocab_size": 5, "pad_token_id": 5}, ["pad_token_id", "vocab_size-1 = 4", "5"]),
    "negative padding": ({"pad_token_id": -1}, ["pad_token_id", "0 …", "-1"]),
    "end beyond the vocabulary": (
        {"eos_token_id": 261},
        ["eos_token_id", "vocab_size-1 = 260", "261", "set vocab_size"],
    ),
    "ends beyond the vocabulary": ({"eos_token_id": [2, 500]}, ["eos_token_id", "vocab_size-1 = 260", "500"]),
    "beginning beyond the vocabulary": ({"bos_token_id": -1}, ["bos_token_id", "0 …", "-1"]),
    "truth for a token": ({"eos_token_id": True}, ["eos_token_id", "int", "True"]),
    "end without vocabulary": ({"input_size": 2, "eos_token_id": 0}, ["eos_token_id=0", "leave eos_token_id out"]),
    "negative channels": ({"hidden_size": -8}, ["hidden_size", ">= 1", "got -8"]),
    "channels beyond memory": ({"hidden_size": 10**12}, ["hidden_size", "<= 1e+09", "1000000000000"]),
    "layers beyond memory": ({"num_hidden_layers": 10**8}, ["num_hidden_layers", "<= 10000", "100000000"]),
    "taps beyond memory": (
        {"kernel_parameters": {"kernel_type": "sgconv", "num_scales": 25}},
        ["state_size · 2^(num_scales-1)", "<= 1073741824", "256 · 2^24", "lower num_scales"],
    ),
    "no number": ({"layer_norm_eps": float("nan")}, ["layer_norm_eps", ">= 0", "nan"]),
    "number beyond floats": ({"initializer_range": 10**400}, ["initializer_range", "finite"]),
    "base beyond floats": ({"rope_parameters": {"rope_theta": float("inf")}}, ["rope_theta", "> 0", "inf"]),
    "unknown type of weights": ({"dtype": "float31"}, ["dtype", "'float32'", "'float31'"]),
    "module for the type of weights": ({"torch_dtype": "nn"}, ["dtype", "'float32'", "'nn'"]),
    "integers for weights": ({"dtype": torch.int8}, ["dtype", "'float32'", "int8"]),
    "text for architectures": ({"architectures": "DLRModel"}, ["architectures", "list", "DLRModel"]),
    "text for remote code": ({"auto_map": "a.B"}, ["auto_map", "'a.B'"]),
    "number for attention": ({"attn_implementation": 3}, ["attn_implementation", "3"]),
    "norm of one channel": ({"norm_type": "scalar_layer", "hidden_size": 1}, ["scalar_layer", "hidden_size", "> 1"]),
    "unknown norm": ({"norm_type": "rms"}, ["norm_type", "scalar_layer", "rms"]),
    "norm nowhere": ({"norm_position": "sandwich"}, ["norm_position", "post", "sandwich"]),
    "unknown gate": ({"output_gate": "swiglu"}, ["output_gate", "geglu", "swiglu"]),
    "unknown residual": ({"residual_type": "skip"}, ["residual_type", "decay", "skip"]),
    "unknown dropout": ({"dropout_type": "dropout2d"}, ["dropout_type", "channel", "dropout2d"]),
    "no kernels": ({"num_kernel_channels": 0}, ["num_kernel_channels", ">= 1", "got 0"]),
    "truth for a channel gate": ({"channel_gate_act": True}, ["channel_gate_act", "expected str", "True"]),
    "unknown pooling": ({"pooling": "sum"}, ["pooling", "mean", "sum"]),
    "unknown problem": ({"problem_type": "ranking"}, ["problem_type", "regression", "ranking"]),
    "one class": ({"num_labels": 1, "problem_type": "single_label_classification"}, ["num_labels > 1", "regression"]),
}

# The same for `kernel_parameters`.
REFUSED_KERNELS: dict[str, tuple[dict[Any, Any], list[str]]] = {
    "unknown kernel": ({"kernel_type": "lru"}, ["kernel_type", "['dlr', 'dss', 's4d', 'sgconv']", "'lru'"]),
    "misspelt kernel": ({"kernel_type": "sgconf"}, ["kernel_type", "got 'sgconf'", "did you mean 'sgconv'?"]),
    "kernel of the wrong type": ({"kernel_type": ["dlr"]}, ["kernel_type", "must be one of", "['dlr']"]),
    "misspelt key": ({"time_step_mn": 0.1}, ["time_step_mn", "'time_step_min'"]),
    "key that is no text": ({3: 4}, ["unknown name 3", "pole_init"]),
    "unknown read-out": ({"read_out": "real-prod"}, ["read_out", "'real_prod'", "'real-prod'"]),
    "unknown version": ({"version": "exp"}, ["version", "'complex'", "'exp'"]),
    "version of DLR for DSS": ({"kernel_type": "dss", "version": "complex"}, ["version", "'softmax'", "'complex'"]),
    "poles of DLR for DSS": ({"kernel_type": "dss", "pole_init": "omega"}, ["pole_init", "'hippo_skew'", "'omega'"]),
    "misspelt key of DSS": (
        {"kernel_type": "dss", "seperate_time_steps": True},
        ["'dss'", "'seperate_time_steps'", "did you mean 'separate_time_steps'?"],
    ),
    "number for truth of DSS": (
        {"kernel_type": "dss", "separate_time_steps": 1},
        ["separate_time_steps", "must be bool", "got 1"],
    ),
    "poles to the right": (
        {"kernel_type": "dss", "max_pole_real": 1e4},
        ["max_pole_real", ">= -1000 and <= 1000", "10000"],
    ),
    "logarithms of negative numbers": (
        {"kernel_type": "dss", "version": "exp_re_im", "pole_init": "randn"},
        ["'exp_re_im'", "'randn'", "negative", "use 'lin' or 'hippo_skew'"],
    ),
    "discretization of DSS": ({"kernel_type": "dss", "discretization": "zoh"}, ["'dss'", "'discretization'"]),
    "misspelt choice of S4D": ({"kernel_type": "s4d", "discretization": "zho"}, ["discretization", "'zoh'", "'zho'"]),
    "read-out of taps": ({"kernel_type": "sgconv", "read_out": "imag"}, ["'sgconv'", "'read_out'"]),
    "scales beyond memory": ({"kernel_type": "sgconv", "num_scales": 10**6}, ["num_scales", "<= 31", "1000000"]),
    "dictionary for a number": ({"time_step_min": {"a": [1]}}, ["time_step_min", "float or int", "{'a': [1]}"]),
    "no number for a deviation": ({"weight_init_std": float("nan")}, ["weight_init_std", ">= 0", "nan"]),
    "no scales": ({"kernel_type": "sgconv", "num_scales": 0}, ["num_scales", ">= 1", "got 0"]),
    "alphas the wrong way round": ({"kernel_type": "sgconv", "alpha_min": 2}, ["alpha_min", "2 > 1.0", "swap"]),
    "unknown angles": ({"pole_init": "ones"}, ["pole_init", "omega", "'ones'"]),
    "misspelt angles": ({"pole_init": "omga"}, ["pole_init", "'omga': did you mean 'omega'?"]),
    "no taps": ({"max_length": 0}, ["max_length", ">= 1", "got 0"]),
    "half a tap": ({"max_length": 2.5}, ["max_length", "int or None", "2.5"]),
    "truth for taps": ({"max_length": True}, ["max_length", "int or None", "True"]),
    "time step of zero": ({"time_step_min": 0}, ["time_step_min", "> 0", "got 0"]),
    "endless time step": ({"time_step_max": float("inf")}, ["time_step_max", "<= 1000", "inf"]),
    "time steps the wrong way round": ({"time_step_min": 0.5}, ["time_step_min", "0.5 > 0.1", "swap"]),
    "text for a time step": ({"time_step_max": "0.1"}, ["time_step_max", "float or int", "'0.1'"]),
    "negative deviation": ({"weight_init_std": -1}, ["weight_init_std", ">= 0", "-1"]),
    "endless deviation": ({"weight_init_std": float("inf")}, ["weight_init_std", "finite", "inf"]),
}


def test_defaults():
    """DLRConfig() reads bytes, is causal, and has the documented defaults."""
    config = DLRConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


def test_kernel_parameters_are_filled():
    """What is not given of the kernel's parameters takes its default, and only its own keys are there."""
    for kernel_type, fields in KERNEL_FIELDS.items():
        defaults = {name: spec.default for name, spec in fields.items()} | {"kernel_type": kernel_type}
        for given in ({"kernel_type": kernel_type}, {"kernel_type": kernel_type, "max_length": 9}):
            assert DLRConfig(kernel_parameters=given).kernel_parameters == defaults | given
    assert DLRConfig().kernel_parameters == DLRConfig(kernel_parameters={"kernel_type": "dlr"}).kernel_parameters


def test_given_dictionary_is_left_alone():
    """Filling in the kernel's defaults does not change the caller's dictionary."""
    given = {"max_length": 9}
    config = DLRConfig(kernel_parameters=given)
    assert given == {"max_length": 9}
    assert config.kernel_parameters is not given


@pytest.mark.parametrize(("norm_type", "epsilon"), [("layer", 1e-5), ("scalar_layer", 0.0), ("batch", 1e-5)])
def test_epsilon_follows_the_norm(norm_type: str, epsilon: float):
    """Each norm has its own default epsilon, and a given one is kept."""
    assert DLRConfig(norm_type=norm_type).layer_norm_eps == epsilon
    assert DLRConfig(norm_type=norm_type, layer_norm_eps=0.5).layer_norm_eps == 0.5


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
def test_directions(bidirectional: bool):
    """A model that reads in both directions has two kernels per channel."""
    assert DLRConfig(bidirectional=bidirectional).num_directions == 1 + bidirectional


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_round_trip(changes: dict[str, Any], tmp_path: Path):
    """A saved configuration comes back equal, directly, through AutoConfig and as JSON, and saves the same again."""
    config = DLRConfig(**changes)
    config.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    loaded = {
        "DLRConfig": DLRConfig.from_pretrained(tmp_path),
        "AutoConfig": AutoConfig.from_pretrained(tmp_path),
        "JSON": DLRConfig(**json.loads(text)),
    }
    for way, again in loaded.items():
        assert type(again) is DLRConfig, way
        for name in changes:
            assert getattr(again, name) == getattr(config, name), way
        again.save_pretrained(tmp_path)
        assert (tmp_path / "config.json").read_text(encoding="utf-8") == text, way


def test_fields_of_transformers_work():
    """num_labels, names of labels and the type of the weights mean what they mean everywhere."""
    assert DLRConfig(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert DLRConfig(id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3
    assert DLRConfig(id2label={"0": "a", "1": "b"}).id2label == {0: "a", 1: "b"}
    assert DLRConfig(dtype="bfloat16").dtype == DLRConfig(torch_dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(("fields", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(fields: dict[str, Any], says: list[str]):
    """A bad field is refused when the configuration is born, with the rule and the value."""
    message = refusal(DLRConfig, **fields)
    assert all(part in message for part in says), message


@pytest.mark.parametrize(("parameters", "says"), REFUSED_KERNELS.values(), ids=REFUSED_KERNELS.keys())
def test_refused_by_the_kernel(parameters: dict[str, Any], says: list[str]):
    """A bad entry of kernel_parameters is refused by the configuration, and alike by a kernel built alone."""
    message = refusal(DLRConfig, kernel_parameters=parameters)
    assert all(part in message for part in says), message
    kernel_class = KERNELS.get(str(parameters.get("kernel_type")), DLRKernel)
    assert refusal(kernel_class, 1, 3, 5, parameters) == message


@pytest.mark.parametrize("kernel_type", [kernel_type for kernel_type in KERNELS if kernel_type != "dlr"])
def test_kernel_of_another_class_is_refused(kernel_type: str):
    """A class that is given another family's kernel_type says which it is."""
    message = refusal(DLRKernel, 1, 3, 5, {"kernel_type": kernel_type})
    assert all(part in message for part in ("DLRKernel", "'dlr'", f"got {kernel_type!r}")), message


@pytest.mark.parametrize("field", ["hidden_act", "channel_gate_act"])
def test_refused_activation(field: str):
    """An activation that transformers does not know is refused when the model is built, with the nearest one."""
    message = refusal(DLRModel, tiny_config(**{field: "gelo"}))
    assert all(part in message for part in (field, "'gelo'", "'gelu'")), message


@pytest.mark.parametrize("changes", [{"hidden_size": 0}, {"hidden_size": "8"}, {"pooling": "sum"}], ids=str)
def test_refused_later(changes: dict[str, Any]):
    """A field is checked again when it is set on a configuration that exists, or given while loading."""
    ((name, value),) = changes.items()
    assert name in refusal(setattr, DLRConfig(), name, value)


# What is said of a saved configuration while it is loaded, what of it, and what then holds.
OVERRIDES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "layers": ({"num_hidden_layers": 2}, {"num_hidden_layers": 3}, {"layer_types": ["dlr"] * 3}),
    "types of layers": ({"num_hidden_layers": 2}, {"layer_types": None}, {"layer_types": ["dlr"] * 2}),
    "norm": ({}, {"norm_type": "batch"}, {"norm_type": "batch"}),
}


@pytest.mark.parametrize(("saved", "said", "then"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_said_while_loading(saved: dict[str, Any], said: dict[str, Any], then: dict[str, Any], tmp_path: Path):
    """What follows from a field follows from one that is given to from_pretrained, too."""
    DLRConfig(**saved).save_pretrained(tmp_path)
    config, unused = AutoConfig.from_pretrained(tmp_path, **said, foo=1, return_unused_kwargs=True)
    assert {name: getattr(config, name) for name in then} == then
    assert unused == {"foo": 1}
    expected = DLRConfig(**saved | said).to_dict()
    assert all(config.to_dict()[name] == value for name, value in expected.items() if name != "_name_or_path")


@pytest.mark.parametrize("said", [{"read_out": "imag"}, {"kernel_type": "dss", "read_out": "imag"}], ids=str)
def test_kernel_parameters_said_while_loading(said: dict[str, Any], tmp_path: Path):
    """One entry leaves the others as they were saved, unless it makes another kernel of them."""
    DLRConfig(kernel_parameters={"kernel_type": "dss", "version": "clip"}).save_pretrained(tmp_path)
    assert DLRConfig.from_pretrained(tmp_path, kernel_parameters=said).kernel_parameters["version"] == "clip"
    again = DLRConfig.from_pretrained(tmp_path, kernel_parameters={"kernel_type": "dlr"})
    assert again.kernel_parameters == DLRConfig().kernel_parameters


def test_kernel_parameters_said_of_a_dictionary():
    """A dictionary without a kernel_type is of the default one; what is no dictionary is refused as ever."""
    written = {"kernel_parameters": {"time_step_max": 0.05}}
    config = DLRConfig.from_dict(written, kernel_parameters={"kernel_type": "dlr", "max_length": 9})
    assert (config.kernel_parameters["time_step_max"], config.kernel_parameters["max_length"]) == (0.05, 9)
    assert written == {"kernel_parameters": {"time_step_max": 0.05}}
    assert "expected dict" in refusal(DLRConfig.from_dict, written, kernel_parameters="dlr")


@pytest.mark.parametrize(
    ("dtype", "then"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), (torch.float64, torch.float64)], ids=str
)
def test_type_of_the_weights_said_while_loading(dtype: Any, then: torch.dtype, tmp_path: Path):
    """It takes the place of the saved one, by each of its two names; "auto" is the saved one."""
    DLRConfig(dtype="float32").save_pretrained(tmp_path)
    for name in ("dtype", "torch_dtype"):
        assert AutoConfig.from_pretrained(tmp_path, **{name: dtype}).dtype == then


def test_a_model_of_fewer_layers(tmp_path: Path):
    """A model that is cut down while loading generates, and is saved again."""
    DLRForCausalLM(tiny_config(num_hidden_layers=2)).save_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, num_hidden_layers=1)
    assert model.generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=2).shape == (1, 5)
    model.save_pretrained(tmp_path / "again")


SAID_IN_VAIN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "contradiction": ({"input_size": 3}, ["exactly one", "vocab_size=261", "input_size=3"]),
    "layer": ({"layer_types": ["dlr", "bogus"]}, ["layer_types", "'bogus'"]),
    "entry of the kernel": ({"kernel_parameters": {"read_oot": "imag"}}, ["'read_oot'", "'read_out'"]),
}


@pytest.mark.parametrize(("said", "says"), SAID_IN_VAIN.values(), ids=SAID_IN_VAIN.keys())
def test_refused_while_loading(said: dict[str, Any], says: list[str], tmp_path: Path):
    DLRConfig(num_hidden_layers=2, vocab_size=261).save_pretrained(tmp_path)
    message = refusal(AutoConfig.from_pretrained, tmp_path, **said)
    assert all(part in message for part in says), message


def test_only_names_are_accepted():
    """Fields are given by name."""
    assert "keyword" in refusal(DLRConfig, 128)
