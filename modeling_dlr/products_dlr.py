"""Products of matrices by the faster of the two libraries that torch brings for the processor."""

import functools

import torch
from torch import Tensor


def product_with_transposed(x: Tensor, w: Tensor) -> Tensor:
    """The product x wᵀ, matrix by matrix: [g, m, k] and [g, t, k] to [g, m, t]. Not differentiable."""
    if len(x) == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x[0], w[0], None, "none", [], "").unsqueeze(0)
    return torch.bmm(x, w.mT)


@functools.cache
def _onednn_is_faster() -> bool:
    """Whether oneDNN multiplies this processor's float32 matrices, and does it right.

    With AVX-512 it is 1.3 to 2.2 times as fast as `@` on AMD, which MKL does not know, and of the same make as MKL on
    Intel; with less, MKL is faster. Told by what the processor can do and not by the clock, so that two processes give
    the same bits. The operation is not a public one: where it is missing or wrong, `@` does it.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    x, w = (torch.ones(rows, 3, dtype=torch.float32, device="cpu").cumsum(0) for rows in (2, 4))
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""), x @ w.T)
    except (AttributeError, RuntimeError, TypeError):
        return False
