"""How many classes a configuration has, their names and their problem: given, saved, and given while it is loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal
from tiny import tiny_config
from tiny_striped import TINY as TINY_STRIPED
from transformers import AutoConfig, AutoModelForSequenceClassification

from modeling_dlr import (
    DLRConfig,
    DLRForSequenceClassification,
    DLRForTokenClassification,
    DLRModel,
    StripedHyenaConfig,
    StripedHyenaForSequenceClassification,
    StripedHyenaForTokenClassification,
    StripedHyenaModel,
)
from modeling_dlr.losses_dlr import loss_by_problem_type

by_family = pytest.mark.parametrize("config_class", [DLRConfig, StripedHyenaConfig])

ABC = {0: "a", 1: "b", 2: "c"}
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


# What is given of the labels, and the names that follow.
FILLED: dict[str, tuple[dict[str, Any], dict[int, str]]] = {
    "nothing": ({}, {0: "LABEL_0", 1: "LABEL_1"}),
    "number": ({"num_labels": 1}, {0: "LABEL_0"}),
    "no number": ({"num_labels": None}, {0: "LABEL_0", 1: "LABEL_1"}),
    "id2label": ({"id2label": ABC}, ABC),
    "id2label of JSON": ({"id2label": {"2": "c", "0": "a", "1": "b"}}, ABC),
    "label2id": ({"label2id": {"c": 2, "b": 1, "a": 0}}, ABC),
    "label2id of texts": ({"label2id": {"a": "0", "b": "1", "c": "2"}}, ABC),
    "number of numpy": ({"num_labels": np.int64(3)}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
    "ids of numpy": ({"id2label": dict(zip(np.arange(3), "abc", strict=True))}, ABC),
    "ids of numpy the other way round": ({"label2id": dict(zip("abc", np.arange(3), strict=True))}, ABC),
    "all three": ({"num_labels": 3, "id2label": ABC, "label2id": {"a": 0, "b": 1, "c": 2}}, ABC),
    "eleven": ({"id2label": {str(label): str(label) for label in sorted(map(str, range(11)))}},
               {label: str(label) for label in range(11)}),
}  # fmt: skip

# What is refused, and what the message must contain.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "negative number": ({"num_labels": -1}, ["num_labels", ">= 1", "got -1"]),
    "truth for a number": ({"num_labels": True}, ["num_labels", "integer", "True"]),
    "text for a number": ({"num_labels": "3"}, ["num_labels", "integer", "'3'"]),
    "half a class": ({"num_labels": 2.5}, ["num_labels", "integer", "2.5"]),
    "numberless": ({"num_labels": 10**15}, ["num_labels", "<= 1000000", "10"]),
    "ids from 1": ({"id2label": {1: "a", 2: "b"}}, ["id2label", "[1, 2]", "begin at 0"]),
    "ids with a gap": ({"id2label": {0: "a", 2: "c"}}, ["id2label", "[0, 2]", "no gap"]),
    "negative id": ({"id2label": {-1: "a", 0: "b"}}, ["id2label", "[-1, 0]", "begin at 0"]),
    "no ids": ({"id2label": {}}, ["id2label", "[]", "begin at 0"]),
    "ids that are names": ({"id2label": {"a": 0, "b": 1}}, ["id2label", "['a', 'b']"]),
    "ids that are truths": ({"id2label": {False: "a", True: "b"}}, ["id2label", "[False, True]"]),
    "an id twice": ({"id2label": {0: "a", "0": "b"}}, ["id2label", "[0, '0']"]),
    "numbers for names": ({"id2label": {0: 0, 1: 1}}, ["id2label", "string", "{0: 0, 1: 1}"]),
    "a name twice": ({"id2label": {0: "a", 1: "a"}}, ["id2label", "one name", "{0: 'a', 1: 'a'}", "its own"]),
    "list of names": ({"id2label": ["a", "b"]}, ["id2label", "expected dict", "list"]),
    "an id for two names": ({"label2id": {"a": 0, "b": 0}}, ["label2id", "one name to each", "{'a': 0, 'b': 0}"]),
    "lists for ids": ({"label2id": {"a": [0]}}, ["label2id", "one name to each", "{'a': [0]}"]),
    "text for names": ({"label2id": "a"}, ["label2id", "expected dict", "'a'"]),
    "contradiction of names": (
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
        ["label2id", "inverse of id2label", "{'a': 1, 'b': 0}", "leave label2id out"],
    ),
    "contradiction of number and names": (
        {"num_labels": 2, "id2label": ABC},
        ["num_labels=2", "3 names", "leave num_labels out"],
    ),
    "one class": ({"num_labels": 1, "problem_type": SINGLE}, ["num_labels > 1", "regression"]),
    "list for a problem": ({"problem_type": [SINGLE]}, ["problem_type", "regression", "['single_label"]),
}


@pytest.mark.parametrize(("given", "names"), FILLED.values(), ids=FILLED.keys())
def test_names_are_filled(given: dict[str, Any], names: dict[int, str], tmp_path: Path):
    """Each of the three follows from the others, in the order of the ids, and is saved and loaded so."""
    config = DLRConfig(**given)
    config.save_pretrained(tmp_path)
    for settled in (config, DLRConfig.from_dict(given), AutoConfig.from_pretrained(tmp_path)):
        assert list(settled.id2label.items()) == list(names.items())
        assert settled.label2id == {name: label for label, name in names.items()}
        assert settled.num_labels == len(names)


@by_family
@pytest.mark.parametrize(("given", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(given: dict[str, Any], says: list[str], config_class: Any):
    """What a head cannot predict is refused when the configuration is made."""
    message = refusal(config_class, **given)
    assert all(part in message for part in says), message


@pytest.mark.parametrize("name", ["num_labels", "id2label"])
def test_refused_while_loading(name: str, tmp_path: Path):
    """Also when it is given to from_pretrained, and when it is set on a configuration that exists."""
    DLRConfig().save_pretrained(tmp_path)
    for given, says in REFUSED.values():
        if list(given) == [name]:
            for message in (
                refusal(AutoConfig.from_pretrained, tmp_path, **given),
                refusal(setattr, DLRConfig(), name, given[name]),
            ):
                assert all(part in message for part in says), message


@by_family
def test_names_set_later(config_class: Any):
    """Names fill both dictionaries at once, and so does another number; the same number leaves the names."""
    config = config_class()
    config.id2label = {"0": "x", "1": "y", "2": "z"}
    assert (config.id2label, config.label2id) == ({0: "x", 1: "y", 2: "z"}, {"x": 0, "y": 1, "z": 2})
    config.label2id = {"x": np.int64(0), "y": "1", "z": 2}
    assert json.loads(config.to_json_string())["label2id"] == {"x": 0, "y": 1, "z": 2}
    config.num_labels = 3
    assert config.id2label[2] == "z"
    config.num_labels = 1
    assert (config.id2label, config.label2id) == ({0: "LABEL_0"}, {"LABEL_0": 0})


CHANGED: dict[str, Any] = {
    "names with a gap": lambda config: config.id2label.update({7: "x"}),
    "names the other way round": lambda config: setattr(config, "label2id", {"LABEL_0": 1, "LABEL_1": 0}),
    "one class": lambda config: (setattr(config, "problem_type", SINGLE), setattr(config, "num_labels", 1)),
}


@by_family
@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())
def test_contradictions_are_not_saved(change: Any, config_class: Any, tmp_path: Path):
    """What could not be loaded is refused when it is saved, and the file is as it was."""
    config = config_class()
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    change(config)
    assert "label" in refusal(config.save_pretrained, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_file_that_contradicts_itself(tmp_path: Path):
    """In a file that other tools wrote, the names of id2label are right."""
    written = {"model_type": "dlr", "id2label": {"0": "x", "1": "y"}, "label2id": {"LABEL_0": 0}, "num_labels": 5}
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.num_labels, config.label2id) == (2, {"x": 0, "y": 1})


# What is saved of the labels, what is given while it is loaded, and what then holds.
RESIZED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "classes to a score": (
        {"num_labels": 3, "problem_type": SINGLE}, {"num_labels": 1}, {"problem_type": None, "num_labels": 1},
    ),
    "two classes to a score": ({"problem_type": SINGLE}, {"num_labels": 1}, {"problem_type": None}),
    "a score to classes": (
        {"num_labels": 1, "problem_type": REGRESSION}, {"num_labels": 3}, {"problem_type": None, "num_labels": 3},
    ),
    "a score to named classes": (
        {"num_labels": 1, "problem_type": REGRESSION}, {"id2label": ABC}, {"problem_type": None, "id2label": ABC},
    ),
    "classes to others": ({"id2label": ABC, "problem_type": SINGLE}, {"num_labels": 5}, {"num_labels": 5}),
    "as many": (
        {"id2label": ABC, "problem_type": SINGLE}, {"num_labels": 3}, {"id2label": ABC, "problem_type": SINGLE},
    ),
    "other names": (
        {"id2label": ABC, "problem_type": SINGLE}, {"id2label": {0: "x", 1: "y", 2: "z"}},
        {"label2id": {"x": 0, "y": 1, "z": 2}, "problem_type": SINGLE},
    ),
    "other names by label2id": ({"id2label": ABC}, {"label2id": {"x": 0, "y": 1}}, {"id2label": {0: "x", 1: "y"}}),
    "several labels at once": ({"num_labels": 3, "problem_type": MULTI}, {"num_labels": 5}, {"problem_type": MULTI}),
    "vectors": ({"num_labels": 3, "problem_type": REGRESSION}, {"num_labels": 5}, {"problem_type": REGRESSION}),
    "both": (
        {"num_labels": 1, "problem_type": REGRESSION}, {"num_labels": 3, "problem_type": REGRESSION},
        {"num_labels": 3, "problem_type": REGRESSION},
    ),
    "no problem": ({"problem_type": SINGLE}, {"problem_type": None}, {"problem_type": None}),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "given", "then"), RESIZED.values(), ids=RESIZED.keys())
def test_labels_given_while_loading(saved: dict[str, Any], given: dict[str, Any], then: dict[str, Any], tmp_path: Path):
    """Another number of classes has its own names, and ends a problem type that follows from the old number."""
    DLRConfig(**saved).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, **given)
    assert {name: getattr(config, name) for name in then} == then


@pytest.mark.parametrize(
    ("saved", "given"),
    [({"num_labels": 3}, {"num_labels": 1, "problem_type": SINGLE}), ({"num_labels": 1}, {"problem_type": SINGLE})],
    ids=["both given", "one given"],
)
def test_a_contradiction_given_while_loading(saved: dict[str, Any], given: dict[str, Any], tmp_path: Path):
    DLRConfig(**saved).save_pretrained(tmp_path)
    message = refusal(AutoConfig.from_pretrained, tmp_path, **given)
    assert all(part in message for part in ("problem_type", "num_labels > 1", "regression")), message


def test_classes_reloaded_as_a_score_learn(tmp_path: Path):
    """A trained head of three classes that is loaded with one output reads scores; it had a loss of 0 for ever."""
    model = DLRForSequenceClassification(tiny_config(num_labels=3))
    loss_by_problem_type(logits=torch.zeros(2, 3), labels=torch.tensor([0, 2]), config=model.config)
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=1, ignore_mismatched_sizes=True
    )
    loss = loss_by_problem_type(logits=torch.zeros(2, 1), labels=torch.tensor([1.0, 3.0]), config=again.config)
    assert (again.config.problem_type, loss.item()) == (REGRESSION, 5.0)


# The configuration, two heads and the backbone of a family.
FAMILIES: dict[str, tuple[Any, Any, Any, Any]] = {
    "DLR": (tiny_config, DLRForSequenceClassification, DLRForTokenClassification, DLRModel),
    "StripedHyena": (
        lambda **fields: StripedHyenaConfig(**TINY_STRIPED | fields),
        StripedHyenaForSequenceClassification,
        StripedHyenaForTokenClassification,
        StripedHyenaModel,
    ),
}


@pytest.mark.parametrize(("new_config", "head", "other", "base"), FAMILIES.values(), ids=FAMILIES.keys())
def test_a_problem_belongs_to_the_head_that_saved_it(new_config: Any, head: Any, other: Any, base: Any, tmp_path: Path):
    """Another head starts with its own default unless a person says otherwise; a base model passes on its own."""
    head(new_config(problem_type=MULTI)).save_pretrained(tmp_path / "head")
    config = AutoConfig.from_pretrained(tmp_path / "head")
    assert config.problem_type == config.copy_for(head).problem_type == MULTI
    assert config.copy_for(type("Subclass", (head,), {})).problem_type == MULTI
    assert config.copy_for(other).problem_type is None
    assert "_problem_type_of" not in config.to_dict()
    assert other.from_pretrained(tmp_path / "head").config.problem_type is None
    said = AutoConfig.from_pretrained(tmp_path / "head", problem_type=REGRESSION)
    assert said.copy_for(other).problem_type == REGRESSION
    base(new_config(problem_type=MULTI)).save_pretrained(tmp_path / "base")
    assert AutoConfig.from_pretrained(tmp_path / "base").copy_for(other).problem_type == MULTI


def test_labels_of_one_head_of_striped_hyena_leave_another_alone():
    """As for DLR (test_losses.py): the problem type that they set is that of one head."""
    new_config, head, other, _ = FAMILIES["StripedHyena"]
    config = new_config()
    first, second, ids = head(config), other(config), torch.ones(2, 5, dtype=torch.long)
    first(input_ids=ids, labels=torch.ones(2, 4))
    assert second(input_ids=ids, labels=torch.ones(2, 5, dtype=torch.long)).loss > 0
    assert (first.config.problem_type, second.config.problem_type, config.problem_type) == (MULTI, SINGLE, None)
