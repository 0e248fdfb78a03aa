"""Convolution, scan and step compute the recurrence of tests/oracle.py from any state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from test_ops import DTYPES, SIZES, Sizes, as_complex, parts_of
from tolerances import assert_close
from torch import Tensor

from modeling_dlr.ops_dlr import Modes, State, convolution, evaluate_read_out, scan, step, with_read_out


def steps(modes: Modes, skip: Tensor, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """`step` as often as there are steps."""
    outputs = []
    for x in u.unbind(1):
        y, state = step(modes, skip, x, state)
        outputs.append(y)
    assert state is not None
    return torch.stack(outputs, dim=1), state


FORMS: dict[str, Callable[..., tuple[Tensor, State]]] = {
    "convolution": convolution,
    "scan": partial(scan, chunk_length=7),
    "steps": steps,
}
by_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def draw(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> tuple[Modes, Tensor, Tensor, State]:
    """Modes, D, the input of two sequences, and a state."""
    options: Any = {"dtype": dtype, "device": device}
    state = State(*torch.randn(2, 2, sizes.H, sizes.N, **options))
    u, D = torch.randn(2, sizes.L, sizes.H, **options), torch.randn(sizes.C, sizes.H, **options)
    return sizes.modes(dtype, device), D, u, state


def recurrence(modes: Modes, D: Tensor, u: Tensor, state: State | None) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's outputs and last state."""
    log_poles, weights = as_complex(modes)
    skip, inputs = (x.detach().cpu().double().numpy() for x in (D, u))
    start = None if state is None else complex_state(state)
    return oracle.recurrence(np.exp(log_poles), weights, skip, inputs, start)


def complex_state(state: State) -> np.ndarray:
    return torch.complex(*state).detach().cpu().to(torch.complex128).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("started", [False, True], ids=["from the start", "from a state"])
@by_form
def test_every_form_is_the_recurrence(
    form: Callable[..., Any], started: bool, dtype: torch.dtype, device: torch.device
):
    """x_t = Λ x_{t-1} + u_t, y_t = Re(W x_t) + D u_t: the outputs, and the state after the last step."""
    for sizes in (row.values[0] for row in SIZES if row.values[0].L <= 100):
        modes, D, u, state = draw(sizes, dtype, device)
        y, last = form(modes, D, u, state if started else None)
        assert {y.dtype, last.real.dtype, last.imag.dtype} == {dtype}
        expected, expected_state = recurrence(modes, D, u, state if started else None)
        assert_close(y, expected, dtype)
        assert_close(last.real, expected_state.real, dtype)
        assert_close(last.imag, expected_state.imag, dtype)


@pytest.mark.parametrize("cut", [1, 40, 62])
@pytest.mark.parametrize("before", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("after", FORMS.values(), ids=FORMS.keys())
def test_every_form_continues_every_other(before: Any, after: Any, cut: int, device: torch.device):
    """A sequence in two parts, the second from the state after the first, gives the outputs of the whole."""
    modes, D, u, state = draw(Sizes(C=2, H=3, N=5, L=63), torch.float64, device)
    whole, last = convolution(modes, D, u, state)
    first, middle = before(modes, D, u[:, :cut], state)
    second, end = after(modes, D, u[:, cut:], middle)
    assert_close(torch.cat([first, second], dim=1), whole, torch.float64)
    assert_close(torch.stack(end), torch.stack(last), torch.float64)


@pytest.mark.parametrize("shared", [True, False], ids=["shared poles", "poles per channel"])
@by_form
def test_every_form_passes_gradcheck(form: Callable[..., Any], shared: bool, device: torch.device):
    """Gradients of outputs and last state by poles, weights, D, input and first state equal finite differences."""
    modes, *others, state = draw(Sizes(C=1, H=2, N=2, L=8, shared=shared), torch.float64, device)
    leaves = [part.detach().requires_grad_() for part in (*parts_of(modes), *others, *state)]

    def run(*parts: Tensor) -> tuple[Tensor, ...]:
        y, last = form(Modes(*parts[:4]), *parts[4:6], State(*parts[6:]))
        return y, *last

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("shared", [True, False], ids=["shared poles", "poles per channel"])
@pytest.mark.parametrize("form", [convolution, scan], ids=["convolution", "scan"])
def test_empty_batch(form: Callable[..., Any], shared: bool, device: torch.device):
    """A batch without sequences gives empty outputs and states."""
    modes, D, u, _ = draw(Sizes(C=2, H=3, N=5, L=7, shared=shared), torch.float64, device)
    y, last = form(modes, D, u[:0])
    assert y.shape == (0, 7, 2, 3)
    assert last.real.shape == last.imag.shape == (0, 3, 5)


@pytest.mark.parametrize(("length", "chunk_length"), [(7, 0), (0, 7)], ids=["chunks of nothing", "no steps"])
def test_scan_of_nothing_is_refused(length: int, chunk_length: int, device: torch.device):
    """The error names the chunk and the steps."""
    modes, D, u, _ = draw(Sizes(C=1, H=3, N=5, L=7), torch.float32, device)
    with pytest.raises(ValueError, match=f"at least one step per chunk, got {chunk_length} for {length} steps"):
        scan(modes, D, u[:, :length], chunk_length=chunk_length)


@pytest.mark.parametrize("read_out", ["real", "imag", "sum"])
def test_linear_read_outs_multiply_the_weights(read_out: str, device: torch.device):
    """A linear read-out is a recurrence with multiplied weights."""
    modes, D, u, _ = draw(Sizes(C=2, H=3, N=5, L=63), torch.float64, device)
    log_poles, weights = as_complex(modes)
    z = oracle.sum_of_modes(weights, log_poles, np.arange(63))
    assert_close(evaluate_read_out(modes, read_out, 63), oracle.read_out(z, read_out), torch.float64)
    expected, _ = recurrence(with_read_out(modes, read_out), D, u, None)
    K = oracle.read_out(z, read_out)
    assert_close(
        torch.as_tensor(expected), oracle.convolution(K, None, D.cpu().numpy(), u.cpu().numpy()), torch.float64
    )
