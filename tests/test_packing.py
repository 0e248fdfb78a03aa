"""Several documents in one row are computed separately."""

from typing import Any

import pytest
import torch
from tiny import KERNELS, draw_input, gradients_of, perturbed, tiny_config
from tolerances import assert_close
from transformers import DataCollatorWithFlattening

from modeling_dlr import DLRForCausalLM, DLRForSequenceClassification, DLRForTokenClassification, DLRModel
from modeling_dlr.layout_dlr import Layout, per_document, split_documents

LENGTHS = [7, 1, 63, 30, 1, 33]
BOUNDARIES = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)

MODELS: dict[str, dict[str, Any]] = {
    "causal": {},
    "bidirectional": {"bidirectional": True},
    "batch norm": {"norm_type": "batch", "norm_position": "post", "bidirectional": True},
    "short kernel": {"kernel_parameters": {"max_length": 5}, "bidirectional": True},
    **{name: {"kernel_parameters": parameters, "bidirectional": True} for name, parameters in KERNELS.items()},
}
PACKINGS = {"boundaries": {"cu_seq_lens_q": BOUNDARIES}, "positions": {"position_ids": POSITIONS}}
by_packing = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS.keys())


@by_packing
@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS.keys())
def test_documents_are_computed_separately(fields: dict[str, Any], packing: dict[str, Any]):
    """Hidden states and gradients are those of the documents one by one."""
    model = perturbed(DLRModel(tiny_config(**fields)).eval()).double()
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    packed = model(ids, **packing).last_hidden_state
    packed.square().sum().backward()
    gradients = gradients_of(model)
    model.zero_grad()
    apart_states = torch.cat([model(part).last_hidden_state for part in ids.split(LENGTHS, dim=1)], dim=1)
    apart_states.square().sum().backward()
    assert_close(packed, apart_states, torch.float64)
    for name, expected in gradients_of(model).items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-9, atol=1e-9)


def test_several_rows():
    """Positions may restart anywhere in several rows."""
    model = perturbed(DLRModel(tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 2, 20)["input_ids"]
    positions = torch.stack([torch.arange(20), torch.cat([torch.arange(13), torch.arange(7)])])
    states = model(ids, position_ids=positions).last_hidden_state
    assert_close(states[:1], model(ids[:1]).last_hidden_state, torch.float64)
    assert_close(states[1:, 13:], model(ids[1:, 13:]).last_hidden_state, torch.float64)


def test_boundaries_win_over_the_mask():
    """Boundaries of documents override the mask."""
    model = perturbed(DLRModel(tiny_config()).eval())
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, 100:] = 0
    expected = model(ids, cu_seq_lens_q=BOUNDARIES).last_hidden_state
    assert torch.equal(model(ids, attention_mask=mask, cu_seq_lens_q=BOUNDARIES).last_hidden_state, expected)


@pytest.mark.parametrize("fields", [{}, {"hidden_size": 8, "layer_types": ["dlr", "full_attention"]}], ids=str)
def test_boundaries_of_one_document(fields: dict[str, Any]):
    """One document is one, too, whatever the mask says of it; what the mask says of steps in a cache still holds."""
    model = perturbed(DLRModel(tiny_config(**fields)).eval()).double()
    ids = draw_input("tokens", model.config, 1, 9)["input_ids"]
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 0, 1, 1]])
    expected = model(ids).last_hidden_state
    bounds = torch.tensor([0, 9])
    assert torch.equal(model(ids, attention_mask=mask, cu_seq_lens_q=bounds).last_hidden_state, expected)
    corrected = mask.clone()
    corrected[:, 5:] = 1
    answers = []
    for later, options in ((mask, {"cu_seq_lens_q": torch.tensor([0, 4])}), (corrected, {})):
        cache = model(ids[:, :5], attention_mask=mask[:, :5], use_cache=True).cache
        answers.append(model(ids[:, 5:], attention_mask=later, cache=cache, **options).last_hidden_state)
    assert_close(answers[0], answers[1], torch.float64)


def test_padded_row_of_documents():
    """Padding after the documents changes none of them, whatever its positions are."""
    model = perturbed(DLRModel(tiny_config(bidirectional=True)).eval()).double()
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    expected = model(ids, position_ids=POSITIONS).last_hidden_state
    padded, mask = torch.nn.functional.pad(ids, (3, 5), value=7), torch.nn.functional.pad(torch.ones_like(ids), (3, 5))
    for padding in (0, 1):
        positions = torch.nn.functional.pad(POSITIONS, (3, 5), value=padding)
        states = model(padded, attention_mask=mask, position_ids=positions).last_hidden_state
        assert_close(states[:, 3:-5], expected, torch.float64)


def test_positions_of_padded_rows_are_no_documents():
    """Positions that transformers counts from a mask, repeated in the padding, mark no documents."""
    model = perturbed(DLRModel(tiny_config()).eval())
    ids = draw_input("tokens", model.config, 2, 9)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)
    expected = model(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(model(ids, attention_mask=mask, position_ids=positions).last_hidden_state, expected)


def test_rows_do_not_change_each_other():
    """A row with padding inside is one document, whatever the other rows are."""
    model = perturbed(DLRModel(tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 2, 9)["input_ids"]
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1], [1] * 9])
    positions = torch.tensor([[0, 1, 2, 2, 2, 3, 4, 5, 6], [0, 1, 2, 3, 0, 1, 2, 3, 4]])
    together = model(ids, attention_mask=mask, position_ids=positions).last_hidden_state
    alone = model(ids[:1], attention_mask=mask[:1], position_ids=positions[:1]).last_hidden_state
    assert_close(together[:1][mask[:1].bool()], alone[mask[:1].bool()], torch.float64)


def test_statistics_of_padded_rows_of_documents():
    """Batch statistics leave out the padding behind the documents of a row."""
    model = perturbed(DLRModel(tiny_config(norm_type="batch"))).double().train()
    ids = draw_input("tokens", model.config, 1, 20)["input_ids"]
    mask = (torch.arange(20) < 15).long().unsqueeze(0)
    positions = torch.cat([torch.arange(9), torch.arange(6), torch.arange(6, 11)]).unsqueeze(0)
    states = [
        model(ids.masked_fill(mask == 0, token), attention_mask=mask, position_ids=positions).last_hidden_state[:, :15]
        for token in (1, 7)
    ]
    assert_close(states[0], states[1], torch.float64)


@pytest.mark.parametrize("head", [DLRModel, DLRForSequenceClassification], ids=["backbone", "pooled head"])
def test_a_compiled_model_refuses_positions_that_restart(head: type):
    """A compiled graph cannot cut rows by the values of positions, and says so; boundaries it takes."""
    model = head(tiny_config()).eval()
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(ids, position_ids=torch.arange(sum(LENGTHS)).unsqueeze(0))
        with pytest.raises(RuntimeError, match="cu_seq_lens_q"):
            compiled(ids, position_ids=POSITIONS)


def test_flattening_collator():
    """transformers' collator for packed rows: the loss is that of the documents in a padded batch."""
    model = perturbed(DLRForCausalLM(tiny_config()).eval()).double()
    texts = [draw_input("tokens", model.config, 1, length)["input_ids"][0].tolist() for length in LENGTHS if length > 1]
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_tensors="pt")
    batch = collate([{"input_ids": text} for text in texts])
    loss = model(**batch).loss
    sums = [model(torch.tensor([text]), labels=torch.tensor([text])).loss * (len(text) - 1) for text in texts]
    torch.testing.assert_close(loss, sum(sums) / sum(len(text) - 1 for text in texts), rtol=1e-6, atol=0)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS.keys())
def test_next_tokens_of_another_document_are_not_learned(packing: dict[str, Any]):
    """With the tokens themselves as labels, too, the loss is that of the documents one by one."""
    model = perturbed(DLRForCausalLM(tiny_config()).eval()).double()
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    sums = [model(part, labels=part).loss * (part.shape[1] - 1) for part in ids.split(LENGTHS, dim=1)]
    expected = sum(sums) / (sum(LENGTHS) - len(LENGTHS))
    for counted in (
        None,
        ids.shape[1] - 1,
        torch.tensor(ids.shape[1] - 1),
    ):  # the Trainer counts first tokens, too
        loss = model(ids, labels=ids, num_items_in_batch=counted, **packing).loss
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_token_head():
    """A head that answers every step works on packed rows."""
    model = perturbed(DLRForTokenClassification(tiny_config(bidirectional=True)).eval()).double()
    ids = draw_input("tokens", model.config, 1, sum(LENGTHS))["input_ids"]
    expected = torch.cat([model(part).logits for part in ids.split(LENGTHS, dim=1)], dim=1)
    assert_close(model(ids, cu_seq_lens_q=BOUNDARIES).logits, expected, torch.float64)


@by_packing
def test_a_pooled_row_is_refused(packing: dict[str, Any]):
    """A head that pools a row says that documents need rows of their own."""
    model = DLRForSequenceClassification(tiny_config())
    with pytest.raises(ValueError, match="several documents: give every document a row of its own"):
        model(**draw_input("tokens", model.config, 1, sum(LENGTHS)), **packing)


REFUSED = {
    "not to the end": (1, {"cu_seq_lens_q": torch.tensor([0, 5])}, "rise from 0 to the 7 steps"),
    "a document that ends before it begins": (1, {"cu_seq_lens_q": torch.tensor([0, 5, 4, 7])}, "rise from 0 to the 7"),
    "not from the start": (1, {"cu_seq_lens_q": torch.tensor([2, 7])}, "rise from 0"),
    "shares of steps": (1, {"cu_seq_lens_q": torch.tensor([0, 2.5, 7])}, "must be integers, got torch.float32"),
    "several rows": (2, {"cu_seq_lens_q": torch.tensor([0, 7])}, "one row of documents, got 2 rows"),
    "positions of another length": (1, {"position_ids": torch.arange(5).unsqueeze(0)}, r"\[1, 7\].*got \[1, 5\]"),
    "a state": (1, {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]]), "use_cache": True}, "no single state"),
}


@pytest.mark.parametrize(("rows", "arguments", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(rows: int, arguments: dict[str, Any], says: str):
    """Boundaries that do not fit are refused."""
    model = DLRModel(tiny_config())
    with pytest.raises(ValueError, match=says):
        model(**draw_input("tokens", model.config, rows, 7), **arguments)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_documents_return_to_their_places(density: float):
    """Documents keep their positions in the output, and padding them to one length at most doubles the work."""
    x = torch.randn(3, 100, 2, requires_grad=True)
    documents = split_documents(torch.rand(3, 100) < density)
    if documents is None:
        assert density == 0.0
        return

    def doubled(part: torch.Tensor, layout: Layout) -> torch.Tensor:
        assert layout.current_mask is not None
        assert part.shape[:2] == layout.current_mask.shape
        return 2 * part

    y = per_document(x, documents, doubled)
    assert torch.equal(y, 2 * x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 2))
    assert sum(group.steps.numel() for group in documents.groups) <= 2 * 300
