"""On devices without float64, powers of poles are still computed in float64."""

import copy
from typing import Any

import pytest
import torch
from families import FAMILIES
from small_device import DEVICE, SmallDevice, SmallTensor
from small_device import moved as to_small_device
from tolerances import assert_close
from torch import Tensor
from transformers import DynamicCache

from modeling_dlr import DLRConfig, DLRModel, precision_dlr
from modeling_dlr.ops_dlr import Modes, evaluate_kernel
from modeling_dlr.precision_dlr import in_float64


@pytest.fixture(autouse=True)
def small_device(monkeypatch: pytest.MonkeyPatch):
    """The device of this file is one of those without float64."""
    monkeypatch.setattr(precision_dlr, "_WITHOUT_FLOAT64", {DEVICE.type})


def back(x: Any) -> Tensor:
    """On the CPU."""
    return x.inner if isinstance(x, SmallTensor) else x


def test_the_device_has_no_float64():
    """The simulated device refuses float64 as the real one does."""
    with SmallDevice():
        x = torch.ones(3, device=DEVICE)
        with pytest.raises(TypeError, match="no float64"):
            x.double()
        with pytest.raises(RuntimeError, match="mixes devices"):
            x + torch.ones(3)
        assert in_float64(x).device.type == "cpu"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "SGConv"])
def test_every_kernel_and_its_gradients(name: str):
    """The same as on the CPU, at a length of several blocks."""
    kernel = FAMILIES[name].kernel(2, 3, 5)
    other = to_small_device(copy.deepcopy(kernel))
    weights = torch.randn(2, 3, 997)
    expected = kernel(997)
    (expected * weights).sum().backward()
    with SmallDevice():
        actual = other(997)
        assert actual.device == DEVICE
        (actual * SmallTensor(weights)).sum().backward()
    assert_close(back(actual), expected, torch.float32)
    for mine, theirs in zip(other.parameters(), kernel.parameters(), strict=True):
        assert_close(back(mine.grad), theirs.grad, torch.float32)


def test_a_million_steps():
    """An undamped mode agrees with float64."""
    modes = Modes(torch.zeros(1), torch.tensor([2.5]), torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    expected = torch.cos(torch.tensor(2.5).double() * torch.arange(2**20))
    with SmallDevice():
        actual = back(evaluate_kernel(Modes(*(SmallTensor(part) for part in modes[:4])), 2**20))
    assert_close(actual[0, 0], expected, torch.float32)


LAYERS: dict[str, dict[str, Any]] = {
    "DLR": {},
    "DSS": {"kernel_parameters": {"kernel_type": "dss", "pole_init": "lin"}},
    "hybrid": {"layer_types": ["dlr", "full_attention"], "num_attention_heads": 2},
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_model_trains(layers: dict[str, Any], bidirectional: bool):
    """Forward and backward of a model, with padding."""
    config = DLRConfig(hidden_size=4, num_hidden_layers=2, state_size=5, bidirectional=bidirectional, **layers)
    model = DLRModel(config)
    other = to_small_device(copy.deepcopy(model))
    embedded, weights, mask = torch.randn(2, 33, 4), torch.randn(2, 33, 4), torch.ones(2, 33, dtype=torch.long)
    mask[0, 20:] = 0
    expected = model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)
    (expected * weights).sum().backward()
    with SmallDevice():
        mask = SmallTensor(mask)
        actual = other(inputs_embeds=SmallTensor(embedded), attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)
        (actual * SmallTensor(weights)).sum().backward()
    assert_close(back(actual), expected, torch.float32)
    for mine, theirs in zip(other.layers.parameters(), model.layers.parameters(), strict=True):
        assert_close(back(mine.grad), theirs.grad, torch.float32)


@torch.no_grad()
def test_a_model_decodes():
    """A prompt, tokens one by one, and a chunk from the middle of a block."""
    model = DLRModel(DLRConfig(hidden_size=4, num_hidden_layers=2, state_size=5)).eval()
    other = to_small_device(copy.deepcopy(model))
    embedded = torch.randn(2, 19, 4)
    expected = model(inputs_embeds=embedded).last_hidden_state
    with SmallDevice():
        cache = DynamicCache(config=model.config)
        parts = [
            back(other(inputs_embeds=SmallTensor(chunk), cache=cache).last_hidden_state)
            for chunk in embedded.split([9, 1, 1, 1, 7], dim=1)
        ]
    assert_close(torch.cat(parts, dim=1), expected, torch.float32)
