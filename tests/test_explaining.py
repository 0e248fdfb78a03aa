"""The words that moved an answer most are those without which it changes most."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import modeling_dlr
from modeling_dlr import DLRConfig
from modeling_dlr.inference import Predictor
from modeling_dlr.inference.explaining import attributions, log_odds
from modeling_dlr.inference.inputs import batches, inputs_of
from modeling_dlr.tokenization import symbol_tokenizer


def trained(place: Path, kind: str) -> Path:
    """A model that has learned which of 12 words are good and which bad, among 20 that say nothing.

    Of a pair, the word is in either text.
    """
    torch.manual_seed(0)
    good, bad, rest = ([f"{kind}{i}" for i in range(n)] for kind, n in {"good": 6, "bad": 6, "word": 20}.items())
    tokenizer = symbol_tokenizer(["<pad>", "<unk>", *good, *bad, *rest])
    config = DLRConfig(
        hidden_size=16, num_hidden_layers=1, state_size=8, bidirectional=True, vocab_size=len(tokenizer),
        pad_token_id=0, id2label={0: "good", 1: "bad"},
    )  # fmt: skip
    heads = {"text": modeling_dlr.DLRForSequenceClassification, "pair": modeling_dlr.DLRForSequencePairClassification}
    model = heads[kind](config)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    texts = 2 if kind == "pair" else 1
    for _ in range(150 * texts):
        ids, labels = torch.randint(14, 34, (32, 12 * texts)), torch.randint(2, (32,))
        ids[torch.arange(32), torch.randint(12 * texts, (32,))] = 2 + 6 * labels + torch.randint(6, (32,))
        ids = ids.unflatten(1, (2, -1)) if kind == "pair" else ids
        cross_entropy(model(input_ids=ids).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_explanations(kind: str, tmp_path: Path):
    """The word that is named first is the one without which the score falls most, and the weights add up."""
    folder = trained(tmp_path / "model", kind)
    predictor, scorer = Predictor(folder, explain=3), Predictor(folder)
    columns, rng = ["first", "second"] if kind == "pair" else ["text"], np.random.default_rng(0)
    rows, told = [], []
    for _ in range(12):
        texts = [[f"word{i}" for i in rng.integers(20, size=9)] for _ in columns]
        texts[rng.integers(len(texts))][rng.integers(9)] = f"{rng.choice(['good', 'bad'])}{rng.integers(6)}"
        rows.append({name: " ".join(words) for name, words in zip(columns, texts, strict=True)})
    for row, given in zip(predictor(rows), rows, strict=True):
        first = row["explanation"][0]
        column = first.get("column", "text")
        told.append(first["text"])
        assert row[column][first["start"] : first["end"]] == first["text"]
        assert first["weight"] > 0
        words = [(name, i, word) for name in columns for i, word in enumerate(given[name].split())]
        without = [
            given | {name: " ".join(given[name].split()[:i] + given[name].split()[i + 1 :])} for name, i, _ in words
        ]
        scores = [each["score"] if each["label"] == row["label"] else 0.0 for each in scorer(without)]
        name, _, word = words[int(np.argmin(scores))]
        assert (name, word) == (column, first["text"])
    assert all(word.startswith(("good", "bad")) for word in told)
    reader, task = inputs_of(predictor.processor, predictor.task), predictor.task
    (items,) = batches(reader.items([*rows, dict.fromkeys(columns, "good1")]), 10**6)
    inputs = reader.batch(items)
    weights = attributions(predictor.model, inputs, task, points=256).flatten(1).sum(1)
    empty = inputs | {"input_ids": torch.zeros_like(inputs["input_ids"])}
    with torch.inference_mode():
        logits, nothing = predictor.model(**inputs).logits, predictor.model(**empty).logits
        chosen = logits.argmax(-1)
        moved = log_odds(logits, chosen, task) - log_odds(nothing, chosen, task)
    torch.testing.assert_close(weights, moved, rtol=0.02, atol=0.02)
