"""Checkpoints with wrong tensors or hyper-parameters: one error each, no traceback."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_hub_convert import CASE, HYPER_PARAMETERS, state_dict_of
from test_hub_s4 import example_model, settings_of
from torch import Tensor

from hub_upload.convert import convert_tensors
from hub_upload.errors import HubUploadError, InputError

SGCONV, S4 = "d_seq1d_shift__sgconv", "s4block_dplr"
OFFICIAL = [CASE, "a_lra_aan__dlr", SGCONV, "dssrepo_a_lra_listops__softmax"]
EXAMPLES = ["s4d_block_transposed1", "s4block_diag", S4]

# What a tensor is changed to.
MISSHAPEN: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.new_zeros(()),
    lambda x: x.new_zeros((0,)),
    lambda x: x.reshape(-1),
    lambda x: x[None, None],
    lambda x: x[..., :0] if x.dim() else x,
    lambda x: x[:-1] if x.dim() else x,
    lambda x: x.to(torch.complex64),
    lambda x: x.new_full(x.shape, torch.nan) if x.is_floating_point() else -x - 1,
    lambda x: x.new_full(x.shape, 1e30) if x.is_floating_point() else x * 10**15,
]
VALUES: list[Any] = [None, True, 0, -1, 1.5, 10**30, torch.nan, "", "many", ["x"], {"a": 1}, {"_name_": ["x"]}]


def checkpoint(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict and its hyper-parameters, which the tests change."""
    if case in EXAMPLES:
        return example_model(case, layers=1), settings_of(case)
    return state_dict_of(case), json.loads(json.dumps(HYPER_PARAMETERS[case]))


def entries(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every entry of the configuration, at any depth."""
    for name, value in config.items():
        yield config, name
        if isinstance(value, dict):
            yield from entries(value)


@pytest.mark.slow
@pytest.mark.parametrize("case", OFFICIAL + EXAMPLES)
def test_tensors_of_another_shape_or_type(case: str):
    """Only our own error is raised, whichever tensor is changed."""
    tensors, config = checkpoint(case)
    for name, value in tensors.items():
        for change in MISSHAPEN:
            with contextlib.suppress(HubUploadError):
                convert_tensors(tensors | {name: change(value)}, config, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("case", OFFICIAL)
def test_hyper_parameters_of_another_type(case: str):
    """Only our own error is raised, whichever hyper-parameter is changed."""
    tensors, config = checkpoint(case)
    parts = {name: config[name] for name in ("model", "decoder", "dataset")}
    for target, name in list(entries(parts)):
        before = target[name]
        for value in VALUES:
            target[name] = value
            with contextlib.suppress(HubUploadError):
                convert_tensors(tensors, parts)
        target[name] = before


@pytest.mark.parametrize(
    ("case", "name", "change", "message"),
    [
        (CASE, "decoder.output_transform.weight", lambda x: x[0, 0], r"weight .*matrix.* \[\]"),
        (CASE, "encoder.weight", lambda x: x[0], r"encoder.weight .*matrix.* \[16\]"),
        (
            SGCONV,
            "model.layers.0.layer.kernel.ws.1",
            lambda x: x[..., :3],
            r"one shape, but model\.layers\.0\.layer\.kernel\.ws\.1 is \[1, 16, 3\] and .*ws\.0 \[1, 16, 8\]",
        ),
        (
            SGCONV,
            "model.layers.0.layer.kernel.ws.1",
            lambda x: x.to(torch.float8_e5m2),
            r"ws\.1 is of torch.float8_e5m2",
        ),
        (CASE, "encoder.weight", lambda x: x.to(torch.float8_e4m3fn), "weights must have 16 bits or more"),
        ("a_lra_aan__dlr", "model.norm.norm.num_batches_tracked", lambda x: x * 1j, "of another kind: .*complex"),
        ("s4d_block_transposed1", "s4_layers.0.kernel.log_A_real", lambda x: x[0, 0], "log_A_real must be a matrix"),
        (
            S4,
            "s4_layers.0.kernel.B",
            lambda x: x[..., 0],
            r"kernel.B must be of shape \[1, 6, 8, 2\], got \[1, 6",
        ),
        (S4, "s4_layers.0.kernel.inv_dt", lambda x: x[:5], r"inv_dt .*\[6, 1\], got \[5, 1\]"),
        (S4, "s4_layers.0.kernel.C", lambda x: x * 1j, "C .*real.* got torch.complex64"),
        (S4, "s4_layers.0.kernel.P", lambda x: x * torch.nan, "P must hold real, finite numbers"),
        (S4, "s4_layers.0.kernel.P", lambda x: x * 0 + 1e30, "cannot be made diagonal"),
        (S4, "s4_layers.0.kernel.l_kernel", lambda x: -x - 1, "l_kernel must be a length, got -"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tensor_that_does_not_fit_is_named(case: str, name: str, change: Callable[[Tensor], Tensor], message: str):
    tensors, config = checkpoint(case)
    with pytest.raises(InputError, match=message):
        convert_tensors(tensors | {name: change(tensors[name])}, config, dtype=torch.float64)


def test_poles_of_another_number_of_channels():
    """Channels share poles cyclically, so one number must divide the other."""
    tensors, config = checkpoint(S4)
    shared = {"A_real", "A_imag", "B", "P"}
    fewer = {
        name: value.narrow(value.dim() - (2 if name.rpartition(".")[2].startswith("A") else 3), 0, 4)
        for name, value in tensors.items()
        if name.rpartition(".")[2] in shared
    }
    with pytest.raises(InputError, match=r"6 channels.* multiple of the 4"):
        convert_tensors(tensors | fewer, config, dtype=torch.float64)


@pytest.mark.parametrize(("channels", "states"), [(1, 600), (200, 200)])
def test_too_large_matrices(channels: int, states: int):
    """The full matrices of an S4 layer are larger than its tensors by the number of states."""
    place = "s4_layers.0.kernel."
    shapes = {"C": (1, channels, states, 2), "B": (1, 1, states, 2), "P": (1, 1, states, 2)}
    shapes |= {"A_real": (1, states), "A_imag": (1, states), "inv_dt": (channels, 1)}
    tensors = {place + name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(InputError, match="too many to be made diagonal"):
        convert_tensors(tensors, {})


@pytest.mark.parametrize(
    ("case", "name", "other"),
    [
        (CASE, "decoder.output_transform.weight", "decoder.weight"),
        (CASE, "model.layers.0.layer.D", "model.layers.0.layer.layer.D"),
    ],
)
def test_two_tensors_with_one_name(case: str, name: str, other: str):
    """Two official tensors with the same name in our model are refused."""
    tensors, config = checkpoint(case)
    with pytest.raises(InputError, match=f"{name} and {other} are both "):
        convert_tensors(tensors | {other: tensors[name] + 1}, config)


def test_a_scale_of_another_name():
    """01 is not 1."""
    tensors, config = checkpoint(SGCONV)
    name = "model.layers.0.layer.kernel.ws.1"
    with pytest.raises(InputError, match=r"left over: .*ws\.01"):
        convert_tensors(tensors | {name.replace("ws.1", "ws.01"): tensors[name]}, config)


def test_scales_with_a_gap():
    """A missing scale is refused."""
    tensors, config = checkpoint(SGCONV)
    with pytest.raises(InputError, match=r"kernel\.ws, but no .*kernel\.ws\.1: is it whole"):
        convert_tensors({name: value for name, value in tensors.items() if not name.endswith("ws.1")}, config)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", ["x"], r"version must be a text, got \['x'\]"),
        ("d_state", "many", "d_state .* got 'many'"),
        ("d_state", True, "d_state .* got True"),
        ("kernel_to_real", ["real"], "kernel_to_real must be a text"),
        ("postact", ["glu"], "postact must be a text or null"),
        ("dt_min", "1e-3", "dt_min must be a number, got '1e-3'"),
        ("bidirectional", 1, "bidirectional .* got 1"),
        ("_name_", ["dlr"], "kernel_type must be"),
        ("W_scale", 10**30, "do not describe a model: int too"),
    ],
)
def test_a_hyper_parameter_of_another_type_is_named(name: str, value: Any, message: str):
    tensors, config = checkpoint(CASE)
    config["model"]["layer"].pop("kernel_type")
    with pytest.raises(InputError, match=message):
        convert_tensors(
            tensors, config | {"model": config["model"] | {"layer": config["model"]["layer"] | {name: value}}}
        )


@pytest.mark.parametrize("dataset", [["aan"], {"_name_": ["aan"]}])
def test_a_data_set_of_another_type_is_named(dataset: Any):
    tensors, config = checkpoint(CASE)
    with pytest.raises(InputError, match=r"dataset .* got \['aan'\]"):
        convert_tensors(tensors, config | {"dataset": dataset})


def test_unknown_head():
    tensors, config = checkpoint(CASE)
    with pytest.raises(InputError, match=r"head .*\['sequence', 'pair', 'token'\], got 'all'"):
        convert_tensors(tensors, config, head="all")
