"""Attention that returns its weights: the same outputs, and weights that agree with the definition."""

import logging
from typing import Any

import pytest
import torch
from test_hybrids import HYBRIDS, SIZES, by_direction, by_hybrid
from test_streaming import CUTS, streamed
from tiny import assert_same_tensors, draw_input, gradients_of, perturbed, tiny_config
from tolerances import assert_close
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from modeling_dlr import DLRForCausalLM, DLRForTokenClassification, DLRModel
from modeling_dlr.attention_dlr import DLRAttention

LENGTH, WINDOW, HEADS = 23, SIZES["attention_window"], SIZES["num_attention_heads"]
KINDS = {kind: {"layer_types": [kind] * 3} for kind in ("full_attention", "local_attention")}
by_kind = pytest.mark.parametrize("kind", KINDS)


def build(model_class: Any = DLRModel, **fields: Any) -> Any:
    return perturbed(model_class(tiny_config(**SIZES | fields)).eval()).double()


def batch_of(model: Any) -> dict[str, Tensor]:
    """One row padded left, one in the middle, one not at all."""
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :4] = mask[1, 9:12] = 0
    return draw_input("tokens", model.config, 3, LENGTH) | {"attention_mask": mask}


def read_by(kind: str, bidirectional: bool, mask: Tensor) -> Tensor:
    """Which step reads which, [B, L, L], counted from the definition."""
    expected = torch.zeros(len(mask), LENGTH, LENGTH, dtype=torch.bool)
    for row, counts in enumerate(mask.bool().tolist()):
        chunks = {step: sum(counts[:step]) // WINDOW for step in range(LENGTH) if counts[step]}
        for query, chunk in chunks.items():
            for key, other in chunks.items():
                near = kind == "full_attention" or abs(chunk - other) <= 1
                expected[row, query, key] = near and (bidirectional or key <= query)
    return expected


@by_direction
@by_hybrid
def test_the_same_outputs(fields: dict[str, Any], bidirectional: bool):
    """Hidden states and gradients do not depend on whether weights are returned, with padding anywhere."""
    model = build(bidirectional=bidirectional, **fields)
    inputs = batch_of(model)
    states, gradients = [], []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        states.append(model(**inputs).last_hidden_state[inputs["attention_mask"].bool()])
        states[-1].square().sum().backward()
        gradients.append(gradients_of(model))
    assert_close(states[1], states[0], torch.float64)
    assert_same_tensors(gradients[1], gradients[0], tolerance=1e-8)


@by_direction
@by_kind
def test_weights_are_the_definition(kind: str, bidirectional: bool):
    """Weights sum to 1, are positive for the steps that the definition reads, and 0 for others."""
    model = build(bidirectional=bidirectional, **KINDS[kind])
    model.set_attn_implementation("eager")
    inputs = batch_of(model)
    attentions = model(**inputs, output_attentions=True).attentions
    assert [weights.shape for weights in attentions] == [(3, HEADS, LENGTH, LENGTH)] * 3
    counts, expected = inputs["attention_mask"].bool(), read_by(kind, bidirectional, inputs["attention_mask"])
    for weights in attentions:
        by_query = weights.transpose(1, 2)[counts]
        torch.testing.assert_close(by_query.sum(-1), torch.ones_like(by_query[..., 0]))
        assert torch.equal(by_query > 0, expected[counts].unsqueeze(1).expand_as(by_query))


@by_kind
def test_weights_of_a_stream(kind: str):
    """Through a cache, the weights of each piece are the rows of the whole's weights, over the stored keys."""
    model = build(**KINDS[kind])
    model.set_attn_implementation("eager")
    ids = draw_input("tokens", model.config, 2, 63)["input_ids"]
    whole = model(ids, output_attentions=True).attentions
    model.config.output_attentions = True
    start = 0
    for piece, size in zip(streamed(model, "input_ids", ids, CUTS["chunks"]), CUTS["chunks"], strict=True):
        for weights, expected in zip(piece.attentions, whole, strict=True):
            seen = expected[:, :, start : start + size, : start + size]
            assert_close(weights, seen[..., seen.shape[3] - weights.shape[3] :], torch.float64)
        start += size


def test_recorded_by_a_hybrid():
    """Only attention layers return weights; a model without attention returns none."""
    model = build(DLRForTokenClassification, **HYBRIDS["one of each"])
    model.set_attn_implementation("eager")
    assert len(model(**batch_of(model), output_attentions=True).attentions) == 2
    plain = build(DLRForTokenClassification)
    assert plain(**batch_of(plain), output_attentions=True).attentions == ()


def test_generation_returns_weights():
    """generate() returns the weights of every token, as of any model of transformers."""
    model = build(DLRForCausalLM, **HYBRIDS["one of each"], eos_token_id=None)
    ids = draw_input("tokens", model.config, 2, 7)["input_ids"]
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    expected = model.generate(ids, **options).sequences
    model.set_attn_implementation("eager")
    output = model.generate(ids, output_attentions=True, **options)
    assert torch.equal(output.sequences, expected)
    assert [len(token) for token in output.attentions] == [2, 2, 2]
    assert [token[1].shape for token in output.attentions] == [(2, HEADS, 7, 7), (2, HEADS, 1, 8), (2, HEADS, 1, 9)]


@by_hybrid
def test_nothing_to_record(fields: dict[str, Any], caplog: pytest.LogCaptureFixture):
    """Where nothing computes weights there are none, as in Llama, and a warning says once what to do."""
    logging.Logger.warning_once.cache_clear()
    llama = LlamaModel(LlamaConfig(vocab_size=11, hidden_size=6, num_hidden_layers=1, num_attention_heads=3))
    model = build(**fields)
    inputs = batch_of(model)
    plain = model(**inputs).last_hidden_state
    with caplog.at_level("WARNING", logger=DLRModel.__module__):
        for _ in range(2):
            output = model(**inputs, output_attentions=True)
            assert output.attentions == llama(**inputs, output_attentions=True).attentions == ()
            assert torch.equal(output.last_hidden_state, plain)
    (record,) = [record for record in caplog.records if record.name == "modeling_dlr.checks_dlr"]
    assert "call model.set_attn_implementation('eager')" in record.message


def test_refused(monkeypatch: pytest.MonkeyPatch):
    """Weights over several documents of a row are refused, before any work."""
    monkeypatch.setattr(DLRAttention, "forward", lambda *_: pytest.fail("attention ran"))
    model = build(**HYBRIDS["one of each"])
    model.set_attn_implementation("eager")
    inputs = draw_input("tokens", model.config, 1, 4)
    with pytest.raises(ValueError, match="one document per row"):
        model(**inputs, position_ids=torch.tensor([[0, 1, 0, 1]]), output_attentions=True)
