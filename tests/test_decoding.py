"""Decoding token by token in blocks is the recurrence, from any state and back to it."""

import pytest
import torch

from modeling_dlr.decoding import lookahead_start, lookahead_step, lookahead_tables, recurrent_state
from modeling_dlr.ops_dlr import Spectrum, State, convolution, step


def random_spectrum(C: int, H: int, N: int, *, shared: bool, dtype: torch.dtype = torch.float64) -> Spectrum:
    poles = (N,) if shared else (H, N)
    decay, angle = -0.1 * torch.rand(poles, dtype=torch.float64), 6 * torch.rand(poles, dtype=torch.float64)
    return Spectrum(decay, angle, torch.randn(C, H, N, dtype=dtype), torch.randn(C, H, N, dtype=dtype))


SIZES = {"one token": (1, 1, 3, 1, 1, 4), "odd": (2, 2, 3, 7, 63, 5), "longer than the tokens": (1, 1, 2, 4, 7, 100)}


@pytest.mark.parametrize(("B", "C", "H", "N", "L", "block"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared poles", "poles per channel"])
def test_blocks_are_steps(B: int, C: int, H: int, N: int, L: int, block: int, shared: bool):
    """Every output and the state after every token equal those of plain steps, from a non-zero state."""
    spectrum, skip = random_spectrum(C, H, N, shared=shared), torch.randn(C, H, dtype=torch.float64)
    plain = State(torch.randn(B, H, N, dtype=torch.float64), torch.randn(B, H, N, dtype=torch.float64))
    tables = lookahead_tables(spectrum, block)
    state = lookahead_start(tables, plain)
    for u in torch.randn(L, B, H, dtype=torch.float64):
        expected, plain = step(spectrum, skip, u, plain)
        y, state = lookahead_step(tables, skip, u, state)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        for mine, theirs in zip(recurrent_state(tables, state), plain, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_step_leaves_the_state_it_was_given():
    """The same state can be continued in two ways, as beam search does."""
    spectrum, skip = random_spectrum(1, 3, 5, shared=True), torch.zeros(1, 3, dtype=torch.float64)
    tables = lookahead_tables(spectrum, 4)
    state = lookahead_start(tables, State(*torch.randn(2, 1, 3, 5, dtype=torch.float64)))
    once, _ = lookahead_step(tables, skip, torch.ones(1, 3, dtype=torch.float64), state)
    lookahead_step(tables, skip, torch.full((1, 3), 7.0, dtype=torch.float64), state)
    again, _ = lookahead_step(tables, skip, torch.ones(1, 3, dtype=torch.float64), state)
    assert torch.equal(once, again)


def test_blocks_are_more_exact_than_the_tolerance_of_steps():
    """After 4,096 float32 tokens the error stays below 1e-5 of the float64 convolution."""
    spectrum, skip = random_spectrum(1, 3, 64, shared=True, dtype=torch.float32), torch.randn(1, 3)
    u = torch.randn(1, 4096, 3)
    exact = Spectrum(*(part.double() for part in spectrum[:4]))
    expected, _ = convolution(exact, skip.double(), u.double())
    tables = lookahead_tables(spectrum, 64)
    state = lookahead_start(tables, State(torch.zeros(1, 3, 64), torch.zeros(1, 3, 64)))
    outputs = []
    for token in u.unbind(1):
        y, state = lookahead_step(tables, skip, token, state)
        outputs.append(y)
    error = (torch.stack(outputs, 1).double() - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_block_length_is_positive():
    """A block of no tokens is refused."""
    with pytest.raises(ValueError, match="at least one token, got block_length=0"):
        lookahead_tables(random_spectrum(1, 2, 3, shared=True), 0)
