"""Both libraries give the same product, one that cannot be used is not, and no setting of torch rounds factors."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from tolerances import assert_close

from modeling_dlr import precision_dlr
from modeling_dlr.cache_dlr import begin_block, lookahead_tables, next_output, state_after
from modeling_dlr.ops_dlr import Modes, State, evaluate_kernel
from modeling_dlr.precision_dlr import Settings, full_float32, product_with_transposed, rounds_products
from modeling_dlr.vandermonde_dlr import vandermonde_adjoint, vandermonde_product


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Each test finds out anew what the processor can do."""
    precision_dlr._onednn_is_faster.cache_clear()
    yield
    precision_dlr._onednn_is_faster.cache_clear()


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize(("groups", "m", "k", "t"), [(1, 1, 1, 1), (1, 7, 63, 100), (3, 5, 2, 7), (1, 0, 3, 4)])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows together", "columns together"])
def test_product_is_that_of_einsum(
    groups: int, m: int, k: int, t: int, transposed: bool, capability: str, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the layout and the library."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    x, w = torch.randn(groups, m, k), torch.randn(groups, t, k)
    if transposed:
        w = w.mT.contiguous().mT
    expected = torch.einsum("gmk,gtk->gmt", x.double(), w.double())
    torch.testing.assert_close(product_with_transposed(x, w).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("onednn", [True, False], ids=["oneDNN", "matmul"])
def test_kernels_are_the_same_by_either(onednn: bool, monkeypatch: pytest.MonkeyPatch):
    """Kernel, moments and their derivatives in float32 against float64."""
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(precision_dlr, "_onednn_is_faster", lambda: onednn)
    poles = torch.stack([-0.01 * torch.rand(1, 33), 6 * torch.rand(1, 33)])
    W, g = torch.randn(2, 1, 3, 33), torch.randn(1, 3, 997)

    def outcome(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = decay, angle, real, imag = [part.to(dtype).requires_grad_() for part in (*poles, *W)]
        kernel = vandermonde_product(decay, angle, real, imag, 997)
        moments = vandermonde_adjoint(decay, angle, g.to(dtype))
        return [kernel, *moments, *torch.autograd.grad((kernel * g).sum() + sum(m.sum() for m in moments), leaves)]

    for ours, exact in zip(outcome(torch.float32), outcome(torch.float64), strict=True):
        assert_close(ours, exact, torch.float32)


@pytest.mark.parametrize("failure", [AttributeError, RuntimeError, TypeError, None])
def test_an_operation_that_is_missing_or_wrong_is_not_used(
    failure: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
):
    """The public product is used instead."""

    def linear(x: torch.Tensor, w: torch.Tensor, *_: object) -> torch.Tensor:
        if failure is not None:
            raise failure("no such operation")
        return torch.zeros(len(x), len(w))

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", linear)
    x, w = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    assert torch.equal(product_with_transposed(x, w), torch.bmm(x, w.mT))


@pytest.mark.parametrize("setting", ["dtype", "device"])
def test_what_is_found_out_does_not_depend_on_defaults(setting: str, monkeypatch: pytest.MonkeyPatch):
    """The processor can do what it can wherever it is asked first."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    usual = precision_dlr._onednn_is_faster()
    precision_dlr._onednn_is_faster.cache_clear()
    if setting == "device":
        with torch.device("meta"):
            assert precision_dlr._onednn_is_faster() is usual
        return
    torch.set_default_dtype(torch.float64)
    try:
        assert precision_dlr._onednn_is_faster() is usual
    finally:
        torch.set_default_dtype(torch.float32)


ROUNDINGS: dict[str, Callable[[], None]] = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "accelerators": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "CPUs": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
}


@pytest.fixture(params=ROUNDINGS.values(), ids=ROUNDINGS)
def rounding(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """torch is told to round the factors of products; afterwards the settings are as they were."""
    request.param()
    yield Settings.present()
    torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("groups", [1, 3])
def test_products_are_issued_in_full_float32(groups: int, monkeypatch: pytest.MonkeyPatch):
    """No backend rounds while a product is computed, on whatever device."""
    seen = []
    monkeypatch.setattr(torch, "bmm", lambda x, w: seen.append(rounds_products()) or x @ w)
    monkeypatch.setattr(precision_dlr, "_onednn_is_faster", lambda: False)
    assert rounds_products()
    product_with_transposed(torch.randn(groups, 3, 4), torch.randn(groups, 5, 4))
    assert seen == [False]
    assert rounds_products()


def decoded(modes: Modes, state: State, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of tokens in a block, and the state after them."""
    block = begin_block(lookahead_tables(modes, torch.zeros(1, 16)), state)
    return [*(next_output(block, u).clone() for u in inputs), *state_after(block, state)]


def test_settings_change_no_number(rounding: Settings):
    """Kernels, their gradients and blocks of tokens are the same to the bit; torch's settings stay as they were."""
    W = torch.randn(2, 1, 16, 64)
    modes = Modes(-0.01 * torch.rand(64), 6 * torch.rand(64), *W)
    state, inputs = State(*torch.randn(2, 3, 16, 64)), torch.randn(5, 3, 16)

    def outcome() -> list[torch.Tensor]:
        leaves = [part.clone().requires_grad_() for part in modes if part is not None]
        kernel = evaluate_kernel(Modes(*leaves), 997)
        return [kernel, *torch.autograd.grad(kernel.square().sum(), leaves), *decoded(modes, state, inputs)]

    under = outcome()
    assert Settings.present() == rounding
    with full_float32:
        exact = outcome()
    assert all(torch.equal(a, b) for a, b in zip(under, exact, strict=True))


def test_threads_share_the_context(rounding: Settings):
    """The settings return when the last thread has left, not the first."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with full_float32:
            inside.set()
            leave.wait(timeout=10)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait(timeout=10)
    with full_float32:
        pass
    assert not rounds_products()
    leave.set()
    thread.join(timeout=10)
    assert Settings.present() == rounding


@pytest.mark.parametrize("name", ["high", "medium"])
def test_compiled_programs_are_exact(name: str):
    """They use float64 where torch would round, also if that is set after they were compiled."""
    modes = Modes(-0.01 * torch.rand(64), 6 * torch.rand(64), *torch.randn(2, 1, 16, 64))
    exact = evaluate_kernel(Modes(*(part.double() for part in modes if part is not None)), 300)
    compiled = torch.compile(evaluate_kernel, fullgraph=True, backend="eager")
    for setting in ("highest", name):
        torch.set_float32_matmul_precision(setting)
        try:
            assert_close(compiled(modes, 300), exact, torch.float32)
        finally:
            torch.set_float32_matmul_precision("highest")
