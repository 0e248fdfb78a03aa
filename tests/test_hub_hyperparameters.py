"""Hyper-parameters that are misspelt, missing or contradict the weights are refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_golden_models import CASES
from test_hub_convert import CASE, HYPER_PARAMETERS, state_dict_of
from test_hub_s4 import S4_BLOCK, example_model, settings_of
from tiny import assert_same_tensors
from torch import Tensor

from hub_upload.arguments import DATA_SETS, NEEDED
from hub_upload.convert import convert_tensors
from hub_upload.errors import InputError
from modeling_dlr import DLRPreTrainedModel
from modeling_dlr.attention_dlr import DLRAttention

# One of each kernel, with values that differ from the official ones where shapes do not tell them.
DIFFERENT = {
    "d_seq1d_cumsum__dlr_decay_residual": "residual",
    "d_seq1d_cumsum__dlr_bidir_prod_ch2": "kernel_to_real",
    "dssrepo_a_lra_cifar__exp_bidir_maxk": "max_kernel_length",
    "d_seq1d_shift__sgconv": "activation",
    "c_pathseg__attn_ff": "chunk_size",
    "a_lra_aan__dlr": "decoder.activation",
    "b_listops_subtrees_prenormbatch__dlr": "norm",
}
# Arguments that only draw, train or report; of the configuration, what they set.
TRAINING = {"dt_min", "dt_max", "W_scale", "w_scale", "alpha_min", "alpha_max", "max_real_Lambda", "dropout"}
DRAWN = {"time_step_min", "time_step_max", "weight_init_std", "alpha_min", "alpha_max", "max_pole_real"}


def config_of(case: str) -> dict[str, Any]:
    return json.loads(json.dumps(HYPER_PARAMETERS[case]))


def flat_of(case: str) -> dict[str, Any]:
    """The same in one mapping, without entries for training and logging."""
    config = config_of(case)
    layer, model = config["model"]["layer"], config["model"]
    flat = {"kernel_to_real": "real", "kernel_type": layer["_name_"]} | layer | model
    for name in ("_name_", "layer", "lr", "wd", "trainable", "pykeops", "verbose", "resample", "pool", "l_max"):
        flat.pop(name, None)
    if layer["_name_"] == "sgconv":
        del flat["kernel_to_real"]
    decoder = config["decoder"]
    flat |= {"encoder": config["encoder"], "decoder": decoder["mode"], "head": DATA_SETS[config["dataset"]["_name_"]]}
    return flat | ({"decoder.activation": decoder["activation"]} if "activation" in decoder else {})


def meaning(model: DLRPreTrainedModel) -> dict[str, Any]:
    """The configuration without entries for initialisation and training; attention layers have no states."""
    config = model.config.to_dict()
    config["kernel_parameters"] = {k: v for k, v in (config["kernel_parameters"] or {}).items() if k not in DRAWN}
    attends = any(isinstance(part, DLRAttention) for part in model.modules())
    idle = {"hidden_dropout_prob", "state_size"} if attends else {"hidden_dropout_prob"}
    return {name: value for name, value in config.items() if name not in idle}


def converted(case: str, config: dict[str, Any]) -> DLRPreTrainedModel:
    return convert_tensors(state_dict_of(case), config).model


@pytest.mark.parametrize("case", CASES)
def test_flat_mapping_gives_the_same_model(case: str):
    """For every official model."""
    run, flat = converted(case, config_of(case)), converted(case, flat_of(case))
    assert type(run) is type(flat)
    assert meaning(run) == meaning(flat)
    assert_same_tensors(run.state_dict(), flat.state_dict())


def refused(tensors: dict[str, Tensor], config: dict[str, Any]) -> str | None:
    """The error, which must be one line; None without an error."""
    try:
        convert_tensors(tensors, config)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", DIFFERENT)
def test_missing_arguments_are_refused(case: str):
    """Without an argument the conversion is refused, or the model is the same."""
    whole = meaning(converted(case, config_of(case)))
    silent = set()
    for name, rest in shorter(flat_of(case)):
        message = refused(state_dict_of(case), rest)
        if message is None:
            assert meaning(converted(case, rest)) == whole, name
            silent.add(name)
    assert silent.isdisjoint(NEEDED[flat_of(case)["kernel_type"]].keys() - {"prenorm"})
    assert DIFFERENT[case] not in silent


def shorter(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in config:
        yield name, {other: value for other, value in config.items() if other != name}


@pytest.mark.parametrize("case", DIFFERENT)
def test_missing_entries_of_a_run_are_refused(case: str):
    """The same for each entry of the configuration of a run."""
    whole = meaning(converted(case, config_of(case)))
    config = config_of(case)
    for part in (config, config["model"], config["model"]["layer"], config["decoder"], config["dataset"]):
        for name in list(part):
            value = part.pop(name)
            message = refused(state_dict_of(case), config)
            if message is None:
                assert meaning(converted(case, config)) == whole, name
            part[name] = value


@pytest.mark.parametrize("case", DIFFERENT)
def test_misspelt_names_are_refused(case: str):
    """With the nearest known name, in one mapping and in the parts of a run."""
    flat = flat_of(case)
    for name in flat:
        wrong = name[:-1] if len(name) > 3 else name + name[-1]
        message = refused(state_dict_of(case), flat | {wrong: flat[name]})
        assert message is not None
        assert f"{wrong!r} (did you mean " in message
    config = config_of(case)
    for part in (config["model"], config["model"]["layer"], config["decoder"]):
        for name in list(part):
            part[name + "s"] = part[name]
            message = refused(state_dict_of(case), config)
            assert message is not None
            assert f"{name + 's'!r} (did you mean {name!r}?)" in message
            del part[name + "s"]


# Changes of the flat mapping of CASE, and a pattern of the error.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"n_layers": 10**8}, "n_layers 100000000 instead of 2"),
    "width": ({"d_model": 32}, "d_model 32 instead of 16"),
    "vocabulary": ({"n_tokens": 19}, "n_tokens 19 instead of 18"),
    "answers": ({"d_output": 11}, "d_output 11 instead of 18"),
    "norm position": ({"prenorm": True}, "prenorm True instead of False"),
    "encoder": ({"encoder": "linear"}, "encoder 'linear' instead of 'embedding'"),
    "other encoder": ({"encoder": "position"}, "contradict the tensors: encoder 'position'"),
    "states": ({"d_state": 10**9}, "weights .* instead of .*1000000000"),
    "other kernel": ({"sep_dt_re_im": False}, "'sep_dt_re_im'"),
    "training": ({"batch_size": 32}, "'batch_size'"),
    "pooling": ({"pool": {"_name_": "sample", "pool": 2, "expand": 1}}, "pool between layers"),
    "repeated": ({"n_repeat": 2}, r"n_repeat must be one of \[1\]"),
    "no residual": ({"residual": None}, "residual must be a text, got None"),
    "disk": ({"disk": "zoh"}, "'disk'"),
    "ours": ({"pre_norm": False}, "'pre_norm' .did you mean 'prenorm'"),
    "part": ({"layer": {"residual": "R"}}, "'layer'"),
    "decoder": ({"decoder": {"_name_": "state", "mode": "last"}}, r"decoder._name_ must be one of"),
    "decoder's entry": ({"decoder": {"mode": "last", "modes": 1}}, "in decoder .*'modes'"),
    "huge number": ({"d_state": 10**400}, "field 'state_size': ValueError: must be >= 1"),
    "negative": ({"channels": -1}, "field 'num_kernel_channels': ValueError: must be >= 1"),
    "probability": ({"dropout": 7}, "field 'hidden_dropout_prob': ValueError: must be >= 0"),
    "not a number": ({"dt_min": float("nan")}, "must be > 0 and <= 1000, got nan"),
    "long": ({"encoder": "x" * 10**5}, "encoder 'xxx"),
    "lines": ({"norm": "a\n" * 10**5}, "norm='a"),
    "number as text": ({"max_kernel_length": "many"}, "max_kernel_length must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case: str):
    """Values that contradict the weights or are not supported are refused before a model is built."""
    changes, message = WRONG[case]
    with pytest.raises(InputError, match=message) as error:
        converted(CASE, flat_of(CASE) | changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_error_shows_the_usual_values():
    """As JSON that can be copied into the file."""
    flat = flat_of(CASE)
    del flat["residual"], flat["max_kernel_length"]
    with pytest.raises(InputError, match=r'mostly have \{"max_kernel_length": null, "residual": "R"\}\.$'):
        converted(CASE, flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, r"decoder.activation .*\['gelu'\], got 'relu'"),
        ({"nli": False}, r"nli must be one of \[True\]"),
    ],
)
def test_other_heads_of_pairs(change: dict[str, Any], message: str):
    """The official head of pairs has forms with the same shapes and other outputs, which ours lacks."""
    config = config_of("a_lra_aan__dlr")
    config["decoder"] |= change
    with pytest.raises(InputError, match=message):
        converted("a_lra_aan__dlr", config)


def test_an_argument_beside_its_part():
    config = config_of(CASE)
    config["max_kernel_length"] = 32
    with pytest.raises(InputError, match=r"\['max_kernel_length'\] .*'model'"):
        converted(CASE, config)


def test_layers_with_a_gap():
    tensors = {name.replace("layers.1.", "layers.10000000."): value for name, value in state_dict_of(CASE).items()}
    with pytest.raises(InputError, match="has 2 layers, but none of number 1"):
        convert_tensors(tensors, config_of(CASE))


def test_too_many_scales():
    """Each scale of SGConv doubles the kernel, so a small file can describe a huge kernel."""
    case = "d_seq1d_shift__sgconv"
    tensors = state_dict_of(case)
    for layer in range(2):
        place = f"model.layers.{layer}.layer.kernel.ws"
        tensors |= {f"{place}.{i}": tensors[f"{place}.0"] for i in range(60)}
    with pytest.raises(InputError, match="60 scales of 128"):
        convert_tensors(tensors, config_of(case))


def test_heads_of_attention_are_those_of_the_rotary_table():
    case = "c_pathseg__attn_ff"
    tensors = state_dict_of(case) | {"model.layers.0.layer.attn.rope.freqs": torch.zeros(4)}
    assert convert_tensors(tensors, config_of(case)).model.config.num_attention_heads == 2


ENDS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def s4_run(case: str, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model of state-spaces/s4 as saved by its training script, with the configuration of the run."""
    ends = {name: name.replace("decoder.", "decoder.output_transform.") for name in ENDS}
    tensors: dict[str, Tensor] = {}
    for name, value in example_model(case).items():
        if name in ends:
            tensors[ends[name]] = value
        else:
            part, number, rest = name.split(".", 2)
            inner = "layer." if rest.startswith(("kernel", "D")) else ""
            place = f"layer.{inner}" if part == "s4_layers" else "norm.norm."
            tensors[f"model.layers.{number}.{place}{rest}"] = value
    layer = {"_name_": "s4", "d_state": 16, "bidirectional": False, "activation": "gelu", "final_act": "glu"}
    layer |= {"postact": None, "gate": None, "mode": "diag", "disc": "zoh", "dt_transform": "exp", "l_max": 40}
    model = {"_name_": "model", "layer": layer | changes, "prenorm": False, "transposed": False, "n_layers": 2}
    model |= {"d_model": 6, "residual": "R", "norm": "layer", "pool": None, "dropout": 0.1}
    decoder = {"_name_": "sequence", "mode": "pool"}
    return tensors, {"model": model, "encoder": "linear", "decoder": decoder, "dataset": {"_name_": "mnist"}}


def test_runs_of_s4():
    """S4 has other names: final_act for postact, and l_max for the maximum length of the kernel."""
    config = convert_tensors(*s4_run("s4block_diag")).model.config
    assert config.output_gate == "glu"
    assert config.kernel_parameters["max_length"] == 40
    assert config.kernel_parameters["discretization"] == "zoh"
    with pytest.raises(InputError, match=r"dt_transform .*\['exp'\], got 'softplus'"):
        convert_tensors(*s4_run("s4block_diag", dt_transform="softplus"))
    with pytest.raises(InputError, match="bandlimit must be one of"):
        convert_tensors(*s4_run("s4block_diag", bandlimit=0.5))


@pytest.mark.parametrize("name", [*S4_BLOCK, "prenorm"])
def test_nothing_is_left_out_of_an_s4_block(name: str):
    settings = settings_of("s4block_diag")
    del settings[name]
    lacking = "postact" if name == "final_act" else name
    with pytest.raises(InputError, match=rf"lack \['{lacking}'\]"):
        convert_tensors(example_model("s4block_diag"), settings)
