"""The precision of what kernels are computed from: poles in float64, products in full float32.

torch may round the factors of float32 products to TF32 on accelerators, or to bfloat16 on CPUs with AMX, if it is told
so (`torch.set_float32_matmul_precision`, ``tf32=True`` of the Trainer). Linear layers tolerate that. Kernels do not:
their errors would grow from 1e-6 to 2e-3. What is computed here is therefore exempt from these settings.
"""

import contextlib
import functools
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Types of devices that have no float64: Apple's GPU.
_WITHOUT_FLOAT64 = {"mps"}


def in_float64(x: Tensor) -> Tensor:
    """The same numbers in float64, on their device, or on the CPU if the device has no float64. Differentiable.

    Only poles and small tables of their powers are computed this way. Large products run on the device in its own type.
    """
    return (x.cpu() if x.device.type in _WITHOUT_FLOAT64 else x).double()


def _backends() -> tuple[Any, Any]:
    """The settings of accelerators and of CPUs."""
    # pyrefly: ignore[missing-attribute] - torch makes it when it is imported
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul


class Settings(NamedTuple):
    """How torch rounds the factors of float32 products.

    Attributes:
        name: of `torch.get_float32_matmul_precision`; None if the settings were made backend by backend.
        precisions: of accelerators and of CPUs.
    """

    name: str | None
    precisions: tuple[str, ...]

    @classmethod
    def present(cls) -> "Settings":
        """The settings as they are."""
        try:
            name = torch.get_float32_matmul_precision()
        except RuntimeError:
            name = None
        return cls(name, tuple(backend.fp32_precision for backend in _backends()))

    def restore(self) -> None:
        """Let torch round as these settings say."""
        if self.name is not None:
            torch.set_float32_matmul_precision(self.name)
            return
        for backend, precision in zip(_backends(), self.precisions, strict=True):
            backend.fp32_precision = precision


class _FullFloat32(contextlib.ContextDecorator):
    """In this context, or the decorated function, torch rounds no factors of float32 products, in no thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Settings | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and rounds_products():
                self._before = Settings.present()
                torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before is not None:
                self._before.restore()
                self._before = None


full_float32 = _FullFloat32()


@torch.compiler.assume_constant_result
def rounds_products() -> bool:
    """Whether torch rounds factors of float32 products: for a compiled program a constant, which it is guarded by."""
    return any(backend.fp32_precision in ("tf32", "bf16") for backend in _backends())


@full_float32
def product_with_transposed(x: Tensor, w: Tensor) -> Tensor:
    """The product x wᵀ of [g, m, k] and [g, t, k], [g, m, t], in full precision.

    The faster library of the processor computes it. Not differentiable.
    """
    if len(x) == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x[0], w[0], None, "none", [], "").unsqueeze(0)
    return torch.bmm(x, w.mT)


@functools.cache
def _onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices correctly here, and probably faster than `@`.

    With AVX-512, oneDNN is 1.3 to 2.2 times as fast as `@` on AMD processors and about as fast on Intel's. Without
    AVX-512, `@` is faster. The choice depends on the processor, not on a measured time: two processes compute the same
    bits. The operation is private in torch: if it is missing or wrong, `@` is used.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    x, w = (torch.ones(rows, 3, dtype=torch.float32, device="cpu").cumsum(0) for rows in (2, 4))
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""), x @ w.T)
    except (AttributeError, RuntimeError, TypeError):
        return False
