"""The tolerance of every comparison, in one table, the same on every machine."""

import numpy as np
import torch
from torch import Tensor

# max |error| / max |expected|, by what is computed or by what it is compared with.
RELATIVE_ERRORS: dict[torch.dtype | str, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    "finite differences": 1e-6,
    # Logits of four blocks, ours and the official ones both in float32.
    "StripedHyena in float32": 5e-6,
    # Our float64 against the official float32, which rounds its phases: angle · l is off by 1e-7 · l.
    "official float32": 1e-4,
    # And against its gradients, which sum the rounding of both passes; exp(x) - 1 of a small x loses more.
    "official float32 gradient": 5e-4,
    "official float32 gradient, exp(x) - 1": 6e-4,
}


def assert_close(actual: Tensor, expected: Tensor | np.ndarray, kind: torch.dtype | str) -> None:
    """Same shape, and a relative error within that of ``kind``; if ``expected`` is all 0, ``actual`` is, too."""
    actual = actual.detach().cpu().double()
    expected = torch.as_tensor(expected).detach().cpu().double()
    assert actual.shape == expected.shape, f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if expected.numel() == 0:
        return
    error, scale, bound = (actual - expected).abs().max(), expected.abs().max(), RELATIVE_ERRORS[kind]
    assert error <= bound * scale, f"relative error {error / scale:.2g}, more than the {bound:g} of {kind}"
