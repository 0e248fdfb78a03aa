"""Every parameterisation of the kernel, one row each: its options, its parameters, and its definition in the oracle."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import oracle
import torch
from oracle import Arrays

from modeling_dlr.kernels_dlr import KERNELS, Kernel

AnyKernel = TypeVar("AnyKernel", bound=Kernel)

READ_OUTS = ("real", "imag", "sum", "prod", "real_prod")


class Family(NamedTuple):
    """Options of a kernel, the axes of its parameters in letters (2 is real and imaginary), and z[c,h,l] by the paper.

    ``no_recurrence`` is why it has no recurrence, whatever its read-out and length; None if it has one.
    """

    options: dict[str, Any]
    shapes: dict[str, str]
    definition: Callable[[Arrays, int], np.ndarray]
    no_recurrence: str | None = None

    @property
    def kernel_type(self) -> str:
        return self.options["kernel_type"]

    def with_read_out(self, read_out: str) -> dict[str, Any]:
        """The options with this read-out; SGConv, which is real, has none."""
        return self.options if self.kernel_type == "sgconv" else self.options | {"read_out": read_out}

    def kernel(self, C: int = 2, H: int = 3, N: int = 5, **options: Any) -> Kernel:
        """A fresh kernel of this family."""
        return KERNELS[self.kernel_type](C, H, N, self.options | options)

    def evaluate(self, values: Arrays, read_out: str, length: int) -> np.ndarray:
        """K[c,h,l] of the oracle."""
        return oracle.read_out(self.definition(values, length), read_out)


def moved(kernel: AnyKernel) -> AnyKernel:
    """The kernel in float64 and off its start: no two frequencies alike, none 0, and free poles on both sides."""
    with torch.no_grad():
        for name, parameter in kernel.double().named_parameters():
            parameter.add_((0.5 if name == "pole" else 0.1) * torch.randn_like(parameter))
    return kernel


def arrays_of(kernel: torch.nn.Module) -> Arrays:
    """Parameters and buffers for the oracle."""
    return {name: value.detach().cpu().double().numpy() for name, value in kernel.state_dict().items()}


def lengths_of(shape: str, C: int, H: int, N: int, S: int) -> tuple[int, ...]:
    """Letters as numbers: "CHN2" to (C, H, N, 2)."""
    return tuple({"C": C, "H": H, "N": N, "S": S, "2": 2, "1": 1}[letter] for letter in shape)


def dlr(version: str, shapes: dict[str, str], **options: Any) -> Family:
    return Family({"kernel_type": "dlr", "version": version, **options}, shapes, partial(oracle.dlr, version=version))


def dss(version: str, pole: dict[str, str], **options: Any) -> dict[str, Family]:
    """With one time step per channel, and with two."""
    reason = "depends on the length" if version == "softmax" else None
    return {
        f"DSS {version}{', two time steps' if two else ''}": Family(
            {"kernel_type": "dss", "version": version, "separate_time_steps": two, **options},
            {"log_time_step": "H2" if two else "H", **pole, "weights": "CHN2"},
            partial(oracle.dss, version=version),
            reason,
        )
        for two in (False, True)
    }


def s4d(discretization: str, pole_init: str) -> Family:
    return Family(
        {"kernel_type": "s4d", "discretization": discretization, "pole_init": pole_init},
        {"log_time_step": "H", "log_decay": "HN", "frequency": "HN", "weights": "CHN2"},
        partial(oracle.s4d, discretization=discretization),
    )


POLE, DECAY_AND_FREQUENCY = {"pole": "N2"}, {"log_decay": "N", "frequency": "N"}

FAMILIES: dict[str, Family] = {
    "DLR": dlr("complex", {"decay_root": "N", "angle": "N", "weights": "CHN2"}),
    "DLR imag": dlr("imag", {"angle": "N", "weights": "CHN2"}, pole_init="randn"),
    "DLR imag, real weight": dlr("imag_real_weight", {"angle": "N", "weights": "CHN"}),
    "DLR real, real weight": dlr("real_real_weight", {"decay_root": "N", "weights": "CHN"}),
    "DLR from DFouT": dlr("complex", {"decay_root": "HN", "angle": "HN", "weights": "CHN2"}, pole_init="dfout"),
    **dss("softmax", POLE, pole_init="randn"),
    **dss("exp", DECAY_AND_FREQUENCY),
    **dss("exp_re_im", {"log_decay": "N", "log_frequency": "N"}),
    **dss("exp_no_scale", DECAY_AND_FREQUENCY, pole_init="lin"),
    **dss("exp_no_scale_real", {"log_decay": "N"}),
    **dss("clip", POLE, pole_init="lin"),
    **dss("clip_no_scale", POLE, pole_init="randn"),
    **{
        f"S4D {discretization}, {pole_init}": s4d(discretization, pole_init)
        for discretization in ("zoh", "bilinear")
        for pole_init in ("lin", "inv", "legs", "randn")
    },
    "SGConv": Family(
        {"kernel_type": "sgconv", "num_scales": 5},
        {"scales": "SCHN", "alpha": "CH", "norm": "CH1"},
        oracle.sgconv,
        "SGConv learns the kernel itself, not poles",
    ),
}
