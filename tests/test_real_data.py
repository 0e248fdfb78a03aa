"""The comparison on real data: what is read, what the models see, and the table."""

import bz2
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import r_data
import real_data
import real_models
import real_sets
import self_pretraining
import torch
from real_sets import RealSet
from real_texts import Texts

KINDS = ("symbols", "steps", "next", "numbers")


def small(kind: str, rows: int = 40) -> RealSet:
    """Rows of 3 … 20 steps, whose class is the first symbol's, or that of each step."""
    generator = np.random.default_rng(0)
    inputs: list[np.ndarray] = [
        generator.integers(0, 3, generator.integers(3, 21)).astype(np.uint8) for _ in range(rows)
    ]
    labels: list[Any] = [int(row[0]) for row in inputs]
    if kind in ("steps", "next"):
        labels = [row.astype(np.int64) for row in inputs]
    if kind == "numbers":
        inputs = [row.astype(np.float32) for row in inputs]
    symbols = None if kind == "numbers" else 3
    return RealSet(inputs, labels, real_sets.split_of(range(rows)), "abc", symbols, causal=kind == "next")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", real_models.MODELS)
def test_models(name: str, kind: str):
    """Logits of the right shape, whatever the padding; one that is causal does not read what comes later."""
    data = small(kind)
    torch.manual_seed(0)
    model = real_models.build(name, data, 20_000).eval()
    assert abs(sum(each.numel() for each in model.parameters()) - 20_000) < 6000
    inputs, mask, labels = real_data.Batches(data, 3)(np.array([0, 1, 2]))
    logits = model(inputs, mask)
    assert logits.shape == (*labels.shape, 3)
    alone, alone_mask, _ = real_data.Batches(data, 1)(np.array([1]))
    length = alone.shape[1]
    expected = logits[1:2, :length] if data.per_step else logits[1:2]
    torch.testing.assert_close(model(alone, alone_mask), expected, rtol=1e-3, atol=1e-4)
    if data.causal:
        changed = inputs.clone()
        changed[:, 2:] = 1
        torch.testing.assert_close(model(changed, mask)[:, :2], logits[:, :2], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rows(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A row of a simpler model, and one of a model that trains until its seconds are over."""
    data = small(kind)
    for model in ("majority", "linear", "CNN"):
        if model == "linear" and kind in ("symbols", "numbers"):
            data = data._replace(inputs=[np.resize(row, 20) for row in data.inputs])
        line = real_data.measure(real_data.Row("splice", model, 0), 0.1, data)
        low, high = line["interval"]
        assert 0 <= low <= line["accuracy"] <= high <= 1
    assert ("bits" in line) == (kind == "next")
    if kind == "steps":
        assert line["steps"] > 0
        assert real_data.measure(real_data.Row("splice", "linear", 0), 0.1, data)["accuracy"] == 1
    monkeypatch.setattr(real_data, "PATIENT_SECONDS", 0)
    slow = real_data.measure(real_data.Row("splice", "DLR", 0), 9, data)
    assert slow["seconds_per_step"] >= 0
    assert "accuracy" not in slow


@pytest.mark.parametrize("causal", [False, True])
def test_recurrence(causal: bool):
    """It is torch's LSTM of packed sequences."""
    torch.manual_seed(0)
    ours: Any = real_models.Recurrence(6, causal=causal)
    theirs = torch.nn.LSTM(6, 6 if causal else 3, num_layers=2, batch_first=True, bidirectional=not causal)
    for number, layer in enumerate(ours.layers):
        for ending, lstm in zip(("", "_reverse"), layer, strict=False):
            for name, source in lstm.named_parameters():
                theirs.get_parameter(name.replace("l0", f"l{number}{ending}")).data.copy_(source)
    features, lengths = torch.randn(3, 9, 6), torch.tensor([9, 1, 5])
    real = (torch.arange(9) < lengths.unsqueeze(1)).float().unsqueeze(-1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(ours(features, real) * real, expected)


def test_bits_of_a_symbol():
    """Those of equal probabilities are log2 of their number, whatever the padding."""
    data = small("next")
    model = real_models.build("CNN", data, 20_000)
    torch.nn.init.zeros_(model.classify.weight)
    torch.nn.init.zeros_(model.classify.bias)
    assert real_data.bits_of(model, real_data.Batches(data, 4), np.arange(10)) == pytest.approx(math.log2(3))


def test_texts_with_equal_beginnings_are_taken_once():
    """Cut, they would be one row in several splits."""
    data = real_sets.of_texts(Texts(["same one", "other", "same two", "é"], ["a", "b", "a", "b"]), 5)
    assert [row.tobytes() for row in data.inputs] == [b"same ", b"other", "é".encode()]
    assert data.labels == [0, 1, 1]
    assert len(data.splits) == 3


def test_groups_stay_together():
    """Rows of one group are in one split, of which each has its share."""
    groups = [str(i // 3) for i in range(300)]
    splits = real_sets.split_of(groups)
    assert len({(group, split) for group, split in zip(groups, splits, strict=True)}) == 100
    assert {name: splits.count(name) for name in set(splits)} == {"train": 210, "validation": 30, "test": 60}


def test_kinds_of_tokens():
    """Each character has the kind of its token."""
    kinds = real_sets.token_kinds('if a1:\n    b = "x\\n"  # two\n')
    words = "".join(real_sets.KINDS_OF_TOKENS[kind][0] for kind in kinds)
    assert words == "kk" + "o" + "nn" + "o" + "o" + "oooo" + "n" + "o" + "o" + "o" + "sssss" + "oo" + "ccccc" + "o"


def number(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def string(text: str) -> bytes:
    return number(0x40009, len(text)) + text.encode()


def test_data_of_r():
    """A data frame with a factor and numbers, and a database of strings, byte by byte as R writes them."""
    symbol = {name: number(1) + string(name) for name in ("frame", "levels", "names")}
    factor = number(0x20D, 3, 2, 1, 2) + number(0x402) + symbol["levels"]
    factor += number(16, 2) + string("no") + string("yes") + number(254)
    reals = number(14, 2) + struct.pack(">2d", 0.5, -1.0)
    names = number(0x402) + symbol["names"] + number(16, 2) + string("f") + string("x") + number(254)
    frame = number(0x402) + symbol["frame"] + number(0x213, 2) + factor + reals + names + number(254)
    content = b"RDX2\nX\n" + number(2, 0x30000, 0x20300) + frame
    for written in (content, bz2.compress(content)):
        assert r_data.read_rda(written) == {"frame": {"f": ["yes", "no", "yes"], "x": [0.5, -1.0]}}
    with pytest.raises(ValueError, match="XDR"):
        r_data.read_rda(b"RDA2\nA\n")


def test_table(tmp_path: Path):
    """Means over seeds, intervals, what is bold, models that are too slow, and nothing without results."""
    assert real_data.table(tmp_path) == ""
    took = {"seed": 0, "parameters": 101_234, "steps": 1500, "peak_mb": 900}
    lines: list[dict[str, Any]] = [
        {"data": "splice", "model": "DLR", "L": 60, "accuracy": 0.5 + seed / 10, "interval": [0.4, 0.7]}
        | took
        | {"seed": seed, "steps": 1500 + seed}
        for seed in range(3)
    ]
    lines.append({"data": "splice", "model": "linear", "seed": 0, "L": 60, "accuracy": 0.39, "interval": [0.3, 0.5]})
    lines.append({"data": "splice", "model": "attention", "seed": 0, "L": 60, "seconds_per_step": 9.0})
    lines += [
        {"data": "genome", "model": name, "L": 9, "accuracy": score, "interval": [0.2, 1], "bits": 1.9} | took
        for name, score in (("DLR", 0.5), ("LSTM", 0.3))
    ]
    (tmp_path / "real_data.json").write_text(json.dumps(lines), encoding="utf-8")
    found = real_data.table(tmp_path)
    cells = "|  | 0.390 (0.300 … 0.500) | **0.600** (0.400 … 0.700) | not run: 9.0 s a step |  |  |"
    assert f"| splice | 60 {cells}" in found
    assert "| **0.500** (0.200 … 1.000), 1.900 bits |  | **0.300** (0.200 … 1.000), 1.900 bits |" in found
    assert "| splice | 60 | 101,234, 1,501, 900 |  |  |  |" in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symbols", "numbers"])
def test_self_pretraining(kind: str):
    """A row that first fills in hidden spans trains on labels, too; its layers are those that did so."""
    data = small(kind)
    line = self_pretraining.measure(self_pretraining.Row("news", "masked", 0), 0.2, data)
    assert line["steps"] > 0
    assert line["masked_steps"] > 0
    assert 0 <= line["accuracy"] <= 1
    torch.manual_seed(0)
    model: Any = real_models.build("DLR", data, 20_000)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    self_pretraining.pretrain(model, real_data.Batches(data, 4), 0.2, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("model.model.") for name in changed)


@pytest.mark.slow
def test_examples_of_a_task(monkeypatch: pytest.MonkeyPatch):
    """Rows of symbols and of numbers, in the splits of the task."""
    monkeypatch.setattr(self_pretraining, "COUNTS", {"train": 4, "validation": 2, "test": 3})
    lists = self_pretraining.of_task("listops", 18, min_length=5, max_length=30, max_depth=3, max_args=3)
    paths = self_pretraining.of_task("pathfinder", None, resolution=32)
    assert all(row.dtype == np.uint8 and 5 <= len(row) <= 30 for row in lists.inputs)
    assert {(row.dtype, row.shape) for row in paths.inputs} == {(np.dtype(np.float32), (1024,))}
    assert lists.splits.count("train") == 4
    assert not lists.per_step


def test_table_of_self_pretraining(tmp_path: Path):
    """Means over seeds; nothing without results."""
    assert self_pretraining.table(tmp_path) == ""
    lines = [{"data": "news", "start": "masked", "seed": seed, "accuracy": seed / 2} for seed in range(3)]
    (tmp_path / "self_pretraining.json").write_text(json.dumps(lines), encoding="utf-8")
    assert "| news |  | 0.500 (0.000 … 1.000) |" in self_pretraining.table(tmp_path)
