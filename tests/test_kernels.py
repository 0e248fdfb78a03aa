"""The parameterisations: what each draws at birth, what it hands over, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from tolerances import assert_close

from modeling_dlr import DLRKernel
from modeling_dlr.kernels_dlr import KERNELS, DiagonalKernel

Arrays = dict[str, np.ndarray]
C, H, N = 2, 3, 5


class Family(NamedTuple):
    """One parameterisation: its options, the shapes of its parameters, and its poles and weights by the paper."""

    options: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    log_poles: Callable[[Arrays], np.ndarray]
    weights: Callable[[Arrays], np.ndarray]

    def kernel(self, **options: Any) -> DiagonalKernel:
        return KERNELS[self.options["kernel_type"]](C, H, N, self.options | options)


FAMILIES = [
    pytest.param(
        Family(
            options={"kernel_type": "dlr"},
            shapes={"decay_root": (N,), "angle": (N,), "weights": (C, H, N, 2)},
            log_poles=lambda p: -(p["decay_root"] ** 2) + 1j * p["angle"],
            weights=lambda p: p["weights"][..., 0] + 1j * p["weights"][..., 1],
        ),
        id="DLR",
    ),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_have_the_documented_names_and_shapes(family: Family):
    """The parameters are exactly those of the paper, under our names, in float32."""
    named = dict(family.kernel().named_parameters())
    assert {name: tuple(parameter.shape) for name, parameter in named.items()} == family.shapes
    assert {parameter.dtype for parameter in named.values()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_spectrum_is_that_of_the_paper(family: Family, device: torch.device):
    """The kernel equals the oracle's for the poles and weights that the paper derives from the parameters."""
    kernel = family.kernel().to(device)
    parameters = {name: value.detach().cpu().double().numpy() for name, value in kernel.named_parameters()}
    expected = oracle.kernel(family.log_poles(parameters), family.weights(parameters), 63)
    assert_close(kernel(63), expected, torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: Family, device: torch.device):
    """Each parameter gets a gradient that is finite and not 0."""
    kernel = family.kernel().to(device)
    named = dict(kernel.named_parameters())
    gradients = torch.autograd.grad(kernel(63).square().sum(), list(named.values()))
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.parametrize(("limit", "taps"), [(1, 1), (7, 7), (63, 63), (64, 63)])
@pytest.mark.parametrize("family", FAMILIES)
def test_max_length_keeps_the_first_taps(family: Family, limit: int, taps: int, device: torch.device):
    """A kernel with ``max_length`` is a prefix of the same kernel without."""
    whole, limited = family.kernel().to(device), family.kernel(max_length=limit).to(device)
    limited.load_state_dict(whole.state_dict())
    assert_close(limited(63), whole(63)[..., :taps], torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_float64_stays_float64(family: Family, device: torch.device):
    """A module in float64 computes in float64, forward and back."""
    kernel = family.kernel().double().to(device)
    K = kernel(7)
    assert K.dtype == torch.float64
    gradients = torch.autograd.grad(K.sum(), list(kernel.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_types_are_lifted(family: Family, dtype: torch.dtype, device: torch.device):
    """A module in a half type computes in float32 from the rounded parameters."""
    half = family.kernel().to(device, dtype)
    K = half(100)
    assert K.dtype == torch.float32
    assert_close(K, half.float()(100), torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_lenght": 7}, "unknown name 'max_lenght'; did you mean 'max_length'", id="misspelt name"),
        pytest.param({"zzz": 1}, "unknown name 'zzz'; known names are", id="name like no other"),
        pytest.param(
            {"read_out": "reel"}, r"\['read_out'\] must be one of .*'real'.* got 'reel'", id="misspelt choice"
        ),
        pytest.param({"max_length": 0}, r"\['max_length'\] must be >= 1, got 0", id="no taps"),
        pytest.param({"max_length": 7.0}, r"\['max_length'\] must be int or None, got 7.0", id="taps that are a float"),
        pytest.param(
            {"max_length": True}, r"\['max_length'\] must be int or None, got True", id="taps that are a bool"
        ),
        pytest.param({"time_step_min": 0}, r"\['time_step_min'\] must be > 0", id="time step of 0"),
        pytest.param({"time_step_max": math.nan}, r"\['time_step_max'\] must be > 0.* got nan", id="time step of nan"),
        pytest.param(
            {"time_step_min": 0.2, "time_step_max": 0.1},
            "time_step_min must not exceed .* 0.2 > 0.1",
            id="crossed range",
        ),
        pytest.param({"weight_init_std": -1}, r"\['weight_init_std'\] must be >= 0, got -1", id="negative deviation"),
        pytest.param({"weight_init_std": "1/N"}, r"\['weight_init_std'\] must be float", id="deviation as a word"),
    ],
)
def test_bad_options_are_refused(family: Family, options: dict[str, Any], message: str):
    """An unknown name or a value out of range is an error that names the rule and the value."""
    with pytest.raises(ValueError, match=message):
        family.kernel(**options)


def test_unknown_kernel_type_is_refused():
    """The error lists the families there are."""
    with pytest.raises(ValueError, match=r"\['kernel_type'\] must be one of .*'dlr'.* got 'drl'"):
        DLRKernel(C, H, N, {"kernel_type": "drl"})


@pytest.mark.parametrize(
    ("low", "high"), [pytest.param(1e-4, 1e-1, id="default range"), pytest.param(1e-5, 1e-5, id="one time step")]
)
def test_dlr_draws_time_steps_log_uniformly(low: float, high: float):
    """The decays are half of time steps between the two bounds, uniform in their logarithm."""
    kernel = DLRKernel(1, H, 4096, {"time_step_min": low, "time_step_max": high})
    time_step = 2 * kernel.decay_root.detach().double().square()
    assert low * (1 - 1e-6) <= time_step.min()
    assert time_step.max() <= high * (1 + 1e-6)
    quantiles = time_step.log().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    expected = math.log(low) + math.log(high / low) * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    assert (quantiles - expected).abs().max() <= 0.04 * math.log(high / low) + 1e-6


@pytest.mark.parametrize("N", [1, 7, 100])
def test_dlr_omega_angles_are_the_roots_of_unity(N: int):
    """With ``pole_init`` omega, the default, the n-th angle is 2πn/N."""
    assert_close(DLRKernel(1, H, N).angle, 2 * np.pi * np.arange(N) / N, torch.float32)


def test_dlr_random_angles_are_reduced():
    """With ``pole_init`` randn the angles are normal numbers modulo 2π."""
    angle = DLRKernel(1, H, 4096, {"pole_init": "randn"}).angle.detach()
    assert angle.min() >= 0
    assert angle.max() < 2 * math.pi
    normal = torch.where(angle > math.pi, angle - 2 * math.pi, angle)
    assert normal.mean().abs() < 0.06
    assert abs(normal.std() - 1) < 0.04


@pytest.mark.parametrize(
    ("given", "expected"), [pytest.param(None, 1 / 100, id="default 1/N"), pytest.param(0.5, 0.5, id="given")]
)
def test_dlr_weights_are_normal(given: float | None, expected: float):
    """Real and imaginary parts of W are centred, with a deviation of 1/N or the given one."""
    weights = DLRKernel(2, 63, 100, {"weight_init_std": given}).weights.detach()
    for part in weights.unbind(-1):
        assert part.mean().abs() < 0.04 * expected
        assert abs(part.std() - expected) < 0.04 * expected
        assert abs((part.abs() < expected).float().mean() - 0.6827) < 0.02
