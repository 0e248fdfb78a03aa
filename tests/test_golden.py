"""Our kernels and blocks against the official code (tests/golden), computed in float64 from its parameters."""

from typing import Any

import pytest
import torch
from golden_data import assert_gradients, fields, loaded, specs, tensors
from tolerances import assert_close
from torch import Tensor

from hub_upload.official import config_of, kernel_parameters_of, state_size_of
from modeling_dlr.blocks_dlr import DLRMixer
from modeling_dlr.kernels_dlr import KERNELS, Kernel
from modeling_dlr.ops_dlr import hippo_frequencies

KERNEL_CASES, BLOCK_CASES = specs("kernels"), specs("blocks")
SGCONV = [case for case, spec in KERNEL_CASES.items() if spec["kernel_type"] == "sgconv"]

# Some modes of these grow, Re λ > 0, where the official gradient is wrong.
GROWING = ["dss_pert_softmax_sep0", "dss_pert_softmax_sep1"]


def kernel_of(spec: dict[str, Any]) -> Kernel:
    """Our kernel for the official arguments."""
    kernel_class = KERNELS[spec["kernel_type"]]
    return kernel_class(spec["channels"], spec["d_model"], state_size_of(spec), kernel_parameters_of(spec))


def at_kept_steps(values: Tensor, data: dict[str, Tensor]) -> Tensor:
    """The steps, along the last axis, that the golden file has of a long sequence."""
    return values[..., data["pos"]] if "pos" in data else values


@pytest.mark.parametrize("case", [case for case in KERNEL_CASES if case not in SGCONV])
def test_kernel_is_the_official_one(case: str, device: torch.device):
    """Values and gradients of every kernel, up to 2^20 steps."""
    spec, data = KERNEL_CASES[case], tensors("kernels")[case]
    kernel = loaded(kernel_of(spec), fields(data, "param.", spec["kernel_type"]), device)
    K = kernel(spec["L"])
    kind, official = (torch.float64, "K64") if "K64" in data else ("official float32", "K")
    assert_close(at_kept_steps(K, data), data[official].view_as(at_kept_steps(K, data)), kind)
    if "G" not in data or case in GROWING:
        return
    (K * data["G"].to(device)).sum().backward()
    in_float64 = fields(data, "grad64.", spec["kernel_type"])
    in_float32 = fields(data, "grad.", spec["kernel_type"])
    kind = torch.float64 if in_float64 else "official float32 gradient"
    assert_gradients(kernel, in_float64 or in_float32, kind)


@pytest.mark.parametrize("case", GROWING)
def test_gradient_of_growing_modes_is_the_true_one(case: str, device: torch.device):
    """Ours equals finite differences; the official one cannot, since it detaches the shift but not the denominator."""
    spec, data = KERNEL_CASES[case], tensors("kernels")[case]
    kernel = loaded(kernel_of(spec), fields(data, "param.", "dss"), device)

    def evaluate(*parameters: Tensor) -> Tensor:
        by_name = dict(zip(dict(kernel.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(kernel, by_name, spec["L"])

    assert torch.autograd.gradcheck(evaluate, tuple(kernel.parameters()))
    (kernel(spec["L"]) * data["G"].to(device)).sum().backward()
    official = fields(data, "grad64.", "dss")
    grows = kernel.pole[:, 0].detach().cpu() > 0
    pole, log_time_step = (kernel.get_parameter(name).grad.cpu() for name in ("pole", "log_time_step"))
    assert_close(kernel.weights.grad, official["weights"], torch.float64)
    assert_close(pole[~grows], official["pole"][~grows], torch.float64)
    assert ((pole - official["pole"])[grows].abs().amax(-1) > 0.01 * pole[grows].abs().amax(-1)).all()
    assert (log_time_step - official["log_time_step"]).abs().max() > 0.5 * log_time_step.abs().max()


@pytest.mark.parametrize("case", SGCONV)
def test_sgconv_is_the_official_one(case: str, device: torch.device):
    """The kernel is divided by the norm of the initial kernel, also after the parameters change."""
    spec, data = KERNEL_CASES[case], tensors("kernels")[case]
    first, after = (fields(data, f"param_{when}.", "sgconv") for when in ("first", "after"))
    norm = {"norm": data["k_norm"]}
    kernel = loaded(kernel_of(spec), first | norm, device)
    assert_close(kernel.initial_buffers()["norm"], data["k_norm"], "official float32")
    assert_close(kernel(spec["L_first"]), data["K_first_call"], "official float32")
    kernel = loaded(kernel, after | norm, device)
    K = kernel(spec["L_after"])
    assert_close(K, data["K_after"], "official float32")
    (K * data["G"].to(device)).sum().backward()
    assert_gradients(kernel, fields(data, "grad.", "sgconv"), "official float32 gradient")
    kernel = loaded(kernel, after | kernel.initial_buffers(), device)
    assert_close(kernel(spec["L_after"]), data["K_after_fresh_norm"], "official float32")


@pytest.mark.parametrize("N", [8, 16, 64, 128])
def test_hippo_frequencies_are_the_official_ones(N: int):
    """The N/2 positive imaginary parts of the eigenvalues of the N × N matrix, decreasing, to float32's rounding."""
    eigenvalues = tensors("kernels")["hippo"][f"hippo_skew_evals_N{N}"]
    assert_close(hippo_frequencies(N // 2), eigenvalues[: N // 2, 1], torch.float32)
    assert (eigenvalues[:, 1].diff() < 0).all()


@pytest.mark.parametrize("case", BLOCK_CASES)
def test_mixer_is_the_official_block(case: str, device: torch.device):
    """Output of every block, and its gradients by the input and all parameters."""
    spec, data = BLOCK_CASES[case], tensors("blocks")[case]

    def ours(x: Tensor) -> Tensor:
        return x.transpose(1, 2) if spec["transposed"] else x

    mixer = loaded(DLRMixer(config_of(spec), 0), fields(data, "sd.", spec["kernel_type"]), device)
    u = data["u"].to(device).double().requires_grad_()
    y = ours(mixer(ours(u)))
    in_float64 = "y64" in data and spec["kernel_type"] != "sgconv"  # whose norm is a float32 number
    expected = data["y64"] if "y64" in data else data["y"]
    assert_close(at_kept_steps(y, data), expected, torch.float64 if in_float64 else "official float32")
    (y * data["G"].to(device)).sum().backward()
    assert_close(at_kept_steps(u.grad, data), data["grad_u"], "official float32 gradient")
    assert_gradients(mixer, fields(data, "grad.", spec["kernel_type"]), "official float32 gradient")
