"""Kernels are computed once per optimizer step and once per frozen model, and never stale; what a snapshot sees."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from modeling_dlr import DLRKernel, SGConvKernel, vandermonde_dlr
from modeling_dlr.vandermonde_dlr import Memo, Snapshot


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the kernels that were really computed."""
    lengths: list[int] = []
    product = vandermonde_dlr._product

    def count(decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
        lengths.append(length)
        return product(decay, angle, real, imag, length)

    monkeypatch.setattr(vandermonde_dlr, "_product", count)
    return lengths


@pytest.fixture
def kernel() -> DLRKernel:
    """A small kernel."""
    return DLRKernel(num_channels=2, hidden_size=3, state_size=7)


def fresh(kernel: nn.Module, length: int) -> Tensor:
    """The kernel without a memory: a copy starts empty."""
    return copy.deepcopy(kernel)(length)


def test_frozen_kernel_is_computed_once(kernel: DLRKernel, computed: list[int]):
    """Evaluation at any shorter length reads the beginning of the kernel that is there."""
    with torch.no_grad():
        values = [kernel(length) for length in (100, 63, 100, 1)]
    assert computed == [100]
    assert all(torch.equal(value, values[0][..., : value.shape[-1]]) for value in values)


def test_micro_batches_share_a_kernel_and_add_their_gradients(kernel: DLRKernel, computed: list[int]):
    """Two backward passes of one optimizer step compute one kernel, and the gradient is the sum."""
    (2 * kernel(63).sum()).backward()
    (3 * kernel(63).square().sum()).backward()
    assert computed == [63]
    other = copy.deepcopy(kernel)
    other.zero_grad()
    K = other(63)
    (2 * K.sum() + 3 * K.square().sum()).backward()
    for mine, theirs in zip(kernel.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def optimizer_step(kernel: DLRKernel) -> None:
    kernel(63).sum().backward()
    torch.optim.AdamW(kernel.parameters(), lr=0.1).step()


def edit_through_data(kernel: DLRKernel) -> None:
    kernel.angle.data.add_(0.1)


def edit_in_place(kernel: DLRKernel) -> None:
    with torch.no_grad():
        kernel.weights[0, 0, 0, 1] = 5.0


def load(kernel: DLRKernel) -> None:
    kernel.load_state_dict(DLRKernel(num_channels=2, hidden_size=3, state_size=7).state_dict())


def to_double(kernel: DLRKernel) -> None:
    kernel.double()


def replace(kernel: DLRKernel) -> None:
    kernel.decay_root = nn.Parameter(kernel.decay_root.detach() + 0.1)


@pytest.mark.parametrize("change", [optimizer_step, edit_through_data, edit_in_place, load, to_double, replace])
def test_kernel_is_never_stale(kernel: DLRKernel, change: Callable[[DLRKernel], None]):
    """Whatever changes the parameters, the next kernel is that of the new ones."""
    with torch.no_grad():
        kernel(100)
    change(kernel)
    assert torch.equal(kernel(63), fresh(kernel, 63))


def test_writing_into_a_kernel_does_not_spoil_the_next(kernel: DLRKernel):
    """What is handed out may be changed."""
    expected = fresh(kernel, 63)
    with torch.no_grad():
        kernel(63).zero_()
        assert torch.equal(kernel(63), expected)


def test_inference_mode_leaves_nothing_that_training_cannot_use(kernel: DLRKernel, computed: list[int]):
    """A kernel made in inference mode is computed once there, and once more for training."""
    with torch.inference_mode():
        values = [kernel(63) for _ in range(2)]
    for _ in range(2):
        kernel(63).sum().backward()
    assert computed == [63, 63]
    assert torch.equal(*values)
    assert kernel.angle.grad is not None


def test_longer_sequences_and_other_parameters_share_no_kernel(kernel: DLRKernel, computed: list[int]):
    """A longer kernel is computed anew, and copies and pickles start empty."""
    with torch.no_grad():
        kernel(63)
        kernel(100)
        copy.deepcopy(kernel)(100)
        pickle.loads(pickle.dumps(kernel))(100)  # noqa: S301 - our own
    assert computed == [63, 100, 100, 100]


def test_a_known_kernel_is_no_larger_than_what_was_asked_for():
    """SGConv computes all its taps, and only the first are kept."""
    kernel = SGConvKernel(1, 3, 64)
    with torch.no_grad():
        known = kernel(5)
    assert known.untyped_storage().nbytes() == known.numel() * known.element_size()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # by torch's own derivative
def test_a_tangent_is_not_lost():
    """Forward-mode differentiation computes the kernel anew, with gradients or without."""
    kernel = SGConvKernel(1, 3, 4)
    with torch.no_grad(), forward_ad.dual_level():
        for size in (1.0, 2.0):
            scales = forward_ad.make_dual(kernel.scales.detach(), torch.full_like(kernel.scales, size))
            y = torch.func.functional_call(kernel, {"scales": scales}, (5,))
            tangent = forward_ad.unpack_dual(y).tangent
            assert tangent is not None
            assert tangent.abs().max() > 0


def through_data(x: Tensor) -> Tensor:
    x.data.add_(1)
    return x


def transposed(x: Tensor) -> Tensor:
    x.data = x.data.mT
    return x


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda x: x.add_(1),
    "in place, to the same values": lambda x: x.add_(0),
    "through data": through_data,
    "another place": lambda x: x.clone(),
    "another type": lambda x: x.view(torch.int32),
    "a part": lambda x: x[:1],
    "transposed": transposed,
}


@pytest.mark.parametrize("shape", [(3, 3), (99, 99)], ids=str)
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_snapshot_sees(write: Callable[[Tensor], Tensor], contiguous: bool, shape: tuple[int, int]):
    """Every write that torch counts or that reaches a number of the sample, and every other tensor."""
    x, y = torch.randn(shape), torch.randn(7)
    x = x if contiguous else x.mT
    snapshot = Snapshot((x, y))
    assert snapshot.is_untouched((x, y))
    assert not snapshot.is_untouched((x,))
    assert not snapshot.is_untouched((write(x), y))


def test_a_snapshot_keeps_the_memory():
    """A tensor that takes the place of one that was freed is not mistaken for it."""
    x = nn.Parameter(torch.randn(99))
    snapshot, value = Snapshot((x,)), x.detach().clone()
    x.data = torch.empty(0)
    x.data = value
    assert not snapshot.is_untouched((x,))


def test_samples_have_real_and_imaginary_parts():
    """Of weights [C, H, N, 2], whatever powers of two their sizes are: every 512th number would be a real part."""
    for part in (0, 1):
        weights = torch.randn(2, 64, 128, 2)
        snapshot = Snapshot((weights,))
        weights.data[..., part] += 1
        assert not snapshot.is_untouched((weights,))


def test_nothing_is_read_or_kept_elsewhere():
    """Where values cannot be read without a wait, they are not: a device without values stands for an accelerator."""
    x = torch.empty(7, device="meta")
    memo: Memo[tuple[Tensor]] = Memo()
    results = [memo.get((x,), lambda: (x.clone(),)) for _ in range(2)]
    assert results[0][0] is not results[1][0]
    snapshot = Snapshot((x,))
    x.data.add_(1)
    assert snapshot.is_untouched((x,))
    x.add_(1)
    assert not snapshot.is_untouched((x,))


def test_optimizers_of_the_process_are_left_alone():
    """Importing hooks into none of them."""
    from torch.optim import optimizer

    hooks = [*optimizer._global_optimizer_pre_hooks.values(), *optimizer._global_optimizer_post_hooks.values()]
    assert not [hook for hook in hooks if type(hook).__module__.startswith("modeling_dlr")]
