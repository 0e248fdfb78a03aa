"""Float64 on every machine: what needs it is computed on the CPU where a device has none."""

from torch import Tensor

# Apple's GPU.
_WITHOUT_FLOAT64 = {"mps"}


def in_float64(x: Tensor) -> Tensor:
    """The same numbers in float64: on their device, or on the CPU where the device has no float64. Differentiable.

    Poles and tables of their powers are N (√T + √(L/T)) numbers or so, little to compute and to move; products with
    them are made on the device, in its own type.
    """
    return (x.cpu() if x.device.type in _WITHOUT_FLOAT64 else x).double()
