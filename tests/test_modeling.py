"""The models: shapes, poolings, what transformers expects of them, and types of numbers."""

import copy
import time
from typing import Any

import pytest
import torch
from tiny import (
    HEADS,
    INPUTS,
    KERNELS,
    assert_same_tensors,
    draw_input,
    draw_labels,
    gradients_of,
    perturbed,
    tiny_config,
)

from modeling_dlr import DLRModel
from modeling_dlr.losses_dlr import POOLINGS, pool

SIZES = {
    "one step": {"batch": 1, "length": 1},
    "seven steps": {"batch": 3, "length": 7},
    "63 steps": {"batch": 2, "length": 63},
    "100 steps": {"batch": 1, "length": 100},
}

# One row per thing that the block can be made of.
BLOCKS: dict[str, dict[str, Any]] = {
    "causal": {},
    "bidirectional": {"bidirectional": True},
    "one pole": {"state_size": 1},
    "one channel": {"hidden_size": 1},
    "one layer": {"num_hidden_layers": 1},
    "gate": {"output_gate": "glu"},
    "gate of another kind": {"output_gate": "geglu"},
    "two kernels per channel": {"num_kernel_channels": 2, "bidirectional": True},
    "kernels that gate kernels": {"channel_gate_act": "silu"},
    "no activation": {"hidden_act": None},
    "post-norm": {"norm_position": "post"},
    "scalar norm": {"norm_type": "scalar_layer"},
    "scalar post-norm": {"norm_type": "scalar_layer", "norm_position": "post"},
    "batch norm": {"norm_type": "batch"},
    "batch post-norm": {"norm_type": "batch", "norm_position": "post"},
    "decaying residual": {"residual_type": "decay"},
    "channel dropout": {"dropout_type": "channel", "hidden_dropout_prob": 0.3},
    "short kernel": {"kernel_parameters": {"max_length": 5}},
    "random angles": {"kernel_parameters": {"pole_init": "randn"}},
    "poles per channel": {"kernel_parameters": {"pole_init": "dfout"}},
    "poles read from the end": {"kernel_parameters": {"kernel_type": "dss", "version": "softmax"}},
    **{name: {"kernel_parameters": parameters} for name, parameters in KERNELS.items()},
}

by_head = pytest.mark.parametrize("head", HEADS)
by_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())


@by_head
@by_size
@pytest.mark.parametrize("kind", INPUTS)
def test_shapes(head: str, kind: str, size: dict[str, int], device: torch.device):
    """A head gives one row of logits per sequence or per step, for every kind of input and every length."""
    config = tiny_config(**INPUTS[kind][1])
    model = HEADS[head](config).to(device)
    inputs = {name: value.to(device) for name, value in draw_input(kind, config, **size).items()}
    labels = draw_labels(head, config, **size).to(device)
    output = model(**inputs, labels=labels)
    assert output.logits.shape == (*labels.shape, config.num_labels)
    assert output.loss.shape == ()
    assert output.hidden_states is None


@by_size
@pytest.mark.parametrize("changes", BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks(changes: dict[str, Any], size: dict[str, int], device: torch.device):
    """Every kind of block gives finite states of the right shape, and a gradient to every parameter."""
    config = tiny_config(**changes)
    model = perturbed(DLRModel(config)).to(device)
    states = model(**{name: x.to(device) for name, x in draw_input("tokens", config, **size).items()}).last_hidden_state
    assert states.shape == (*size.values(), config.hidden_size)
    states.square().sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@by_head
@pytest.mark.parametrize("kind", ["tokens", "one value per step"])
def test_main_input(head: str, kind: str):
    """A model and its backbone name the input that they are made for, as the Trainer and pipelines ask."""
    name, fields = INPUTS[kind]
    model = HEADS[head](tiny_config(**fields))
    assert (model.main_input_name, model.model.main_input_name) == (name, name)


def test_values_without_a_feature_axis():
    """A model of one value per step reads [batch, length] as [batch, length, 1]."""
    model = DLRModel(tiny_config(input_size=1))
    values = torch.randn(2, 7)
    torch.testing.assert_close(
        model(input_values=values).last_hidden_state, model(input_values=values.unsqueeze(-1)).last_hidden_state
    )


def test_embeddings_are_the_tokens_embedded():
    """inputs_embeds from embed_tokens gives the outputs of input_ids."""
    model = DLRModel(tiny_config())
    ids = draw_input("tokens", model.config, 2, 7)["input_ids"]
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).last_hidden_state
    assert torch.equal(embedded, model(input_ids=ids).last_hidden_state)


def test_causal_model_does_not_look_ahead():
    """A causal model's states do not depend on later steps; a bidirectional model's do."""
    for bidirectional in (False, True):
        model = perturbed(DLRModel(tiny_config(bidirectional=bidirectional))).double()
        values = torch.randn(1, 63, 3, dtype=torch.float64)
        changed = values.clone()
        changed[:, 40:] = torch.randn(1, 23, 3)
        before, after = (model(inputs_embeds=x).last_hidden_state[:, :40] for x in (values, changed))
        assert torch.allclose(before, after, rtol=0, atol=1e-10) != bidirectional


REDUCE = {
    "mean": lambda steps: steps.mean(0),
    "max": lambda steps: steps.amax(0),
    "first": lambda steps: steps[0],
    "last": lambda steps: steps[-1],
    "mean_max": lambda steps: torch.cat([steps.mean(0)[: steps.shape[1] // 2], steps.amax(0)[steps.shape[1] // 2 :]]),
}


def test_every_pooling_has_a_definition():
    """The definitions below cover every pooling that the model knows."""
    assert REDUCE.keys() == POOLINGS.keys()


@by_size
@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("pooling", REDUCE)
def test_poolings(pooling: str, masked: bool, size: dict[str, int], device: torch.device):
    """A pooling reduces each row's steps that count, wherever in the row they are, and a head uses it."""
    model = HEADS["sequence head"](tiny_config(pooling=pooling)).to(device)
    states = torch.randn(*size.values(), 3, device=device)
    mask = torch.rand(*size.values(), device=device) < (0.5 if masked else 2)
    mask[torch.arange(len(mask)), torch.randint(size["length"], (len(mask),))] = True
    expected = torch.stack([REDUCE[pooling](row[steps]) for row, steps in zip(states, mask, strict=True)])
    torch.testing.assert_close(pool(pooling, states, mask)[0], expected)
    torch.testing.assert_close(model.pool(states, mask if masked else None, None), expected)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@by_head
def test_hidden_states(head: str, norm_position: str):
    """output_hidden_states gives the embeddings and each block's states, of which the last are after the final norm."""
    model = perturbed(HEADS[head](tiny_config(num_hidden_layers=3, norm_position=norm_position)))
    inputs = draw_input("tokens", model.config, 2, 7)
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert torch.equal(states[0], model.model.embed_tokens(inputs["input_ids"]))
    assert torch.equal(states[1], model.model.layers[0](states[0]))
    assert torch.equal(states[-1], model.model(**inputs).last_hidden_state)


@by_head
def test_tuples(head: str):
    """return_dict=False gives the same outputs as a tuple, in a call and from the configuration."""
    config = tiny_config()
    model = HEADS[head](config).eval()
    inputs = draw_input("tokens", config, 2, 7) | {"labels": draw_labels(head, config, 2, 7)}
    expected = model(**inputs)
    by_call = model(**inputs, return_dict=False)
    model.config.return_dict = False
    for loss, logits in (by_call, model(**inputs)):
        assert torch.equal(loss, expected.loss)
        assert torch.equal(logits, expected.logits)
    (states,) = model.model(input_ids=inputs["input_ids"])
    assert states.shape == (2, 7, 3)


@by_head
def test_gradient_checkpointing(head: str):
    """Gradient checkpointing computes every block a second time and changes no gradient, dropout included."""
    model = perturbed(HEADS[head](tiny_config(hidden_dropout_prob=0.3))).train()
    inputs = draw_input("tokens", model.config, 3, 7) | {"labels": draw_labels(head, model.config, 3, 7)}
    calls = []
    model.model.layers[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(1)
    model(**inputs).loss.backward()
    plain = gradients_of(model)
    model.zero_grad()
    assert len(calls) == 1
    model.activation_checkpointing_enable()
    torch.manual_seed(1)
    model(**inputs).loss.backward()
    assert len(calls) == 3
    assert_same_tensors(gradients_of(model), plain)


@by_head
def test_embeddings_get_and_set(head: str):
    """The input embeddings can be read, replaced and resized; what was there stays, and the configuration follows."""
    model = HEADS[head](tiny_config())
    before = model.model.embed_tokens.weight.detach().clone()
    assert before.shape == (11, 3)
    model.resize_token_embeddings(17, mean_resizing=False)
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert torch.equal(model.model.embed_tokens.weight[:11], before)
    assert model.config.vocab_size == 17
    assert model(input_ids=torch.tensor([[16]])).logits.isfinite().all()
    other = torch.nn.Embedding(5, 3)
    model.set_input_embeddings(other)
    assert model.model.embed_tokens is other


@by_head
@pytest.mark.parametrize("kind", ["tokens", "one value per step"])
def test_one_batch_overfits(head: str, kind: str, device: torch.device):
    """A small model learns the labels of eight rows."""
    config = tiny_config(**INPUTS[kind][1], hidden_size=24, state_size=17, bidirectional=True)
    model = HEADS[head](config).to(device)
    inputs = draw_input(kind, config, 8, 7) | {"labels": draw_labels(head, config, 8, 7)}
    inputs = {name: value.to(device) for name, value in inputs.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    started = time.process_time()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1, loss
    assert time.process_time() - started < 5


@by_head
def test_other_outputs_of_tokenizers_are_tolerated(head: str):
    """token_type_ids and other things that tokenizers emit do not disturb the forward pass."""
    model = HEADS[head](tiny_config()).eval()
    ids = draw_input("tokens", model.config, 2, 7)["input_ids"]
    extra = {"token_type_ids": torch.zeros_like(ids), "special_tokens_mask": torch.zeros_like(ids)}
    assert torch.equal(model(input_ids=ids, **extra).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32], ids=str)
@by_head
def test_types_of_masks(head: str, dtype: torch.dtype):
    """A mask may be of integers, truths or floats."""
    model = HEADS[head](tiny_config()).eval()
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    inputs = draw_input("tokens", model.config, 2, 7)
    expected = model(**inputs, attention_mask=mask).logits
    assert torch.equal(model(**inputs, attention_mask=mask.to(dtype)).logits, expected)


HALF = {"autocast": True, "half model": False}


@pytest.mark.parametrize("autocast", HALF.values(), ids=HALF.keys())
@pytest.mark.parametrize("changes", [BLOCKS[name] for name in ("causal", "bidirectional", "scalar post-norm")], ids=str)
@by_head
def test_half_precision(head: str, changes: dict[str, Any], autocast: bool, device: torch.device):
    """Under autocast and as a bfloat16 model, outputs are within bfloat16's rounding of the same model in float32."""
    config = tiny_config(hidden_size=17, state_size=33, **changes)
    model = HEADS[head](config).eval().to(device)
    inputs = draw_input("tokens", config, 3, 100) | {"labels": draw_labels(head, config, 3, 100)}
    inputs = {name: value.to(device) for name, value in inputs.items()}
    if not autocast:
        model = model.to(torch.bfloat16)
    exact = copy.deepcopy(model).float()(**inputs)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        output = model(**inputs)
    output.loss.backward()
    assert output.logits.dtype is torch.bfloat16
    assert output.loss.dtype is torch.float32
    assert (output.logits - exact.logits).abs().max() < 0.03 * exact.logits.abs().max()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@by_head
def test_double_stays_double(head: str):
    """A float64 model computes in float64 from end to end: its loss passes a numerical check of the gradient."""
    config = tiny_config(num_hidden_layers=1, bidirectional=True)
    model = perturbed(HEADS[head](config)).double()
    embeddings = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    labels = draw_labels(head, config, 2, 7)
    assert model(inputs_embeds=embeddings).logits.dtype is torch.float64
    assert torch.autograd.gradcheck(lambda x: model(inputs_embeds=x, labels=labels).loss, embeddings)
