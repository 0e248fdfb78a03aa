"""The parts of the official block besides its kernel: BatchNorm, gates, channel dropout, decaying residual."""

import copy
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import arrays_of
from tiny import perturbed, tiny_config
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn import functional

from modeling_dlr import DLRModel
from modeling_dlr.blocks_dlr import (
    GEGLU,
    ChannelDropout,
    DLRBlock,
    DLRMixer,
    ElementDropout,
    MaskedBatchNorm,
    ScalarLayerNorm,
    build_norm,
    normalise,
)

H = 3

# Which steps of three sequences of seven count.
MASKS = {
    "no mask": None,
    "all steps": torch.ones(3, 7, dtype=torch.bool),
    "padding on the right": torch.arange(7) < torch.tensor([[7], [1], [4]]),
    "padding on the left": torch.arange(7) >= torch.tensor([[0], [6], [3]]),
    "holes": torch.arange(21).reshape(3, 7) % 2 == 0,
}
by_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def steps_that_count(x: Tensor, mask: Tensor | None) -> Tensor:
    """[B, L, H] to [steps, H]."""
    return x.flatten(0, 1) if mask is None else x[mask]


def both_norms(device: torch.device) -> tuple[MaskedBatchNorm, nn.BatchNorm1d]:
    """Ours and torch's with the same parameters, neither of them 1 or 0."""
    ours, theirs = perturbed(MaskedBatchNorm(H)), nn.BatchNorm1d(H)
    theirs.load_state_dict(ours.state_dict())
    return ours.double().to(device), theirs.double().to(device)


@by_mask
def test_batch_norm_is_that_of_torch_without_the_padding(mask: Tensor | None, device: torch.device):
    """Outputs, gradients and statistics are those of nn.BatchNorm1d over the steps that are not padding."""
    ours, theirs = both_norms(device)
    mask = None if mask is None else mask.to(device)
    for _ in range(3):
        x = (2 + 3 * torch.randn(3, 7, H, dtype=torch.float64, device=device)).requires_grad_()
        y, expected = steps_that_count(ours(x, mask), mask), theirs(steps_that_count(x, mask))
        assert_close(y, expected, torch.float64)
        G = torch.randn_like(y)
        gradients, theirs_too = (
            torch.autograd.grad(output, [x, norm.weight, norm.bias], G)
            for output, norm in ((y, ours), (expected, theirs))
        )
        for actual, right in zip(gradients, theirs_too, strict=True):
            assert_close(actual, right, torch.float64)
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, torch.float64)


@by_mask
def test_batch_norm_in_evaluation(mask: Tensor | None, device: torch.device):
    """In evaluation it uses its running statistics, like nn.BatchNorm1d, and changes nothing."""
    ours, theirs = (norm.eval() for norm in both_norms(device))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    x = torch.randn(3, 7, H, dtype=torch.float64, device=device)
    assert_close(
        ours(x, None if mask is None else mask.to(device)).flatten(0, 1), theirs(x.flatten(0, 1)), torch.float64
    )
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("batch", [0, 2], ids=["no sequence", "only padding"])
def test_batch_norm_of_nothing(batch: int, device: torch.device):
    """A batch of padding does not change the statistics, and gives no NaN."""
    norm, _ = both_norms(device)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    y = norm(
        torch.randn(batch, 7, H, dtype=torch.float64, device=device),
        torch.zeros(batch, 7, dtype=torch.bool, device=device),
    )
    assert y.isfinite().all()
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


def test_batch_norm_of_one_step(device: torch.device):
    """The variance of one step is 0: its output is the bias, and the running variance stays finite."""
    norm, _ = both_norms(device)
    y = norm(torch.randn(1, 1, H, dtype=torch.float64, device=device))
    assert_close(y[0, 0], norm.bias, torch.float64)
    assert norm.running_var.isfinite().all()


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1.0, 300.0, 1000.0])
def test_scalar_norm_takes_statistics_in_float32(size: float, device: torch.device):
    """The square of 300 is more than float16 holds, and that of 1e-4 less."""
    x = (size * torch.randn(1, 5, 64, device=device)).half()
    norm = ScalarLayerNorm().to(device)
    expected = norm(x.double())
    assert norm.half()(x).dtype == torch.float16
    assert (norm(x) - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batch_norm_takes_statistics_in_float32(dtype: torch.dtype, device: torch.device):
    """Under autocast, and of a bfloat16 input, means and variances over thousands of steps are not rounded."""
    norm, x = MaskedBatchNorm(H).to(device), (5 + torch.randn(2, 4096, H, device=device)).to(dtype)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = norm(x, torch.ones(2, 4096, dtype=torch.bool, device=device))
    assert y.dtype == dtype
    assert_close(norm.running_mean, 0.1 * x.double().mean((0, 1)), torch.float32)
    assert_close(norm.running_var, 0.9 + 0.1 * x.double().flatten(0, 1).var(0), torch.float32)


def test_padding_reaches_batch_norm_only():
    """`normalise` passes the mask to BatchNorm only."""
    x, mask = torch.randn(3, 7, H), MASKS["holes"]
    for norm_type in ("layer", "scalar_layer"):
        norm = build_norm(tiny_config(norm_type=norm_type))
        assert torch.equal(normalise(norm_type, norm, x, mask), norm(x))
    first, second = (build_norm(tiny_config(norm_type="batch")) for _ in range(2))
    assert torch.equal(normalise("batch", first, x, mask), second(x, mask))
    assert not torch.equal(second(x), second(x, mask))


def test_geglu(device: torch.device):
    """The second half of the channels gates the first."""
    x = torch.randn(2, 7, 2 * H, device=device)
    assert torch.equal(GEGLU()(x), x[..., :H] * functional.gelu(x[..., H:]))


def test_channel_dropout_drops_whole_channels(device: torch.device):
    """In training, a channel of a sequence is 0 at all steps or larger by 1/(1-p) at all, independently of others."""
    x = 1 + torch.rand(50, 7, 40, device=device)
    ratio = ChannelDropout(0.3)(x) / x
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    kept = ratio[:, 0] > 0
    assert torch.allclose(ratio[:, 0][kept], torch.tensor(1 / 0.7))
    assert abs(kept.float().mean() - 0.7) < 0.04
    assert kept.float().mean(0).std() < 0.15 > kept.float().mean(1).std()


@pytest.mark.parametrize("kind", [ChannelDropout, ElementDropout])
def test_dropout_in_evaluation(kind: type[nn.Dropout]):
    """In evaluation nothing is dropped."""
    x = torch.randn(2, 7, H)
    assert torch.equal(kind(0.5).eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_element_dropout_is_dropout(p: float, dtype: torch.dtype, device: torch.device):
    """The share of dropped elements, the scale, the gradient, and the effect of a seed are those of dropout."""
    x = torch.ones(200, 500, dtype=dtype, device=device, requires_grad=True)
    torch.manual_seed(0)
    y = ElementDropout(p)(x)
    kept = y != 0
    assert abs(kept.float().mean() - (1 - p)) < 0.01
    assert y.dtype == dtype
    assert torch.equal(y[kept], nn.Dropout(p)(x)[kept].max().expand_as(y[kept]) if p < 1 else y[kept])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(ElementDropout(p)(x), y)


@pytest.mark.parametrize(("dropout_type", "kind"), [("element", ElementDropout), ("channel", ChannelDropout)])
def test_type_of_dropout(dropout_type: str, kind: type[nn.Module]):
    """Both dropouts of a block, after the activation and on the residual branch, have the configured type."""
    block = DLRBlock(tiny_config(dropout_type=dropout_type, hidden_dropout_prob=0.25), 0)
    for dropout in (block.dropout, block.mixer.dropout):
        assert type(dropout) is kind
        assert dropout.p == 0.25


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("layer_idx", [0, 1, 6])
def test_decaying_residual(layer_idx: int, norm_position: str):
    """Layer i, counted from 1, keeps sqrt(1 - 1/i) of its input and adds 1/sqrt(i) of its branch."""
    config = tiny_config(num_hidden_layers=7, residual_type="decay", norm_position=norm_position)
    block = DLRBlock(config, layer_idx).double()
    x, i = torch.randn(2, 7, H, dtype=torch.float64), layer_idx + 1
    branch = block.mixer(block.norm(x) if norm_position == "pre" else x)
    mixed = (1 - 1 / i) ** 0.5 * x + i**-0.5 * branch
    assert_close(block(x), mixed if norm_position == "pre" else block.norm(mixed), torch.float64)


GATES: dict[str, tuple[dict[str, Any], Any]] = {
    "no gate": ({}, lambda y: y),
    "gate": ({"channel_gate_act": "tanh"}, lambda y: np.tanh(y[:, :, 2:]) * y[:, :, :2]),
}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize(("fields", "gate"), GATES.values(), ids=GATES.keys())
def test_mixer_of_several_kernels(fields: dict[str, Any], gate: Any, bidirectional: bool, device: torch.device):
    """Two kernels per channel, or four of which two gate the others, and one projection of all outputs."""
    config = tiny_config(num_kernel_channels=2, bidirectional=bidirectional, hidden_act="relu", **fields)
    mixer = DLRMixer(config, 0).double().to(device)
    u = torch.randn(2, 7, H, dtype=torch.float64, device=device)
    K = oracle.dlr(arrays_of(mixer.kernel), 7, "complex").real
    assert len(K) == 2 * (1 + bool(fields)) * (1 + bidirectional)
    forward, reverse = np.split(K, 2) if bidirectional else (K, None)
    own = arrays_of(mixer)
    y = np.maximum(gate(oracle.convolution(forward, reverse, own["D"], u.cpu().numpy())), 0).reshape(2, 7, 2 * H)
    assert_close(mixer(u), y @ own["out_proj.weight"].T + own["out_proj.bias"], torch.float64)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_batch_norm_counts_a_batch_once_under_checkpointing(use_reentrant: bool):
    """Running statistics and gradients are those without checkpointing, and the next batch counts again."""
    config = tiny_config(norm_type="batch", layer_norm_eps=1e-5)
    torch.manual_seed(0)
    plain = perturbed(DLRModel(config)).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    for _ in range(2):
        embedded = torch.randn(2, 7, config.hidden_size, dtype=torch.float64)
        for model in (plain, checkpointed):
            model(inputs_embeds=embedded.clone().requires_grad_()).last_hidden_state.square().sum().backward()
    assert int(checkpointed.layers[0].norm.num_batches_tracked) == 2
    for (name, ours), theirs in zip(checkpointed.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) is (theirs.grad is None)
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad)
