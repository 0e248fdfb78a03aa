"""How many operations a layer launches on an accelerator: tens, for sequences of every length, and few for a token."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, TrainingArguments

from modeling_dlr import DLRConfig, DLRModel, kernels_dlr
from modeling_dlr.training import optimizer_for_trainer

aten = torch.ops.aten
# Memory, types, and values of the CPU (those of "meta" cannot be read), without work on the device.
FREE = {aten.empty.memory_format, aten.empty_like, aten.new_empty, aten.promote_types, aten.scalar_tensor}
FREE |= {aten._local_scalar_dense}
B, H, N = 4, 128, 1024


class Launches(TorchDispatchMode):
    """In this context, ``count`` is the number of operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func in FREE or func.overloadpacket in FREE)
        return func(*args, **(kwargs or {}))


def build_layer(**fields: Any) -> nn.Module:
    """A layer on a device that computes nothing, but is no CPU."""
    with torch.device("meta"):
        return DLRModel(DLRConfig(hidden_size=H, num_hidden_layers=1, **fields)).layers[0]


def launches(layer: nn.Module, u: Tensor) -> tuple[int, int]:
    """Those of a forward pass, and with a backward pass."""
    layer.zero_grad()
    with Launches() as counted:
        y = layer(u)
        forward = counted.count
        y.backward(torch.empty_like(y))
    return forward, counted.count


def test_views_and_memory_are_not_counted():
    """An addition is one launch; a view and new memory are none."""
    x = torch.ones(2, device="meta")
    with Launches() as counted:
        x.view(2, 1)[0]
        torch.empty_like(x)
        assert counted.count == 0
        x + x
    assert counted.count == 1


@pytest.mark.parametrize("length", [1, 100, 1000, 4096, 65535, 65536])
def test_a_layer(length: int):
    """At most 60 in a forward pass and 120 with the backward pass, which do not grow with the length."""
    u = torch.empty(B, length, H, device="meta", requires_grad=True)
    forward, both = launches(build_layer(state_size=N), u)
    assert forward <= 60
    assert both <= 120


@pytest.mark.parametrize("kernel_type", ["dlr", "dss", "s4d"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_length_adds_none(kernel_type: str, bidirectional: bool):
    """A sequence of 65,536 steps takes no more launches than one of 4,096."""
    poles = N if kernel_type == "dlr" else 64
    layer = build_layer(state_size=poles, kernel_parameters={"kernel_type": kernel_type}, bidirectional=bidirectional)
    short, long = (torch.empty(B, length, H, device="meta", requires_grad=True) for length in (4096, 65536))
    assert launches(layer, long) == launches(layer, short)


@pytest.mark.parametrize(("kernel_type", "in_blocks"), [("dlr", True), ("dss", True), ("s4d", True), ("dlr", False)])
@torch.no_grad()
def test_a_decoded_token(kernel_type: str, in_blocks: bool, monkeypatch: pytest.MonkeyPatch):
    """At most 25 on average, with what begins and ends a block of 128; 30 in layers with hooks, without blocks."""
    monkeypatch.setattr(kernels_dlr, "has_memory", lambda _: in_blocks)
    tokens = 128 if in_blocks else 2
    layer = build_layer(state_size=64, kernel_parameters={"kernel_type": kernel_type}).eval()
    cache, counts = DynamicCache(config=DLRConfig(num_hidden_layers=1)), []
    for length in (10, *[1] * 2 * tokens):
        with Launches() as counted:
            layer(torch.empty(B, length, H, device="meta"), cache=cache)
        counts.append(counted.count)
    assert sum(counts[-tokens:]) / tokens <= (25 if in_blocks else 30)
    assert max(counts[-tokens:]) <= 140


def test_an_optimizer_step():
    """Torch takes the parameters of a group at once: three layers launch no more than one."""
    factory, options = optimizer_for_trainer(TrainingArguments(optim="adamw_torch"), 1e-3)
    counts = []
    for layers in (1, 3):
        with torch.device("meta"):
            model = DLRModel(DLRConfig(vocab_size=11, hidden_size=8, num_hidden_layers=layers, state_size=4))
        optimizer = factory()(model, **options)
        assert all(group["foreach"] is group["fused"] is None for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["foreach"] = True  # what torch chooses on accelerators, but not on one that computes nothing
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # which makes the moments
        with Launches() as counted:
            optimizer.step()
        counts.append(counted.count)
    assert counts[0] == counts[1]
