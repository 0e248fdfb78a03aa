"""Continue from a cache: chunks, steps and the whole have the same outputs, for every kernel with a recurrence."""

import copy
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES, moved
from tiny import HEADS, INPUTS, draw_input, gradients_of, perturbed, tiny_config
from tolerances import assert_close
from torch import Tensor
from transformers import DynamicCache, StaticCache

from modeling_dlr import DLRForSequenceClassification, DLRModel, detach_cache
from modeling_dlr.cache_dlr import kind_of, stream
from modeling_dlr.convolution_dlr import convolve
from modeling_dlr.layout_dlr import sort_steps, take_steps
from modeling_dlr.losses_dlr import POOLINGS
from modeling_dlr.ops_dlr import State

RECURRENT = {name: family for name, family in FAMILIES.items() if family.kernel(1, 3, 5).no_recurrence_because is None}
CUTS = {"steps": [1] * 63, "chunks": [7, 40, 1, 1, 14], "prompt and steps": [60, 1, 1, 1], "one chunk": [63]}
by_cuts = pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())


def masked_recurrence(kernel: Any, u: Tensor, mask: Tensor, start: Any) -> tuple[list[Any], Any]:
    """Outputs of the steps that count and the last state of each row by the oracle, with padding taken out first."""
    modes = kernel.recurrence()
    poles = torch.exp(modes.decay + 1j * modes.angle).detach().numpy()
    weights = torch.complex(modes.weights_real, modes.weights_imag).detach().numpy()
    skip = torch.zeros(*weights.shape[:2]).double().numpy()
    rows, states = [], []
    for row, steps, state in zip(u.numpy(), mask.numpy(), start, strict=True):
        y, last = oracle.recurrence(poles, weights, skip, row[steps][None], state[None])
        rows.append(y[0])
        states.append(last[0])
    return rows, states


@pytest.mark.parametrize("name", RECURRENT)
def test_padding_neither_adds_to_a_state_nor_moves_it(name: str):
    """From any state, with padding left, right and inside, outputs and last states are those without the padding."""
    kernel = moved(RECURRENT[name].kernel(2, 3, 5))
    L = 31
    u = torch.randn(5, L, 3, dtype=torch.float64)
    mask = torch.ones(5, L, dtype=torch.bool)
    mask[1, :9], mask[2, 20:], mask[3, 5:8], mask[4] = False, False, False, torch.rand(L) < 0.5
    start = State(*torch.randn(2, 5, 3, 5, dtype=torch.float64))
    skip = torch.zeros(2, 3, dtype=torch.float64)
    zeroed = u.masked_fill(~mask.unsqueeze(-1), 0)
    order = sort_steps(~mask)

    def convolution(x: Tensor) -> Tensor:
        return convolve(x, kernel(L), None, skip)

    y, last = stream(kernel.recurrence(), skip, take_steps(zeroed, order.steps), start, mask.sum(1), convolution)
    y = take_steps(y, order.places)
    expected, states = masked_recurrence(kernel, u, mask, torch.complex(*start).numpy())
    for row, steps, answer in zip(y, mask, expected, strict=True):
        assert_close(row[steps], answer, torch.float64)
    for row in range(5):
        assert_close(last.real[row], states[row].real, torch.float64)
        assert_close(last.imag[row], states[row].imag, torch.float64)


def streamed(model: Any, name: str, values: Tensor, cuts: list[int], **masks: Tensor) -> list[Any]:
    """Outputs chunk by chunk through one cache."""
    cache = DynamicCache(config=model.config)
    outputs, start = [], 0
    for size in cuts:
        chunk = slice(start, start + size)
        mask = {key: mask[:, : chunk.stop] for key, mask in masks.items()}
        outputs.append(model(**{name: values[:, chunk]}, **mask, cache=cache))
        start += size
    assert cache.get_seq_length() == start
    return outputs


@pytest.mark.parametrize("cuts", [CUTS["chunks"], [5] + 9 * [1] + [49]], ids=str)
@pytest.mark.parametrize("name", RECURRENT)
def test_chunks_are_the_whole(name: str, cuts: list[int]):
    """Hidden states of a sequence given in pieces are those of the whole, switching between convolution and steps."""
    kernel = RECURRENT[name].options
    fields = {"kernel_parameters": kernel, "num_kernel_channels": 2, "channel_gate_act": "silu"}
    model = perturbed(DLRModel(tiny_config(**fields)).eval()).double()
    ids = draw_input("tokens", model.config, 2, 63)["input_ids"]
    parts = torch.cat([part.last_hidden_state for part in streamed(model, "input_ids", ids, cuts)], dim=1)
    assert_close(parts, model(input_ids=ids).last_hidden_state, torch.float64)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_can_be_streamed(kind: str):
    """The same holds for embeddings and values."""
    model = perturbed(DLRModel(tiny_config(**INPUTS[kind][1])).eval()).double()
    ((argument, values),) = draw_input(kind, model.config, 2, 63).items()
    values = values.double() if values.is_floating_point() else values
    parts = [part.last_hidden_state for part in streamed(model, argument, values, CUTS["prompt and steps"])]
    assert_close(torch.cat(parts, dim=1), model(**{argument: values}).last_hidden_state, torch.float64)


@by_cuts
def test_chunks_in_float32(cuts: list[int]):
    """In float32 they agree to 1e-5."""
    model = perturbed(DLRModel(tiny_config(hidden_size=17, state_size=33)).eval())
    ids = draw_input("tokens", model.config, 2, 63)["input_ids"]
    parts = torch.cat([part.last_hidden_state for part in streamed(model, "input_ids", ids, cuts)], dim=1)
    assert_close(parts, model(input_ids=ids).last_hidden_state, torch.float32)


@by_cuts
@pytest.mark.parametrize("cache_class", [DynamicCache, StaticCache])
def test_poolings_of_a_stream(cuts: list[int], cache_class: type):
    """A sequence head that reads a sequence in pieces, padded or not, has the output for the whole."""
    for pooling in POOLINGS:
        model = perturbed(DLRForSequenceClassification(tiny_config(pooling=pooling)).eval()).double()
        ids = draw_input("tokens", model.config, 3, 63)["input_ids"]
        mask = torch.ones_like(ids)
        mask[0, :9], mask[1, 50:] = 0, 0
        for masks in ({}, {"attention_mask": mask}):
            last = streamed(model, "input_ids", ids, cuts, **masks)[-1]
            assert_close(last.logits, model(input_ids=ids, **masks).logits, torch.float64)


def test_token_head_of_a_stream():
    """A token head answers every piece as it answers the whole."""
    model = perturbed(HEADS["token head"](tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 2, 63)["input_ids"]
    parts = torch.cat([part.logits for part in streamed(model, "input_ids", ids, CUTS["chunks"])], dim=1)
    assert_close(parts, model(input_ids=ids).logits, torch.float64)


def test_mask_of_a_piece():
    """The mask of a piece may be of the piece alone, so that nothing grows with the length of a stream."""
    model = perturbed(DLRModel(tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 2, 20)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 12:15] = 0
    whole, short = DynamicCache(config=model.config), DynamicCache(config=model.config)
    for steps in (slice(0, 10), slice(10, 20)):
        expected = model(ids[:, steps], attention_mask=mask[:, : steps.stop], cache=whole)
        actual = model(ids[:, steps], attention_mask=mask[:, steps], cache=short)
        assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)


def test_state_of_constant_size():
    """The size of a cache does not depend on the number of steps, which the cache counts."""
    model = perturbed(DLRForSequenceClassification(tiny_config()).eval())
    cache, sizes = DynamicCache(config=model.config), []
    with torch.no_grad():
        for _ in range(5):
            model(**draw_input("tokens", model.config, 2, 100), cache=cache)
            sizes.append(sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values)))
    assert len(set(sizes)) == 1
    assert cache.get_seq_length() == 500
    cache.reset()
    assert cache.get_seq_length() == 0


def test_gradient_through_a_carried_state():
    """Gradients flow through the cache as through the whole sequence; detach_cache cuts them there."""
    model = perturbed(DLRModel(tiny_config())).double()
    ids = draw_input("tokens", model.config, 2, 20)["input_ids"]

    def gradients(cut: bool) -> dict[str, Tensor]:
        model.zero_grad()
        cache = DynamicCache(config=model.config)
        first = model(ids[:, :12], cache=cache).last_hidden_state
        if cut:
            detach_cache(cache)
        second = model(ids[:, 12:], cache=cache).last_hidden_state
        (first.square().sum() + second.square().sum()).backward()
        return gradients_of(model)

    carried, truncated = gradients(False), gradients(True)
    model.zero_grad()
    model(ids).last_hidden_state.square().sum().backward()
    for name, expected in gradients_of(model).items():
        torch.testing.assert_close(carried[name], expected, rtol=1e-9, atol=1e-9)
    assert any(not torch.allclose(truncated[name], carried[name], rtol=1e-3) for name in carried)
    cache = detach_cache(model(ids, use_cache=True).cache)
    assert not any(part.requires_grad for layer in cache.layers for part in (layer.keys, layer.values))


def test_batches_of_a_cache():
    """A cache's sequences can be reordered, repeated and chosen, as beam search does."""
    model = perturbed(DLRModel(tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 3, 20)["input_ids"]
    rows = torch.tensor([2, 0])
    expected = model(ids[rows]).last_hidden_state[:, 12:]
    for change in ("reorder_cache", "batch_select_indices"):
        cache = model(ids[:, :12], use_cache=True).cache
        getattr(cache, change)(rows)
        assert_close(model(ids[rows, 12:], cache=cache).last_hidden_state, expected, torch.float64)
    cache = model(ids[:, :12], use_cache=True).cache
    cache.batch_repeat_interleave(2)
    repeated = ids.repeat_interleave(2, dim=0)
    answer = model(repeated[:, 12:], cache=cache).last_hidden_state
    assert_close(answer, model(repeated).last_hidden_state[:, 12:], torch.float64)
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(-1)


# Fields of the model, of the model that made the cache (None: there is none), and what the message must contain.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any] | None, list[str]]] = {
    "both directions": ({"bidirectional": True}, None, ["bidirectional=True", "use_cache=False"]),
    "a convolution only": ({"kernel_parameters": {"kernel_type": "sgconv"}}, None, ["SGConv", "use_cache=False"]),
    "a kernel cut off": ({"kernel_parameters": {"max_length": 8}}, None, ["max_length=8", "use_cache=False"]),
    "a product": ({"kernel_parameters": {"read_out": "prod"}}, None, ["'prod'", "use_cache=False"]),
    "more layers": (
        {"num_hidden_layers": 3},
        {},
        ["layers", "'dlr', 'dlr', 'dlr'", "DynamicCache(config=model.config)"],
    ),
    "another state": ({"state_size": 7}, {}, ["(3, 5)", "(3, 7)", "another model"]),
}


@pytest.mark.parametrize(("fields", "made_by", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(fields: dict[str, Any], made_by: dict[str, Any] | None, says: list[str]):
    """An invalid cache is refused with the reason and the cure, before anything is computed or changed."""
    model = DLRModel(tiny_config(**fields)).eval()
    ids = draw_input("tokens", model.config, 2, 7)["input_ids"]
    cache = None
    if made_by is not None:
        with torch.no_grad():
            cache = DLRModel(tiny_config(**made_by)).eval()(ids, use_cache=True).cache
    before = copy.deepcopy(cache)
    with pytest.raises(ValueError, match="cache") as caught:
        model(ids, cache=cache, use_cache=True)
    assert all(part in str(caught.value) for part in says), caught.value
    if cache is not None and before is not None:
        for layer, earlier in zip(cache.layers, before.layers, strict=True):
            assert torch.equal(layer.keys, earlier.keys)
            assert layer.get_seq_length() == earlier.get_seq_length() == 7


def test_checkpointing_and_a_cache():
    """Checkpointing would update a state twice: a cache is refused in training, and none is created."""
    model = perturbed(DLRModel(tiny_config())).train()
    model.activation_checkpointing_enable()
    inputs = draw_input("tokens", model.config, 2, 7)
    with pytest.raises(ValueError, match=r"[Cc]heckpointing .*switch it off"):
        model(**inputs, cache=DynamicCache(config=model.config))
    assert model(**inputs, use_cache=True).cache is None
    assert model.eval()(**inputs, use_cache=True).cache is not None


ATTENTION = {"hidden_size": 8, "layer_types": ["dlr", "full_attention"]}
LOCAL = {"hidden_size": 8, "layer_types": ["dlr", "local_attention"]}


@pytest.mark.parametrize(
    ("made_by", "says"),
    [(ATTENTION | {"num_attention_heads": 2}, r"\(2, 4\), but the model has \(4, 2\)"), (LOCAL, "LocalAttentionLayer")],
    ids=["other heads", "local attention"],
)
def test_cache_of_another_attention(made_by: dict[str, Any], says: str):
    """A cache of other attention layers is refused before its DLR layers have moved."""
    model, other = (DLRModel(tiny_config(**fields)).eval() for fields in (ATTENTION, made_by))
    inputs = draw_input("tokens", model.config, 2, 7)
    with torch.no_grad():
        cache = other(**inputs, use_cache=True).cache
    with pytest.raises(ValueError, match=says):
        model(**inputs, cache=cache)
    assert cache.get_seq_length() == 7


def test_reset_cache_of_another_batch():
    """A cache that keeps its memory when it is reset is refused for another number of sequences."""
    model = DLRModel(tiny_config(**ATTENTION)).eval()
    cache = StaticCache(config=model.config, max_cache_len=20)
    with torch.no_grad():
        model(**draw_input("tokens", model.config, 2, 7), cache=cache)
        cache.reset()
        model(**draw_input("tokens", model.config, 2, 7), cache=cache)
        cache.reset()
    with pytest.raises(ValueError, match="batch of 2 sequences, got 3"):
        model(**draw_input("tokens", model.config, 3, 7), cache=cache)


def test_another_batch():
    """A cache of another number of sequences is refused."""
    model = DLRModel(tiny_config()).eval()
    cache = model(**draw_input("tokens", model.config, 2, 7), use_cache=True).cache
    with pytest.raises(ValueError, match=r"batch of 2 sequences, got 3"):
        model(**draw_input("tokens", model.config, 3, 7), cache=cache)
    with pytest.raises(ValueError, match=r"DynamicCache\(config=model.config\)"):
        model(**draw_input("tokens", model.config, 2, 7), cache=DynamicCache())


def test_a_cache_in_another_type():
    """States in float64 do not go on in float32; nothing is moved on."""
    model, inputs = DLRModel(tiny_config()).eval().double(), {"input_ids": torch.ones(2, 7, dtype=torch.long)}
    cache = model(**inputs, use_cache=True).cache
    with pytest.raises(ValueError, match=r"torch.float64.* torch.float32"):
        model.float()(**inputs, cache=cache)
    assert cache.get_seq_length() == 7


def test_a_cache_that_was_cropped_in_part():
    """Attention gives tokens back and a state does not: transformers crops layer by layer, so one is then too long."""
    layers = {"num_attention_heads": 1, "hidden_size": 4, "layer_types": ["full_attention", "dlr"]}
    model, inputs = DLRModel(tiny_config(**layers)).eval(), {"input_ids": torch.ones(2, 7, dtype=torch.long)}
    cache = model(**inputs, use_cache=True).cache
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(-5)
    with pytest.raises(ValueError, match=r"have seen \[2, 7\] steps"):
        model(**inputs, cache=cache)


def test_layers_of_a_cache_say_what_they_serve():
    """By what their class declares, for the class of another folder of the same code has any name."""
    model = perturbed(DLRForSequenceClassification(tiny_config()).eval())
    ids = draw_input("tokens", model.config, 2, 20)["input_ids"]
    with torch.no_grad():
        expected, cache = model(ids).logits, model(ids[:, :12], use_cache=True).cache
    assert [kind_of(layer) for layer in cache.layers] == [*(model.config.layer_types or []), "pooling"]
    for i, layer in enumerate(cache.layers):
        layer.__class__ = type(f"Another{i}", (type(layer),), {"_layer_type": None})
    with torch.no_grad():
        assert_close(model(ids[:, 12:], cache=cache).logits, expected, torch.float32)
