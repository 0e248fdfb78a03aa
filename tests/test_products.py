"""Both libraries give the same product, and one that cannot be used is not."""

from collections.abc import Iterator

import pytest
import torch
from tolerances import assert_close

from modeling_dlr import vandermonde_dlr
from modeling_dlr.vandermonde_dlr import product_with_transposed, vandermonde_adjoint, vandermonde_product


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Each test finds out anew what the processor can do."""
    vandermonde_dlr._onednn_is_faster.cache_clear()
    yield
    vandermonde_dlr._onednn_is_faster.cache_clear()


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
    monkeypatch.setattr(vandermonde_dlr, "_onednn_is_faster", lambda: onednn)
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
    usual = vandermonde_dlr._onednn_is_faster()
    vandermonde_dlr._onednn_is_faster.cache_clear()
    if setting == "device":
        with torch.device("meta"):
            assert vandermonde_dlr._onednn_is_faster() is usual
        return
    torch.set_default_dtype(torch.float64)
    try:
        assert vandermonde_dlr._onednn_is_faster() is usual
    finally:
        torch.set_default_dtype(torch.float32)
