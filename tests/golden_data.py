"""The golden numbers by case, and our modules with the official parameters."""

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from tolerances import assert_close
from torch import Tensor, nn

from hub_upload.official import parameters_of
from modeling_dlr.kernels_dlr import SGConvKernel

GOLDEN = Path(__file__).parent / "golden"

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def specs(file: str) -> dict[str, dict[str, Any]]:
    """The arguments of every case, with official names."""
    return json.loads((GOLDEN / f"{file}.json").read_text(encoding="utf-8"))


@cache
def tensors(file: str) -> dict[str, dict[str, Tensor]]:
    """The numbers of every case, by field."""
    cases = defaultdict(dict)
    names = sorted(specs(file), key=len, reverse=True)
    for key, value in load_file(GOLDEN / f"{file}.safetensors").items():
        case = next((name for name in names if key.startswith(f"{name}/")), key.rpartition("/")[0])
        cases[case][key.removeprefix(f"{case}/")] = value
    return dict(cases)


def fields(data: dict[str, Tensor], prefix: str, kernel_type: str) -> dict[str, Tensor]:
    """The fields ``prefix<official name>``, with our names."""
    chosen = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
    return parameters_of(chosen, kernel_type)


def loaded(module: AnyModule, values: dict[str, Tensor], device: torch.device) -> AnyModule:
    """The module in float64 with these parameters and buffers, all of them and no others.

    The norm of SGConv, which official state dicts leave out, is that of its kernel.
    """
    own = module.double().state_dict()
    kernels = {f"{place}.norm".lstrip("."): part for place, part in module.named_modules() if is_sgconv(part)}
    assert own.keys() - kernels.keys() <= values.keys() <= own.keys()
    module.load_state_dict({name: value.view_as(own[name]) for name, value in values.items()}, strict=False)
    for name, kernel in kernels.items():
        if name not in values:
            kernel.norm = kernel.initial_buffers()["norm"]
    return module.to(device)


def is_sgconv(module: nn.Module) -> bool:
    return isinstance(module, SGConvKernel)


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], kind: torch.dtype | str) -> None:
    """Every gradient is the official one; a gradient that is only rounding error is rounding error here, too."""
    actual = dict(module.named_parameters())
    assert actual.keys() == expected.keys()
    rounding = 1e-5 * max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        # A BatchNorm takes a bias out again; that of one scale sums up all heads and steps.
        if name.endswith(("bias", "query_scale")) and gradient.abs().max() < rounding:
            assert actual[name].grad.abs().max() < rounding, name
        else:
            assert_close(actual[name].grad, gradient.view_as(actual[name]), kind)
