"""Every parameterisation against the formula of its paper (tests/oracle.py): values, gradients, types and refusals."""

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import FAMILIES, READ_OUTS, Family, arrays_of, lengths_of, moved
from tolerances import assert_close

from modeling_dlr import DLRConfig, DLRKernel
from modeling_dlr.blocks_dlr import DLRMixer
from modeling_dlr.kernel_parameters_dlr import KERNEL_FIELDS
from modeling_dlr.kernels_dlr import KERNELS, Kernel, SGConvKernel

C, H, N = 2, 3, 5

# C, H, N, and the steps of a kernel: one step, one pole, one channel, two kernels.
SIZES = ((1, 3, 5, 1), (2, 3, 1, 7), (1, 1, 4, 63), (2, 3, 7, 100))
DIRECTIONS = {"causal": False, "bidirectional": True}

by_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
by_read_out = pytest.mark.parametrize(
    ("family", "read_out"),
    [
        pytest.param(family, read_out, id=f"{name}, {read_out}")
        for name, family in FAMILIES.items()
        for read_out in (READ_OUTS if family.kernel_type != "sgconv" else ("real",))
    ],
)


def kernel_of(family: Family, read_out: str, C: int, H: int, N: int) -> Kernel:
    """A kernel off its start, with this read-out."""
    return moved(KERNELS[family.kernel_type](C, H, N, family.with_read_out(read_out)))


CHOICES = ("version", "discretization", "pole_init", "separate_time_steps", "read_out")


@pytest.mark.parametrize(
    ("kernel_type", "option"),
    [(kernel_type, option) for kernel_type in KERNELS for option in CHOICES if option in KERNEL_FIELDS[kernel_type]],
)
def test_every_choice_has_a_row(kernel_type: str, option: str):
    """The tables of families and read-outs leave out no choice that a kernel has."""
    families = [family for family in FAMILIES.values() if family.kernel_type == kernel_type]
    tried = READ_OUTS if option == "read_out" else {family.kernel().options[option] for family in families}
    assert set(tried) == set(KERNEL_FIELDS[kernel_type][option].choices or (False, True))


@by_family
def test_parameters_have_the_documented_names_and_shapes(family: Family):
    """Parameters and buffers are exactly those of the paper, under our names, in float32."""
    state = family.kernel(C, H, N).state_dict()
    scales = family.options.get("num_scales", 0)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: lengths_of(letters, C, H, N, scales) for name, letters in family.shapes.items()
    }
    assert {value.dtype for value in state.values()} == {torch.float32}


@by_read_out
def test_kernel_is_that_of_the_paper(family: Family, read_out: str, device: torch.device):
    """The kernel is the oracle's, made of the same parameters, in float64 and in float32."""
    for C, H, N, length in SIZES:
        kernel = kernel_of(family, read_out, C, H, N).to(device)
        for dtype in (torch.float64, torch.float32):
            K = kernel.to(dtype)(length)
            assert K.dtype == dtype
            assert_close(K, family.evaluate(arrays_of(kernel), read_out, length), dtype)


@by_read_out
def test_gradients_are_the_derivatives(family: Family, read_out: str, device: torch.device):
    """The gradient by every parameter equals finite differences of the oracle."""
    length = 37
    kernel = kernel_of(family, read_out, C, H, 3).to(device)
    G = np.random.default_rng(1).standard_normal((C, H, length))
    (kernel(length) * torch.as_tensor(G, device=device)).sum().backward()
    arrays = arrays_of(kernel)
    learned = {name: arrays[name] for name, _ in kernel.named_parameters()}
    expected = oracle.finite_differences(
        lambda values: float((G * family.evaluate(arrays | values, read_out, length)).sum()), learned
    )
    for name, parameter in kernel.named_parameters():
        assert_close(parameter.grad, expected[name], "finite differences")


@by_family
def test_every_parameter_learns(family: Family, device: torch.device):
    """From its start, each parameter of a kernel gets a gradient that is finite and not 0."""
    kernel = family.kernel().to(device)
    kernel(63).square().sum().backward()
    for name, parameter in kernel.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("bidirectional", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@by_read_out
def test_mixer_convolves_with_the_kernel(family: Family, read_out: str, bidirectional: bool, device: torch.device):
    """With two kernels per channel, in one direction or both, the mixer is the oracle's convolution with them."""
    for max_length in (None, 3):
        options = family.with_read_out(read_out) | {"max_length": max_length}
        sizes = {"hidden_size": H, "state_size": 4, "num_kernel_channels": C}
        mixer = DLRMixer(DLRConfig(**sizes, bidirectional=bidirectional, kernel_parameters=options), 0)
        mixer = mixer.double().to(device)
        K = family.evaluate(arrays_of(moved(mixer.kernel)), read_out, max_length or 7)
        u = torch.randn(2, 7, H, dtype=torch.float64, device=device)
        forward, reverse = np.split(K, 2) if bidirectional else (K, None)
        y = oracle.convolution(forward, reverse, mixer.D.detach().cpu().numpy(), u.cpu().numpy())
        assert_close(mixer.mix(u), y, torch.float64)


@by_family
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_kernel_without_a_model_refuses_what_is_not_finite(family: Family, value: float):
    """In any parameter; the logarithm of 0 is accepted."""
    for name, _ in family.kernel().named_parameters():
        if name.startswith("log_") and value == -torch.inf:
            continue
        kernel = family.kernel()
        kernel.get_parameter(name).data.view(-1)[-1] = value
        with pytest.raises(ValueError, match="must be finite, got"):
            kernel(7)


def test_a_long_kernel_refuses_a_pole_that_is_not_a_number():
    """Modes are grouped by lifetime from 16,384 steps on; one without a lifetime is not left out."""
    kernel = DLRKernel(1, 2, 4)
    kernel.decay_root.data[1] = torch.nan
    with pytest.raises(ValueError, match="must be finite, got nan"):
        kernel(16384)


@by_family
def test_max_length_keeps_the_first_taps(family: Family, device: torch.device):
    """A kernel with ``max_length`` is the kernel of that length: a prefix of a longer one, but for DSS softmax."""
    whole = moved(family.kernel()).to(device)
    for limit, taps in ((1, 1), (7, 7), (63, 63), (64, 63)):
        limited = family.kernel(max_length=limit).double().to(device)
        limited.load_state_dict(whole.state_dict())
        assert_close(limited(63), whole(taps), torch.float64)
        is_prefix = torch.allclose(limited(63), whole(63)[..., :taps], rtol=1e-6, atol=1e-12)
        assert is_prefix == (family.options.get("version") != "softmax" or taps == 63)


@by_family
def test_float64_stays_float64(family: Family, device: torch.device):
    """A module in float64 computes in float64, forward and back."""
    kernel = family.kernel().double().to(device)
    K = kernel(7)
    assert K.dtype == torch.float64
    gradients = torch.autograd.grad(K.sum(), list(kernel.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@by_family
def test_half_types_are_lifted(family: Family, dtype: torch.dtype, device: torch.device):
    """A module in a half type computes in float32 from the rounded parameters."""
    half = family.kernel().to(device, dtype)
    K = half(63)
    assert K.dtype == torch.float32
    assert_close(K, half.float()(63), torch.float32)


NO_RECURRENCE = {
    "whole": ({}, None),
    "truncated": ({"max_length": 7}, "max_length=7 cuts the kernel off"),
    "imaginary part": ({"read_out": "imag"}, None),
    "sum of the parts": ({"read_out": "sum"}, None),
    "product": ({"read_out": "prod"}, "'prod' is a product of kernels"),
    "product in half of the channels": ({"read_out": "real_prod"}, "'real_prod' is a product of kernels"),
}


@pytest.mark.parametrize(("options", "reason"), NO_RECURRENCE.values(), ids=NO_RECURRENCE.keys())
def test_which_kernels_are_recurrences(options: dict[str, Any], reason: str | None):
    """Every kernel says why it can only be convolved with, or that it is a recurrence."""
    for family in FAMILIES.values():
        if family.kernel_type == "sgconv" and "read_out" in options:
            continue
        expected = family.no_recurrence or reason or "None"
        assert expected in str(family.kernel(**options).no_recurrence_because)


def test_sgconv_refuses_what_it_has_no_taps_for():
    """N · 2^(S-1) taps are all there are; the error says how to get more."""
    kernel, limited = (SGConvKernel(1, H, N, {"num_scales": 5, "max_length": limit}) for limit in (None, 80))
    assert kernel(80).shape == limited(81).shape == (1, H, 80)
    with pytest.raises(ValueError, match=r"has 80 taps .* but the sequence has 81 steps: raise num_scales, or set"):
        kernel(81)


BAD_OPTIONS = {
    "misspelt name": ({"max_lenght": 7}, "'max_lenght'.*'max_length'"),
    "name like no other": ({"zzz": 1}, "unknown name 'zzz'; known names are"),
    "no taps": ({"max_length": 0}, r"\['max_length'\] must be >= 1 .*got 0"),
    "taps that are a float": ({"max_length": 7.0}, r"\['max_length'\] must be int or None, got 7.0"),
    "taps that are a bool": ({"max_length": True}, r"\['max_length'\] must be int or None, got True"),
    "negative deviation": ({"weight_init_std": -1}, r"\['weight_init_std'\] must be >= 0, got -1"),
    "deviation as a word": ({"weight_init_std": "1/N"}, r"\['weight_init_std'\] must be float"),
}
BAD_OPTIONS_OF_POLES = {
    "misspelt choice": ({"read_out": "reel"}, r"\['read_out'\] must be one of .*'real'.* got 'reel'"),
    "time step of 0": ({"time_step_min": 0}, r"\['time_step_min'\] must be > 0"),
    "time step of nan": ({"time_step_max": math.nan}, r"\['time_step_max'\] must be > 0.* got nan"),
    "crossed range": ({"time_step_min": 0.2, "time_step_max": 0.1}, "time_step_min must not exceed .* 0.2 > 0.1"),
}


@pytest.mark.parametrize(
    ("kernel_type", "options", "message"),
    [
        pytest.param(kernel_type, *problem, id=f"{kernel_type}, {name}")
        for kernel_type in KERNELS
        for name, problem in (BAD_OPTIONS | (BAD_OPTIONS_OF_POLES if kernel_type != "sgconv" else {})).items()
    ],
)
def test_bad_options_are_refused(kernel_type: str, options: dict[str, Any], message: str):
    """An unknown name or a value out of range is an error that names the rule and the value."""
    with pytest.raises(ValueError, match=message):
        KERNELS[kernel_type](C, H, N, options)


@pytest.mark.parametrize("sizes", [(0, 3, 5), (1, -1, 5), (1, 3, 0)], ids=str)
@pytest.mark.parametrize("kernel_type", KERNELS)
def test_sizes_are_positive(kernel_type: str, sizes: tuple[int, int, int]):
    with pytest.raises(ValueError, match="must be at least 1"):
        KERNELS[kernel_type](*sizes)


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize("kernel_type", KERNELS)
def test_lengths_are_positive(kernel_type: str, length: int):
    with pytest.raises(ValueError, match=f"at least one step, got length={length}"):
        KERNELS[kernel_type](C, H, N)(length)
