"""Attention layers: the official numbers, the definition in tests/oracle.py, padding, documents and caches."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import arrays_of
from golden_data import assert_gradients, fields, loaded, specs, tensors
from test_ops import LargestTensor
from tiny import perturbed
from tolerances import assert_close
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from hub_upload.official import attention_of
from hub_upload.official import config_of as official_config
from modeling_dlr import DLRConfig
from modeling_dlr.attention_dlr import DLRAttention, rotate
from modeling_dlr.blocks_dlr import AttentionMixer
from modeling_dlr.layout_dlr import Layout, split_documents

CASES = specs("attention")
ALONE, BLOCKS = ([case for case in CASES if case.startswith(prefix)] for prefix in ("attn/", "block/"))

HIDDEN_SIZE, HEADS, WINDOW = 6, 3, 16
KINDS = ["full_attention", "local_attention"]
LENGTHS = (1, 7, 16, 63, 100)

# Which of 40 steps are padding, row by row. Rows begin and end in the middle of a chunk; one is nothing but padding.
STEPS = 40
PADDINGS: dict[str, list[list[int]]] = {
    "left": [[], [*range(11)], [*range(39)]],
    "right": [[], [*range(23, 40)], [*range(1, 40)]],
    "anywhere": [[0, 5, 6, 20, 39], [*range(8), *range(17, 30)], [*range(40)]],
}

# How a sequence of 40 steps is handed to a cache, piece by piece.
SPLITS: dict[str, list[int]] = {
    "steps": [1] * 40,
    "at once": [40],
    "prompt, then steps": [23] + [1] * 17,
    "chunks of the window": [16, 16, 8],
    "long after short": [3, 37],
    "long after long": [20, 20],
    "back and forth": [1, 18, 1, 1, 17, 2],
}

by_kind = pytest.mark.parametrize("kind", KINDS)
by_direction = pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
by_padding = pytest.mark.parametrize("padding", PADDINGS.values(), ids=PADDINGS.keys())
by_split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())


def config_of(**changes: Any) -> DLRConfig:
    sizes = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": HEADS, "attention_window": WINDOW}
    return DLRConfig(num_hidden_layers=1, **sizes | changes)


def attention(kind: str, device: torch.device, **changes: Any) -> DLRAttention:
    """A layer in float64 whose parameters have all changed from their initial values."""
    return perturbed(DLRAttention(config_of(layer_types=[kind], **changes), 0).double()).to(device)


def mask_of(padding: list[list[int]]) -> Tensor:
    mask = torch.ones(len(padding), STEPS, dtype=torch.bool)
    for row, steps in zip(mask, padding, strict=True):
        row[steps] = False
    return mask


def draw(batch: int, length: int, device: torch.device) -> Tensor:
    return torch.randn(batch, length, HIDDEN_SIZE, dtype=torch.float64, device=device)


@pytest.mark.parametrize("case", ALONE)
def test_attention_is_the_official_one(case: str, device: torch.device):
    """Output of every case, and its gradients by the input and all parameters."""
    spec, data = CASES[case], tensors("attention")[case]
    config = config_of(**attention_of(spec), hidden_size=spec["d_model"], bidirectional=not spec["causal"])
    module = loaded(DLRAttention(config, 0), fields(data, "sd.", "attn"), device)
    assert_official(module, lambda u: module(u, Layout())[0], data, device)


@pytest.mark.parametrize("case", BLOCKS)
def test_mixer_is_the_official_block(case: str, device: torch.device):
    """The same for the block around the attention, with its skip connection."""
    data = {name: value.mT if value.dim() == 3 else value for name, value in tensors("attention")[case].items()}
    mixer = loaded(AttentionMixer(official_config(CASES[case]), 0), fields(data, "sd.", "attn"), device)
    assert_official(mixer, mixer, data, device)


def assert_official(
    module: Any, answer: Callable[[Tensor], Tensor], data: dict[str, Tensor], device: torch.device
) -> None:
    u = data["u"].to(device).double().requires_grad_()
    y = answer(u)
    assert_close(y, data["y"], "official float32")
    (y * data["G"].to(device)).sum().backward()
    assert_close(u.grad, data["grad_u"], "official float32 gradient")
    assert_gradients(module, fields(data, "grad.", "attn"), "official float32 gradient")


@pytest.mark.parametrize("length", LENGTHS)
@by_direction
@by_kind
def test_attention_is_its_definition(kind: str, bidirectional: bool, length: int, device: torch.device):
    """Every step reads what the definition says, at odd lengths too; local attention reads all of one window."""
    module, x = attention(kind, device, bidirectional=bidirectional), draw(2, length, device)
    window = WINDOW if kind == "local_attention" else None
    expected = oracle.attention(arrays_of(module), x.cpu().numpy(), HEADS, not bidirectional, window)
    assert_close(module(x, Layout())[0], expected, torch.float64)
    whole = oracle.attention(arrays_of(module), x.cpu().numpy(), HEADS, not bidirectional)
    assert np.allclose(whole, expected, atol=1e-12) == (window is None or length <= WINDOW)


@by_direction
@by_kind
def test_attention_passes_gradcheck(kind: str, bidirectional: bool, device: torch.device):
    """Gradients are those of finite differences, with padding and several blocks."""
    module = attention(kind, device, bidirectional=bidirectional, attention_window=3, attention_ff_ratio=2)
    mask = torch.ones(2, 8, dtype=torch.bool, device=device)
    mask[0, :3] = False

    def at_steps_that_count(x: Tensor, *parameters: Tensor) -> Tensor:
        by_name = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(module, by_name, (x, Layout(mask=mask, current_mask=mask)))[0][mask]

    x = draw(2, 8, device).requires_grad_()
    assert torch.autograd.gradcheck(at_steps_that_count, (x, *module.parameters()), fast_mode=True)


@by_padding
@by_direction
@by_kind
def test_padding_changes_nothing(kind: str, bidirectional: bool, padding: list[list[int]], device: torch.device):
    """Each row has the outputs and gradients that it has alone, and no NaN, whatever the content of padding is."""
    module, mask = attention(kind, device, bidirectional=bidirectional), mask_of(padding).to(device)
    x = draw(3, STEPS, device).masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    y = module(x, Layout(mask=mask, current_mask=mask))[0]
    assert y.isfinite().all()
    G = torch.randn_like(y).masked_fill(~mask.unsqueeze(-1), 0)
    (y * G).sum().backward()
    padded = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert x.grad.isfinite().all()
    assert not x.grad[~mask].any()
    module.zero_grad()
    for row, g, steps, y_row, x_grad in zip(x.detach(), G, mask, y, x.grad, strict=True):
        alone = row[steps].unsqueeze(0).requires_grad_()
        y_alone = module(alone, Layout())[0]
        (y_alone * g[steps]).sum().backward()
        assert_close(y_row[steps], y_alone[0], torch.float64)
        assert_close(x_grad[steps], alone.grad[0], torch.float64)
    for name, parameter in module.named_parameters():
        assert_close(padded[name], parameter.grad, torch.float64)


@by_direction
@by_kind
def test_documents_are_attended_apart(kind: str, bidirectional: bool, device: torch.device):
    """Documents that share a row are what they are alone, and their positions begin at 0."""
    module, x = attention(kind, device, bidirectional=bidirectional), draw(2, STEPS, device)
    starts = torch.zeros(2, STEPS, dtype=torch.bool, device=device)
    starts[0, [1, 4, 30]] = True
    y = module(x, Layout(documents=split_documents(starts)))[0]
    for row, bounds in ((0, [0, 1, 4, 30, 40]), (1, [0, 40])):
        for start, stop in itertools.pairwise(bounds):
            alone = module(x[row : row + 1, start:stop], Layout())[0]
            assert_close(y[row : row + 1, start:stop], alone, torch.float64)


def cache_of(kind: str, static: bool) -> Cache:
    config = config_of(layer_types=[kind])
    return StaticCache(config=config, max_cache_len=2 * STEPS) if static else DynamicCache(config=config)


def through_cache(module: DLRAttention, x: Tensor, mask: Tensor | None, split: list[int], cache: Cache) -> Tensor:
    """The outputs of all pieces, one after the other, each with the mask of all steps so far."""
    outputs, past = [], 0
    for length in split:
        assert cache.get_seq_length() == past
        stop = past + length
        layout = Layout(past) if mask is None else Layout(past, mask[:, :stop], mask[:, past:stop])
        outputs.append(module(x[:, past:stop], layout, cache)[0])
        past = stop
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("padding", [None, *PADDINGS.values()], ids=["no padding", *PADDINGS])
@by_split
@by_kind
@torch.no_grad()
def test_pieces_are_the_whole(
    kind: str, split: list[int], padding: list[list[int]] | None, static: bool, device: torch.device
):
    """A sequence in pieces through a cache has the outputs of the whole, for any split and padding."""
    module, x = attention(kind, device), draw(3, STEPS, device)
    mask = None if padding is None else mask_of(padding).to(device)
    whole, pieces = (
        module(x, Layout(mask=mask, current_mask=mask))[0],
        through_cache(module, x, mask, split, cache_of(kind, static)),
    )
    counts = torch.ones(3, STEPS, dtype=torch.bool, device=device) if mask is None else mask
    assert_close(pieces[counts], whole[counts], torch.float64)


@by_kind
def test_gradients_pass_through_a_cache(kind: str, device: torch.device):
    """A loss of the last piece reaches the first as if there were no cache."""
    module, x = attention(kind, device), draw(2, STEPS, device).requires_grad_()
    (whole,) = torch.autograd.grad(module(x, Layout())[0][:, -3:].square().sum(), x)
    (pieces,) = torch.autograd.grad(
        through_cache(module, x, None, [20, 17, 3], cache_of(kind, static=False))[:, -3:].square().sum(), x
    )
    assert_close(pieces, whole, torch.float64)


@by_kind
@torch.no_grad()
def test_cache_follows_its_rows(kind: str, device: torch.device):
    """Beams that are reordered, repeated and selected continue from the right row."""
    module, x, cache = attention(kind, device), draw(3, STEPS, device), cache_of(kind, static=False)
    mask = mask_of([[], [*range(11)], [*range(30)]]).to(device)
    through_cache(module, x[:, :35], mask, [35], cache)
    whole = module(x, Layout(mask=mask, current_mask=mask))[0][:, 35:]
    changes = {"reorder_cache": [2, 0, 0], "batch_select_indices": [1], "batch_repeat_interleave": [0, 0, 1, 1, 2, 2]}
    for change, rows in changes.items():
        moved = copy.deepcopy(cache)
        argument = 2 if change == "batch_repeat_interleave" else torch.tensor(rows, device=device)
        getattr(moved, change)(argument)
        assert_close(
            module(x[rows, 35:], Layout(35, mask[rows], mask[rows, 35:]), moved)[0], whole[rows], torch.float64
        )
    cache.reset()
    assert cache.get_seq_length() == 0
    assert_close(through_cache(module, x, mask, [STEPS], cache)[:, 35:], whole, torch.float64)


@torch.no_grad()
def test_cache_of_chunks_stays_small(device: torch.device):
    """It holds less than two chunks of keys and values after any number of steps, and nothing more behind them."""
    module, cache = attention("local_attention", device), cache_of("local_attention", static=False)
    sizes = []
    for start, length in ((0, 1000), (1000, 1), (1001, 100), (1101, 5)):
        module(draw(2, length, device), Layout(past=start), cache)
        layer = cache.layers[0]
        sizes.append([x.untyped_storage().nbytes() for x in (layer.keys, layer.values)])
    assert sizes == [[2 * HIDDEN_SIZE * (2 * WINDOW - 1) * 8] * 2] * 4
    assert cache.get_seq_length() == 1106


def test_cache_of_chunks_cannot_be_cropped(device: torch.device):
    """Cropping is refused, because the earlier keys no longer exist."""
    module, cache = attention("local_attention", device), cache_of("local_attention", static=False)
    module(draw(1, 5, device), Layout(), cache)
    assert not cache.is_croppable
    with pytest.raises(NotImplementedError, match="cannot remove 2 steps"):
        cache.crop(-2)
    cache.crop(0)
    assert cache.get_seq_length() == 5


@by_direction
@pytest.mark.parametrize("padded", [False, True], ids=["no padding", "padding"])
def test_local_attention_is_linear_in_the_length(bidirectional: bool, padded: bool, device: torch.device):
    """No tensor holds more than the steps times the keys of their chunks, forwards and backwards."""
    length, module = 2048, attention("local_attention", device, bidirectional=bidirectional)
    mask = torch.ones(1, length, dtype=torch.bool, device=device) if padded else None
    x = draw(1, length, device).requires_grad_()
    with LargestTensor() as largest:
        module(x, Layout(mask=mask, current_mask=mask))[0].sum().backward()
    assert largest.numbers <= HEADS * length * (3 if bidirectional else 2) * WINDOW


def test_rotary_positions_are_exact_far_out(device: torch.device):
    """After a million steps, the product of a rotated query and key still depends on their distance only."""
    q, k = torch.randn(2, 1, 1, 1, 8, device=device)
    products = [
        (rotate(q, positions(start + 5), 1e4) * rotate(k, positions(start), 1e4)).sum()
        for positions in [lambda step: torch.tensor([[step]], device=device)]
        for start in (0, 2**20 - 1)
    ]
    assert_close(products[1], products[0], torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@by_direction
@by_kind
def test_half_types(kind: str, bidirectional: bool, dtype: torch.dtype, device: torch.device):
    """With half-precision weights and under autocast, outputs are within the rounding of that type."""
    module, x = attention(kind, device, bidirectional=bidirectional).float(), draw(2, 63, device).float()
    mask = torch.ones(2, 63, dtype=torch.bool, device=device)
    mask[0, :9] = False
    expected = module(x, Layout(mask=mask, current_mask=mask))[0]
    with torch.autocast(device.type, dtype):
        automatic = module(x, Layout(mask=mask, current_mask=mask))[0]
    halved = copy.deepcopy(module).to(dtype)(x.to(dtype), Layout(mask=mask, current_mask=mask))[0]
    for actual in (automatic, halved):
        assert actual.dtype == dtype
        assert (actual - expected)[mask].abs().max() < 10 * torch.finfo(dtype).eps * expected.abs().max()
