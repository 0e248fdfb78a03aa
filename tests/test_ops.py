"""The mathematics against the loops of tests/oracle.py: the kernel, its gradients and the convolution."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_dlr import convolution_dlr, vandermonde_dlr
from modeling_dlr.checks_dlr import all_finite
from modeling_dlr.convolution_dlr import convolve, transform_size
from modeling_dlr.ops_dlr import Modes, State, evaluate_kernel, evaluate_read_out, step

DTYPES = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]


class Sizes(NamedTuple):
    """Of modes, and the steps of its kernel."""

    C: int
    H: int
    N: int
    L: int
    shared: bool = True

    def modes(self, dtype: torch.dtype, device: torch.device) -> Modes:
        """Slowly decaying random poles, one of them undamped, and random weights; leaves that need a gradient."""
        poles = (self.N,) if self.shared else (self.H, self.N)
        decay, angle = -0.1 * torch.rand(poles), 2 * torch.pi * torch.rand(poles)
        decay[..., 0] = 0
        weights = torch.randn(2, self.C, self.H, self.N)
        return Modes(*(part.to(device, dtype).requires_grad_() for part in (decay, angle, *weights)))


SIZES = [
    pytest.param(Sizes(C=1, H=3, N=4, L=1), id="one step"),
    pytest.param(Sizes(C=1, H=1, N=1, L=7), id="one pole and one channel"),
    pytest.param(Sizes(C=1, H=3, N=5, L=63), id="shared poles"),
    pytest.param(Sizes(C=2, H=3, N=5, L=100), id="two kernels with shared poles"),
    pytest.param(Sizes(C=1, H=3, N=1, L=63, shared=False), id="one pole per channel"),
    pytest.param(Sizes(C=2, H=3, N=5, L=100, shared=False), id="two kernels with poles per channel"),
    pytest.param(Sizes(C=2, H=3, N=5, L=997), id="several blocks of steps"),
]


def parts_of(modes: Modes) -> list[Tensor]:
    """Decay, angle and weights: what is there of modes that nothing reads from the end."""
    return [part for part in modes if part is not None]


def as_complex(modes: Modes) -> tuple[np.ndarray, np.ndarray]:
    """Log-poles and weights for the oracle."""
    decay, angle, real, imag = (part.detach().cpu().double().numpy() for part in parts_of(modes))
    return decay + 1j * angle, real + 1j * imag


def backpropagated(output: Tensor, inputs: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A random G and the gradients of Σ G·output by the inputs."""
    G = torch.randn(output.shape, dtype=output.dtype, device=output.device)
    return G, list(torch.autograd.grad(output, list(inputs), G))


def values_and_gradients(function: Callable[..., Tensor], *inputs: Any) -> list[Tensor]:
    """The output and its gradients by all inputs, for a G that depends on the shape of the output only."""
    output = function(*inputs)
    torch.manual_seed(1)
    return [output, *backpropagated(output, inputs)[1]]


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest output of any operation holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, tuple | list) else [result]:
            if isinstance(output, Tensor):
                self.numbers = max(self.numbers, output.untyped_storage().nbytes() // output.itemsize)
        return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_kernel_is_its_definition(sizes: Sizes, dtype: torch.dtype, device: torch.device):
    """The factorised kernel equals Re Σ W exp(log Λ · l), term by term."""
    modes = sizes.modes(dtype, device)
    K = evaluate_kernel(modes, sizes.L)
    assert K.dtype == dtype
    assert_close(K, oracle.kernel(*as_complex(modes), sizes.L), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_kernel_gradients_are_the_derived_ones(sizes: Sizes, dtype: torch.dtype, device: torch.device):
    """The backward pass in closed form equals the derivatives written out in the oracle."""
    modes = sizes.modes(dtype, device)
    G, gradients = backpropagated(evaluate_kernel(modes, sizes.L), parts_of(modes))
    expected = oracle.kernel_gradients(*as_complex(modes), G.cpu().double().numpy())
    for actual, derived in zip(gradients, expected, strict=True):
        assert_close(actual, derived, dtype)


@pytest.mark.parametrize("shared", [True, False], ids=["shared poles", "poles per channel"])
def test_kernel_passes_gradcheck(shared: bool, device: torch.device):
    """The gradients equal finite differences."""
    sizes = Sizes(C=2, H=3, N=2, L=67, shared=shared)
    modes = sizes.modes(torch.float64, device)
    assert torch.autograd.gradcheck(lambda *parts: evaluate_kernel(Modes(*parts), sizes.L), parts_of(modes))


@pytest.mark.parametrize("compiling", [False, True], ids=["chunked", "plain"])
def test_kernel_of_a_million_steps(compiling: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch):
    """At 2^20 steps, float32 agrees with float64 at the first and the last step."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    L, N = 2**20, 16
    poles = -1e-6 * torch.rand(N), 2 * torch.pi * torch.rand(N)
    modes = Modes(*(part.to(device) for part in (*poles, *torch.randn(2, 1, 1, N))))
    steps = torch.cat([torch.arange(100), torch.randint(L, (1000,)), torch.arange(L - 100, L)])
    log_poles, weights = as_complex(modes)
    expected = (weights[..., None] * np.exp(log_poles[:, None] * steps.numpy())).sum(-2).real
    K = evaluate_kernel(modes, L)
    assert_close(K[..., steps.to(device)], expected, torch.float32)


@pytest.mark.parametrize(
    ("numbers", "sizes", "chunks"),
    [
        pytest.param(1, Sizes(C=2, H=3, N=5, L=100), (5, 6), id="shared poles, each pole and row apart"),
        pytest.param(400, Sizes(C=2, H=3, N=5, L=100), (2, 2), id="shared poles, three and two poles"),
        pytest.param(1, Sizes(C=2, H=3, N=5, L=100, shared=False), (15, 2), id="poles per channel, all apart"),
        pytest.param(
            600, Sizes(C=2, H=3, N=1, L=100, shared=False), (2, 1), id="poles per channel, two groups and one"
        ),
    ],
)
def test_kernel_does_not_depend_on_its_chunks(
    numbers: int, sizes: Sizes, chunks: tuple[int, int], device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """Cutting the work into chunks of groups, poles and rows changes neither values nor gradients."""
    modes = sizes.modes(torch.float64, device)

    def kernel(*parts: Tensor) -> Tensor:
        return evaluate_kernel(Modes(*parts), sizes.L)

    whole = values_and_gradients(kernel, *parts_of(modes))
    monkeypatch.setattr(vandermonde_dlr, "_NUMBERS_PER_CHUNK", numbers)
    G, R = (1, sizes.C * sizes.H) if sizes.shared else (sizes.H, sizes.C)
    found = vandermonde_dlr._Chunks((G, R, sizes.N), sizes.L, modes.weights_real)
    assert (len(found.tables), len(found.rows)) == chunks
    for chunked, expected in zip(values_and_gradients(kernel, *parts_of(modes)), whole, strict=True):
        assert_close(chunked, expected, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_kernel_is_the_same_when_compiling(
    sizes: Sizes, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """The plain branch for torch.compile and torch.export has the same values and gradients."""
    modes = sizes.modes(dtype, device)

    def kernel(*parts: Tensor) -> Tensor:
        return evaluate_kernel(Modes(*parts), sizes.L)

    chunked = values_and_gradients(kernel, *parts_of(modes))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for plain, expected in zip(values_and_gradients(kernel, *parts_of(modes)), chunked, strict=True):
        assert_close(plain, expected, dtype)


def test_kernel_never_holds_all_powers(device: torch.device):
    """No array on the way forward or back has N × L numbers, or a quarter of that."""
    sizes = Sizes(C=1, H=3, N=64, L=8192)
    modes = sizes.modes(torch.float32, device)
    with LargestTensor() as forward:
        K = evaluate_kernel(modes, sizes.L)
    with LargestTensor() as backward:
        backpropagated(K, parts_of(modes))
    for largest in (forward.numbers, backward.numbers):
        assert sizes.H * sizes.L <= largest < sizes.N * sizes.L / 4


@pytest.mark.parametrize("length", [0, -1])
def test_kernel_has_at_least_one_step(length: int, device: torch.device):
    """An empty kernel is refused with the length that was asked for."""
    modes = Sizes(C=1, H=3, N=1, L=1).modes(torch.float32, device)
    with pytest.raises(ValueError, match=f"at least one step, got length={length}"):
        evaluate_kernel(modes, length)


def test_modes_that_do_not_fit():
    """Poles and weights of other shapes, and unknown read-outs, are refused."""
    good = Sizes(C=1, H=3, N=2, L=5).modes(torch.float32, torch.device("cpu"))
    for bad in (good._replace(decay=torch.zeros(3)), good._replace(weights_imag=torch.zeros(1, 3, 1))):
        with pytest.raises(ValueError, match=r"weights \[C, H, N\], got \["):
            evaluate_kernel(bad, 5)
    with pytest.raises(ValueError, match=r"one of \['real', 'imag', 'sum', 'prod', 'real_prod'\], got 'rel'"):
        evaluate_read_out(good, "rel", 5)


STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "integers": ({"u": torch.ones(2, 3, dtype=torch.long)}, "floating point, got .* torch.int64"),
    "other channels": ({"u": torch.ones(2, 4)}, r"u \[B, 3\]"),
    "skip of other kernels": ({"skip": torch.ones(2, 3)}, r"skip must have the shape \[1, 3\]"),
    "state of another batch": ({"state": State(torch.ones(1, 3, 2), torch.ones(1, 3, 2))}, "the same batch"),
}


@pytest.mark.parametrize(("change", "says"), STEPS.values(), ids=STEPS.keys())
def test_steps_that_do_not_fit(change: dict[str, Any], says: str):
    """Sequences of other lengths are refused, not broadcast."""
    modes = Sizes(C=1, H=3, N=2, L=1).modes(torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=says):
        step(modes, **{"skip": torch.ones(1, 3), "u": torch.ones(2, 3)} | change)


class Convolution(NamedTuple):
    """Sizes of a convolution."""

    B: int
    C: int
    H: int
    L: int
    Lk: int
    bidirectional: bool = False

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Random u, K, K' and D; leaves that need a gradient."""
        shapes = [(self.B, self.L, self.H), *2 * [(self.C, self.H, self.Lk)], (self.C, self.H)]
        u, K, reverse, D = (torch.randn(shape, dtype=dtype, device=device).requires_grad_() for shape in shapes)
        return u, K, reverse if self.bidirectional else None, D


CONVOLUTIONS = [
    pytest.param(Convolution(B=2, C=1, H=3, L=1, Lk=1), id="one step"),
    pytest.param(Convolution(B=2, C=1, H=3, L=1, Lk=1, bidirectional=True), id="one step in both directions"),
    pytest.param(Convolution(B=1, C=1, H=1, L=7, Lk=7), id="one channel"),
    pytest.param(Convolution(B=2, C=1, H=3, L=63, Lk=63), id="causal"),
    pytest.param(Convolution(B=2, C=1, H=3, L=63, Lk=63, bidirectional=True), id="both directions"),
    pytest.param(Convolution(B=2, C=1, H=3, L=63, Lk=5), id="truncated"),
    pytest.param(Convolution(B=2, C=1, H=3, L=63, Lk=5, bidirectional=True), id="truncated in both directions"),
    pytest.param(Convolution(B=2, C=2, H=3, L=63, Lk=62), id="two kernels"),
    pytest.param(Convolution(B=1, C=2, H=3, L=100, Lk=99, bidirectional=True), id="two kernels in both directions"),
    pytest.param(Convolution(B=3, C=1, H=3, L=7, Lk=1, bidirectional=True), id="one tap"),
]


def convolution_of(inputs: Iterable[Tensor | None]) -> np.ndarray:
    """The oracle's result."""
    u, K, reverse, D = (None if x is None else x.detach().cpu().double().numpy() for x in inputs)
    return oracle.convolution(K, reverse, D, u)


def differentiable(inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """`convolve` as a function of the inputs that there are."""
    u, K, reverse, D = inputs
    if reverse is None:
        return lambda u, K, D: convolve(u, K, None, D), [u, K, D]
    return convolve, [u, K, reverse, D]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_is_its_definition(case: Convolution, dtype: torch.dtype, device: torch.device):
    """The convolution by transforms equals the double sum over steps and taps."""
    inputs = case.inputs(dtype, device)
    y = convolve(*inputs)
    assert y.dtype == dtype
    assert_close(y, convolution_of(inputs), dtype)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_is_the_same_when_compiling(
    case: Convolution, device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """The plain branch for torch.compile and torch.export has the same values and gradients."""
    function, inputs = differentiable(case.inputs(torch.float64, device))
    blocked = values_and_gradients(function, *inputs)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for plain, expected in zip(values_and_gradients(function, *inputs), blocked, strict=True):
        assert_close(plain, expected, torch.float64)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both directions"])
@pytest.mark.parametrize("taps", [3, 7], ids=["truncated", "whole"])
def test_convolution_passes_gradcheck(taps: int, bidirectional: bool, device: torch.device):
    """The gradients equal finite differences."""
    case = Convolution(B=2, C=2, H=3, L=7, Lk=taps, bidirectional=bidirectional)
    assert torch.autograd.gradcheck(*differentiable(case.inputs(torch.float64, device)))


def test_convolution_takes_any_memory_layout(device: torch.device):
    """A transposed u and a transposed gradient give what contiguous ones give."""
    case = Convolution(B=2, C=1, H=3, L=63, Lk=63, bidirectional=True)
    u, *others = case.inputs(torch.float64, device)
    G = torch.randn(case.B, case.H, case.C, case.L, dtype=torch.float64, device=device).permute(0, 3, 2, 1)
    strided = u.detach().mT.contiguous().mT.requires_grad_()
    assert not strided.is_contiguous()
    y = convolve(strided, *others)
    assert_close(y, convolution_of([u, *others]), torch.float64)
    actual = torch.autograd.grad(y, [strided, *others], G)
    expected = torch.autograd.grad(convolve(u, *others), [u, *others], G.contiguous())
    for theirs, ours in zip(expected, actual, strict=True):
        assert_close(ours, theirs, torch.float64)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both directions"])
def test_convolution_takes_an_empty_batch(bidirectional: bool, device: torch.device):
    """No sequences give no outputs, and parameters a gradient of 0."""
    case = Convolution(B=0, C=2, H=3, L=7, Lk=7, bidirectional=bidirectional)
    function, inputs = differentiable(case.inputs(torch.float64, device))
    y = function(*inputs)
    assert y.shape == (0, 7, 2, 3)
    for gradient, x in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("numbers", "blocks"), [(1, (3, 3)), (1300, (3, 2)), (2**13, (1, 1))], ids=["least", "uneven", "one"]
)
def test_convolution_does_not_depend_on_its_blocks(
    numbers: int, blocks: tuple[int, int], device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """Cutting channels and sequences into blocks, and channels into strips, changes neither values nor gradients."""
    case = Convolution(B=3, C=2, H=17, L=63, Lk=7, bidirectional=True)
    function, inputs = differentiable(case.inputs(torch.float64, device))
    whole = values_and_gradients(function, *inputs)
    for name, number in {"_NUMBERS_PER_BLOCK": numbers, "_TRANSFORMS": 1, "_SHORT": 0, "_CHANNELS": 8}.items():
        monkeypatch.setattr(convolution_dlr, name, number)
    u, kernel, *_ = inputs
    work = convolution_dlr._Workspace(u, kernel)
    assert (len(work.channels), len(work.sequences)) == blocks
    for blocked, expected in zip(values_and_gradients(function, *inputs), whole, strict=True):
        assert_close(blocked, expected, torch.float64)


def test_transform_sizes_are_the_next_fast_ones():
    """The size is the smallest even 2^a · {1, 3, 5, 9, 15} that is not less than what is asked for."""
    fast = sorted({odd << a for odd in (1, 3, 5, 9, 15) for a in range(1, 15)})
    for smaller, size in pairwise([0, *fast]):
        if size <= 2**14:
            assert {transform_size(n) for n in range(smaller + 1, size + 1)} == {size}


@pytest.mark.parametrize("longest", [0, 0.5], ids=["some last", "none lasts"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_modes_that_have_faded_are_left_out(
    dtype: torch.dtype, longest: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    """The modes that are left out sum to less than the rounding error, in values and gradients."""
    sizes = Sizes(C=2, H=3, N=9, L=997)
    modes = sizes.modes(torch.float64, device)
    with torch.no_grad():
        modes.decay.copy_(-torch.tensor([0, 1e-5, 0.03, 0.05, 0.1, 0.2, 0.5, 2, 30]).clamp(min=longest))
    modes = Modes(*(part.detach().to(dtype).requires_grad_() for part in parts_of(modes)))
    monkeypatch.setattr(vandermonde_dlr, "_SHORTEST_LIFETIME", 8)
    lifetimes = vandermonde_dlr._lifetimes(modes.decay.detach().unsqueeze(0), sizes.L, dtype)
    if longest and device.type == "cpu":
        assert not modes.decay[lifetimes[0][0]].numel()
    else:
        assert len(lifetimes) == (4 if device.type == "cpu" else 1)
    K = evaluate_kernel(modes, sizes.L)
    assert_close(K, oracle.kernel(*as_complex(modes), sizes.L), dtype)
    G, gradients = backpropagated(K, parts_of(modes))
    expected = oracle.kernel_gradients(*as_complex(modes), G.cpu().double().numpy())
    for actual, derived in zip(gradients, expected, strict=True):
        assert_close(actual, derived, dtype)


def test_growing_and_separate_poles_are_never_left_out():
    """A mode that grows or stays, and poles of each channel's own, count to the end of a sequence of any length."""
    L = 2**20
    decay = torch.tensor([[1e-4, 0.0, -1.0, -1e-5, -1e-3]])
    lifetimes = vandermonde_dlr._lifetimes(decay, L, torch.float32)
    found = {steps: poles.tolist() for poles, steps in lifetimes if isinstance(poles, Tensor)}
    assert found == {L: [0, 1, 3], 2**16: [4], 2**12: [2]}
    assert vandermonde_dlr._lifetimes(torch.full((2, 3), -1.0), L, torch.float32) == [(slice(None), L)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_found(dtype: torch.dtype):
    """Infinities that cancel are found, and large finite numbers with an infinite sum are accepted."""
    largest = torch.finfo(dtype).max
    assert all_finite(torch.tensor([largest, largest, -1.0], dtype=dtype))
    assert all_finite(torch.empty(0, dtype=dtype))
    for wrong in ([torch.inf, 1.0], [torch.inf, -torch.inf], [torch.nan, 0.0]):
        assert not all_finite(torch.tensor(wrong, dtype=dtype))
