"""Measure the error of each form against float64, for up to a million steps.

    python benchmarks/accuracy.py --json          # every row; each is printed when it is done
    python benchmarks/accuracy.py --save          # also save to benchmarks/results/accuracy.json; resumes if stopped

The error is max |ours - float64| / max |float64| over the last 1024 steps, in float32 with the same parameters. For the
state, both maxima are over all poles; for the kernel, the second maximum is over all steps. DSS uses time steps of 1e-4
here, because with longer ones its kernels decay to zero within a million steps. The benchmark also measures the plain
formulation in complex64, which takes up to 8 GB of memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import naive
import torch
from measure import RESULTS, build_mixer, run_benchmark
from torch import Tensor

from modeling_dlr.cache_dlr import begin_block, lookahead_tables, next_output, state_after
from modeling_dlr.ops_dlr import Modes, State, convolution, evaluate_kernel, final_state, powers_of, scan, step

HIDDEN_SIZE = 4
LAST = 1024
# Chunk size of the float64 reference, in steps.
_CHUNK = 4096

# One row per kernel: number of poles, and kernel_parameters.
KERNELS: dict[str, tuple[int, dict[str, Any]]] = {
    "DLR complex": (256, {"kernel_type": "dlr"}),
    "DLR imag": (256, {"kernel_type": "dlr", "version": "imag"}),
    "DSS lin": (64, {"kernel_type": "dss", "pole_init": "lin", "time_step_min": 1e-4, "time_step_max": 1e-4}),
}


class Row(NamedTuple):
    """A kernel of ``KERNELS`` and the length of a sequence."""

    kernel: str
    L: int


ROWS = [Row(kernel, 2**exponent) for kernel in KERNELS for exponent in range(10, 21, 2)]


def convolved(kernel: Tensor, skip: Tensor, u: Tensor) -> Tensor:
    """Compute K * u + D u with one FFT of 2 L steps in the kernel's dtype: [H, L], [H] and [H, L] to [H, L]."""
    u, skip, n = u.to(kernel.dtype), skip.to(kernel.dtype), 2 * u.shape[-1]
    y = torch.fft.irfft(torch.fft.rfft(kernel, n=n) * torch.fft.rfft(u, n=n), n=n)
    return y[..., : u.shape[-1]] + skip.unsqueeze(-1) * u


def reference(modes: Modes, u: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the float64 kernel [H, L] and state after u, complex [H, N], from the definitions; u is [H, L]."""
    (H, L), N = u.shape, modes.decay.shape[-1]
    log_poles = torch.complex(modes.decay.double(), modes.angle.double()).reshape(-1, N, 1)
    weights = torch.complex(modes.weights_real[0].double(), modes.weights_imag[0].double()).unsqueeze(1)
    kernel, state = u.new_empty(H, L, dtype=torch.float64), weights.new_zeros(H, N)
    backwards = u.double().flip(-1).to(weights.dtype).unsqueeze(-1)  # [H, L, 1]
    for start in range(0, L, _CHUNK):
        steps = slice(start, min(start + _CHUNK, L))
        powers = torch.exp(log_poles * torch.arange(steps.start, steps.stop, dtype=torch.float64))  # [1 or H, N, steps]
        kernel[:, steps] = (weights @ powers).squeeze(1).real
        state += (powers @ backwards[:, steps]).squeeze(-1)
    return kernel, state


def stepped(decode: Callable[[Tensor, Any], tuple[Tensor, Any]], u: Tensor, state: Any) -> Tensor:
    """Run one step after another over u [H, L]; return the last outputs [H, 1024]."""
    outputs = []
    for t in range(u.shape[-1]):
        y, state = decode(u[:, t].unsqueeze(0), state)
        if t >= u.shape[-1] - LAST:
            outputs.append(y.reshape(-1))
    return torch.stack(outputs, dim=-1)


class Decoder:
    """Block lookahead, one token after another, as in `generate`, from a zero state [1, H, N]."""

    def __init__(self, modes: Modes, skip: Tensor):
        zero = torch.zeros(1, HIDDEN_SIZE, modes.decay.shape[-1])
        self.tables, self.start = lookahead_tables(modes, skip), State(zero, zero)
        self.block = begin_block(self.tables, self.start)

    def __call__(self, u: Tensor, _: None) -> tuple[Tensor, None]:
        """[1, H] to [1, 1, H]."""
        if not self.block.is_open:
            self.start = state_after(self.block, self.start)
            self.block = begin_block(self.tables, self.start)
        return next_output(self.block, u), None


def relative_error(actual: Tensor, expected: Tensor, whole: Tensor | None = None) -> float:
    """Compute max |actual - expected| / max |whole| to three digits; ``whole`` defaults to ``expected``."""
    scale = (expected if whole is None else whole).abs().max()
    return float(f"{float((actual - expected).abs().max() / scale):.3g}")


@torch.no_grad()
def measure(row: Row) -> dict[str, Any]:
    """Measure the relative error of every form, and of the plain formulation."""
    torch.manual_seed(0)
    N, kernel_parameters = KERNELS[row.kernel]
    mixer = build_mixer(HIDDEN_SIZE, N, **kernel_parameters)
    modes, D, L = mixer.kernel.modes(row.L), mixer.D, row.L
    u = torch.randn(HIDDEN_SIZE, L)
    kernel, state = reference(modes, u)
    y = convolved(kernel, D[0], u)[:, -LAST:]
    batch = u.t().unsqueeze(0)  # [1, L, H]
    reached = final_state(modes, batch)
    weights = torch.stack([modes.weights_real[0], modes.weights_imag[0]], dim=-1)
    plain_kernel = naive.dss_kernel if modes.decay.dim() == 2 else naive.dlr_kernel
    plain = plain_kernel(modes.decay.float(), modes.angle.float(), weights, L)
    poles = torch.polar(modes.decay.exp(), modes.angle).to(torch.complex64)
    factors = powers_of(modes, 1)
    W, zero = torch.view_as_complex(weights), torch.zeros(1, HIDDEN_SIZE, N, dtype=torch.complex64)
    pairs: dict[str, tuple[Tensor, ...]] = {
        "kernel": (evaluate_kernel(modes, L)[0, :, -LAST:], kernel[:, -LAST:], kernel),
        "convolution": (convolution(modes, D, batch)[0][0, -LAST:, 0].t(), y),
        "scan": (scan(modes, D, batch)[0][0, -LAST:, 0].t(), y),
        "prefill": (torch.complex(reached.real[0], reached.imag[0]), state),
        "stepping": (stepped(lambda token, x: step(modes, D, token, x, factors), u, None), y),
        "lookahead": (stepped(Decoder(modes, D), u, None), y),
        "naive_kernel": (plain[:, -LAST:], kernel[:, -LAST:], kernel),
        "naive_convolution": (convolved(plain, D[0], u)[:, -LAST:], y),
        "naive_stepping": (stepped(lambda token, x: naive.step(x, poles, W, D[0], token), u, zero), y),
    }
    return {f"{name}_error": relative_error(*pair) for name, pair in pairs.items()}


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "accuracy.json", ROWS, measure)
