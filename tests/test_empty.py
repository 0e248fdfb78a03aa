"""Empty documents: rows of padding and sequences of length 0 pool to zeros and change no other row."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EXAMPLES, gradients_of, perturbed, tiny_config
from torch import Tensor
from transformers import DataCollatorWithFlattening, DataCollatorWithPadding, DynamicCache, Trainer, TrainingArguments

from modeling_dlr import DLRForCausalLM, DLRForSequenceClassification, DLRForTokenClassification, DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.checks_dlr import logger
from modeling_dlr.heads_dlr import DLRPooledHead
from modeling_dlr.losses_dlr import POOLINGS
from modeling_dlr.tokenization import byte_tokenizer

ATTENTION = {"hidden_size": 8, "layer_types": ["full_attention", "local_attention"], "attention_window": 5}
LAYERS: dict[str, dict[str, Any]] = {"DLR": {}, "attention": ATTENTION}
LANGUAGE = {"vocab_size": 261, "pad_token_id": 0}

by_auto_class = pytest.mark.parametrize("auto_class", EXAMPLES)
by_layers = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)


def build(auto_class: str, **fields: Any) -> Any:
    return perturbed(AUTO_CLASSES[auto_class](tiny_config(**EXAMPLES[auto_class].fields | fields)).eval())


def mask_of(inputs: dict[str, Tensor]) -> Tensor:
    """Ones of the shape that an attention mask of these inputs has."""
    (value,) = inputs.values()
    pixels = value.dim() == 4
    return torch.ones(value.shape[0], value.shape[2] * value.shape[3]) if pixels else torch.ones(value.shape)


def without_cache(outputs: Any) -> dict[str, Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


@by_layers
@by_auto_class
def test_row_of_padding(auto_class: str, layers: dict[str, Any]):
    """It changes no other row, its own content changes nothing, and every gradient stays finite."""
    model, example = build(auto_class, **layers), EXAMPLES[auto_class]
    arguments = example.arguments(model.config, 3, 7)
    mask = mask_of(example.inputs(model.config, 3, 7))
    mask[1] = 0
    whole = model(**arguments, attention_mask=mask)
    name = next(iter(arguments))
    for row in (0, 2):
        alone = model(**{name: arguments[name][row : row + 1]}, attention_mask=mask[row : row + 1])
        for key, value in without_cache(alone).items():
            torch.testing.assert_close(whole[key][row : row + 1], value, rtol=1e-5, atol=1e-5)
    changed = arguments[name].clone()
    changed[1] = torch.nan if changed.is_floating_point() else 5
    other = model(**arguments | {name: changed}, attention_mask=mask)
    assert all(torch.equal(value, other[key]) for key, value in without_cache(whole).items())
    if "labels" in arguments or "start_positions" in arguments:
        other.loss.backward()
        assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@by_layers
@by_auto_class
def test_no_step(auto_class: str, layers: dict[str, Any]):
    """A batch of length 0 has outputs and a loss, and is pooled like a row of padding."""
    model, example = build(auto_class, **layers), EXAMPLES[auto_class]
    labels = example.labels(model.config, 2, 7 if auto_class == "AutoModelForQuestionAnswering" else 0)
    outputs = model(**example.inputs(model.config, 2, 0), **labels, output_hidden_states=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [0] * 3
    if labels:
        outputs.loss.backward()
        assert outputs.loss.isfinite()
        # None is missing, which processes that learn together would wait for.
        assert all(gradient.eq(0).all() for name, gradient in gradients_of(model).items() if "layers." in name)
    if isinstance(model, DLRPooledHead):
        inputs = example.inputs(model.config, 2, 7)
        padding = model(**inputs, attention_mask=torch.zeros_like(mask_of(inputs)))
        torch.testing.assert_close(outputs.logits, padding.logits, rtol=0, atol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_output_of_an_empty_row(pooling: str):
    """The pooled features are zeros, and the output is that of the head for zeros."""
    model = build("AutoModelForSequenceClassification", pooling=pooling)
    ids, mask = torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7)
    mask[1] = 0
    assert torch.equal(model(ids, attention_mask=mask).logits[1], model.classifier.bias)
    assert torch.equal(model(ids[:, :0]).logits[0], model.classifier.bias)


def test_the_backbone_learns_nothing_from_an_empty_row():
    """The gradient of a batch is that of its other rows, also with BatchNorm."""
    gradients = []
    for rows in (slice(0, 2), slice(0, 3)):
        torch.manual_seed(0)
        model = build("AutoModelForSequenceClassification", norm_type="batch").double().train()
        ids, mask = torch.randint(1, 11, (3, 7)), torch.ones(3, 7)
        mask[2] = 0
        states = model.model(ids[rows], attention_mask=mask[rows]).last_hidden_state
        states[:2].square().sum().backward()
        gradients.append(gradients_of(model.model))
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-9, atol=1e-9)


@by_layers
@pytest.mark.parametrize("empty", [0, 2, 3], ids=["first", "in between", "last"])
def test_empty_chunk_of_a_stream(empty: int, layers: dict[str, Any]):
    """A chunk of length 0 changes no state, and its pooled features are zeros."""
    model = perturbed(DLRForSequenceClassification(tiny_config(vocab_size=11, pad_token_id=0, **layers)).eval())
    ids, cache = torch.randint(1, 11, (2, 9)), DynamicCache(config=model.config)
    chunks = list(ids.split([4, 1, 4], dim=1))
    chunks.insert(empty, ids[:, :0])
    logits = [model(chunk, cache=cache).logits for chunk in chunks]
    assert cache.get_seq_length() == 9
    torch.testing.assert_close(logits[-1], model(ids).logits, rtol=1e-5, atol=1e-5)
    expected = logits[empty - 1] if empty else model.classifier.bias.expand(2, -1)
    torch.testing.assert_close(logits[empty], expected)


@by_layers
def test_row_that_stays_empty_in_a_stream(layers: dict[str, Any]):
    """Chunk by chunk a row of padding is what it is at once, and the other row is what it is alone."""
    model = perturbed(DLRForSequenceClassification(tiny_config(vocab_size=11, pad_token_id=0, **layers)).eval())
    ids, mask, cache = torch.randint(1, 11, (2, 9)), torch.ones(2, 9), DynamicCache(config=model.config)
    mask[1] = 0
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
        with torch.no_grad():
            logits = model(ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache).logits
    torch.testing.assert_close(logits[1], model.classifier.bias)
    torch.testing.assert_close(logits[:1], model(ids[:1]).logits, rtol=1e-5, atol=1e-5)


def test_packed_rows():
    """An empty document between others has no step, so it changes nothing; so has a packed row of none."""
    model = build("AutoModel")
    ids = torch.randint(1, 11, (1, 7))
    expected = model(ids, cu_seq_lens_q=torch.tensor([0, 3, 7])).last_hidden_state
    for bounds in ([0, 3, 3, 7], [0, 0, 3, 7, 7], [0, 0, 0, 3, 3, 3, 7]):
        assert torch.equal(model(ids, cu_seq_lens_q=torch.tensor(bounds)).last_hidden_state, expected)
    assert model(ids[:, :0], cu_seq_lens_q=torch.tensor([0, 0])).last_hidden_state.shape == (1, 0, 3)
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_tensors="pt")
    batch = collate([{"input_ids": part} for part in (ids[0, :3].tolist(), [], ids[0, 3:].tolist())])
    del batch["labels"]  # the collator itself gives an empty document one
    assert torch.equal(model(**batch).last_hidden_state, expected)


def test_documents_that_are_padding():
    """A row of padding beside a row of several documents is computed apart, too, and touches none of them."""
    model = build("AutoModel")
    ids, positions = torch.randint(1, 11, (2, 7)), torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 7, [0] * 7])
    states = model(ids, attention_mask=mask, position_ids=positions).last_hidden_state
    alone = model(ids[:1], position_ids=positions[:1]).last_hidden_state
    torch.testing.assert_close(states[:1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_class", [DLRModel, DLRForSequenceClassification, DLRForTokenClassification])
def test_one_warning(model_class: type, caplog: pytest.LogCaptureFixture):
    """One warning reports empty rows, however many there are; full rows and streams give none."""
    model, ids = model_class(tiny_config(vocab_size=11, pad_token_id=0)).eval(), torch.ones(2, 7, dtype=torch.long)
    logger.warning_once.cache_clear()
    mask = torch.ones(2, 7)
    with caplog.at_level(logging.WARNING, logger.name):
        model(ids, attention_mask=mask)
        mask[1] = 0
        model(ids, attention_mask=mask, use_cache=True)
        assert not caplog.records
        model(ids, attention_mask=mask)
        model(ids[:, :0])
        mask[0] = 0
        model(ids, attention_mask=mask)
    (record,) = caplog.records
    assert "A document is empty" in record.message


def test_predictions_over_empty_texts(tmp_path: Path):
    """The Trainer predicts a data set with empty texts, also where a whole batch is empty."""
    tokenizer = byte_tokenizer(add_prefix_space=False)
    model = perturbed(DLRForSequenceClassification(tiny_config(**LANGUAGE)))
    texts = ["good", "", "bad", "", "", "x"]
    rows = [{**tokenizer(text), "labels": 1} for text in texts]
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, per_device_eval_batch_size=2
    )
    predicted = Trainer(model, arguments, data_collator=DataCollatorWithPadding(tokenizer)).predict(rows)
    assert np.isfinite(predicted.metrics["test_loss"])
    for text, logits in zip(texts, predicted.predictions, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids], dtype=torch.long)
        np.testing.assert_allclose(logits, model(ids).logits[0].detach(), rtol=1e-4, atol=1e-5)


@by_layers
@pytest.mark.parametrize("use_cache", [True, False])
def test_empty_prompts(use_cache: bool, layers: dict[str, Any]):
    """An empty prompt begins with the token that begins texts, alone, in a batch, and among none but its like."""
    tokenizer = byte_tokenizer(add_prefix_space=False)
    tokenizer.padding_side = "left"
    model = perturbed(DLRForCausalLM(tiny_config(**LANGUAGE, **layers)).eval())
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": use_cache}
    batch = tokenizer(["abc", "", "d"], padding=True, return_tensors="pt")
    given = batch["input_ids"].clone()
    together = model.generate(**batch, **options)
    assert torch.equal(model.generate(batch["input_ids"], **options), together)
    assert torch.equal(batch["input_ids"], given)
    for row, prompt in enumerate(("abc", tokenizer.bos_token, "d")):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), **options)[0, -6:]
        assert torch.equal(together[row, -6:], alone)
    for prompts in ([""], ["", ""]):
        nothing = tokenizer(prompts, padding=True, return_tensors="pt")
        assert torch.equal(model.generate(**nothing, **options)[0, -6:], together[1, -6:])
    assert torch.equal(model.generate(tokenizer([""], return_tensors="pt").input_ids, **options)[0], together[1, -7:])


@pytest.mark.parametrize("prompts", [[""], ["abc", ""]], ids=str)
def test_empty_prompts_without_a_first_token(prompts: list[str]):
    """Where no token begins texts, an empty prompt is refused with the cure."""
    tokenizer = byte_tokenizer(add_prefix_space=False)
    tokenizer.padding_side = "left"
    model = DLRForCausalLM(tiny_config(**LANGUAGE)).eval()
    with pytest.raises(ValueError, match=r"at least one token, got 0: .*generation_config.bos_token_id"):
        model.generate(**tokenizer(prompts, padding=True, return_tensors="pt"), max_new_tokens=2)
