"""A configuration in a file: what is kept of other tools, what is refused, and what a person misspells."""

import copy
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refusal
from tiny import tiny_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils.logging import get_logger

from modeling_dlr import (
    DLRConfig,
    DLRForCausalLM,
    DLRForSequenceClassification,
    DLRForTokenClassification,
    DLRModel,
    StripedHyenaConfig,
)
from modeling_dlr.configuration_dlr import OTHER_NAMES, REMARKS

# What tools leave in config.json.
LEFT = {
    "finetuning_task": "sst2", "is_decoder": True, "unsloth_version": "2026.1", "max_new_tokens": 20, "threshold": 0.3,
    "nested": {"rates": [1, None, {"dtype": "float32"}], "range": [0, float("inf")]}, "use_return_dict": True,
    "rope_theta": 500.0, "rope_scaling": None, "keys_to_ignore_at_inference": ["cache"], "_mine": 3,
}  # fmt: skip


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log, with each warning as if it were the first."""
    get_logger("modeling_dlr.configuration_base_dlr").warning_once.cache_clear()  # pyrefly: ignore[missing-attribute]
    with caplog.at_level(logging.WARNING, logger="modeling_dlr.configuration_base_dlr"):
        yield caplog


def write(folder: Path, content: Any) -> None:
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("head", [DLRModel, DLRForSequenceClassification, DLRForTokenClassification, DLRForCausalLM])
def test_what_is_saved_is_loaded(head: Any, tmp_path: Path, said: pytest.LogCaptureFixture):
    """Attributes that were set on a model's configuration come back with it, and are saved again unchanged."""
    model = head(tiny_config())
    for name, value in LEFT.items():
        model.config.__dict__[name] = value
    model.save_pretrained(tmp_path)
    before = read(tmp_path)
    assert LEFT.keys() <= before.keys()
    for load in (head, head.config_class, AutoConfig, AutoModel):
        loaded = load.from_pretrained(tmp_path)
        config = getattr(loaded, "config", loaded)
        assert {name: config.__dict__[name] for name in LEFT} == LEFT
    loaded.save_pretrained(tmp_path / "again")
    assert read(tmp_path / "again") | {"architectures": before["architectures"]} == before
    (message,) = [record.message for record in said.records if "keeps names" in record.message]
    assert all(repr(name) in message for name in sorted(LEFT.keys() - {"_mine"})[:4]), message


def test_how_the_warning_reads(tmp_path: Path, said: pytest.LogCaptureFixture):
    """It lists all names once, with what they are called here, and is silent about what is known."""
    write(tmp_path, {"model_type": "dlr", "_name_or_path": "a", "temperature": 1.0, "threshold": 1, "d_model": 9})
    for _ in range(2):
        config = DLRConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.d_model, config.threshold) == (128, 9, 1)
    assert not hasattr(config, "temperature")
    (message,) = [record.message for record in said.records]
    assert message.startswith("DLRConfig keeps names")
    assert message.endswith("'d_model' (use 'hidden_size'), 'threshold'.")


def test_many_names(tmp_path: Path, said: pytest.LogCaptureFixture):
    write(tmp_path, {f"n{index:03}" + "x" * 10**5: 1 for index in range(100)})
    assert len(DLRConfig.from_pretrained(tmp_path).to_dict()) > 100
    assert said.messages[0].endswith(" and 92 more.")
    assert len(said.messages[0]) < 500


def test_checkpoints_of_the_trainer(tmp_path: Path):
    """A training goes on from a checkpoint whose configuration holds a name of another tool."""
    model = DLRForSequenceClassification(tiny_config(problem_type="single_label_classification", pad_token_id=0))
    model.config.threshold = 0.3
    rows = [{"input_ids": [1, 2, 3], "labels": 1}] * 2
    for steps in (1, 2):
        options = {"per_device_train_batch_size": 1, "save_steps": 1, "report_to": "none", "use_cpu": True}
        arguments = TrainingArguments(str(tmp_path), max_steps=steps, **options)
        Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=steps > 1)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert again.config.threshold == 0.3


def test_copies_keep_what_is_kept(tmp_path: Path):
    write(tmp_path, {"threshold": 0.3})
    config = DLRConfig.from_pretrained(tmp_path)
    pickled = pickle.loads(pickle.dumps(config))  # noqa: S301 - our own
    for again in (copy.deepcopy(config), pickled, DLRConfig.from_dict(config.to_dict())):
        assert again.threshold == 0.3
        assert again.to_dict() == config.to_dict()
    assert DLRConfig.from_pretrained(tmp_path, threshold=0.5).threshold == 0.5


# What a person writes, and the part of the message that says what was meant.
MISSPELT: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"hiden_size": 8}, "did you mean 'hidden_size'?"),
    "labels": ({"num_label": 3}, "did you mean 'num_labels'?"),
    "other library": ({"dropout": 0.1}, "use 'hidden_dropout_prob'"),
    "kernel": ({"time_step_min": 0.1}, "kernel_parameters={'time_step_min': …}"),
    "no field": ({"is_decoder": True}, "bidirectional=True"),
}


@pytest.mark.parametrize(("given", "says"), MISSPELT.values(), ids=MISSPELT.keys())
def test_misspelt_by_a_person(given: dict[str, Any], says: str, tmp_path: Path):
    """In the constructor, and in the arguments of every from_pretrained and from_dict."""
    DLRForSequenceClassification(tiny_config()).save_pretrained(tmp_path)
    loaders = (DLRConfig, AutoConfig, DLRForSequenceClassification, AutoModelForSequenceClassification)
    for load in [DLRConfig, *(loader.from_pretrained for loader in loaders)]:
        assert says in refusal(load, *([] if load is DLRConfig else [tmp_path]), **given)
    assert says in refusal(DLRConfig.from_dict, {}, **given)
    assert says in refusal(AutoConfig.for_model, "dlr", **given)


def test_names_of_other_libraries():
    """Each stands for one field or has one remark, and is no field itself."""
    others = [name for names in (*OTHER_NAMES.values(), *REMARKS) for name in names.split()]
    assert len(set(others)) == len(others)
    assert OTHER_NAMES.keys() <= DLRConfig.known_names()
    for name in others:
        assert name not in DLRConfig.known_names()
        assert name in refusal(DLRConfig, **{name: 1})
        assert "known names are" not in refusal(DLRConfig, **{name: 1})


def test_remote_code_keeps_and_refuses_alike(tmp_path: Path):
    """The copy of the class in a folder, as it is read without this package."""
    config = DLRConfig()
    config.threshold = 0.3
    config.save_pretrained(tmp_path)
    remote = get_class_from_dynamic_module("configuration_dlr.DLRConfig", tmp_path)
    assert remote is not DLRConfig
    assert remote.from_pretrained(tmp_path).threshold == 0.3
    assert "did you mean 'hidden_size'?" in refusal(remote.from_pretrained, tmp_path, hiden_size=8)
    assert "use 'hidden_dropout_prob'" in refusal(remote, dropout=0.1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT itself
def test_adapters_keep_what_the_model_keeps(tmp_path: Path):
    """A model that PEFT wraps, saves and loads again upon a base with names of other tools."""
    base = DLRForSequenceClassification(tiny_config())
    base.config.threshold = 0.3
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=1))
    adapted.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    assert PeftModel.from_pretrained(again, str(tmp_path / "adapter")).config.threshold == 0.3


def test_what_is_no_name_of_a_configuration(tmp_path: Path):
    """Alone it is refused; where others are read with it, it is passed on as transformers does."""
    DLRForSequenceClassification(tiny_config()).save_pretrained(tmp_path)
    for load in (DLRConfig.from_pretrained, DLRConfig.from_dict):
        assert "'qqq'" in refusal(load, {} if load == DLRConfig.from_dict else tmp_path, qqq=1)
    _, unused = DLRConfig.from_pretrained(tmp_path, qqq=1, pooling="last", return_unused_kwargs=True)
    assert unused == {"qqq": 1}
    for said_of_a_tokenizer in ("use_fast", "padding_side", "bos_token", "vocab_file", "tokenizer_type"):
        assert AutoConfig.from_pretrained(tmp_path, **{said_of_a_tokenizer: "x"}).hidden_size == 3
    reader = pipeline("text-classification", tmp_path, tokenizer=object(), model_kwargs={"dtype": "float64"})
    assert reader.model.dtype == torch.float64


CHANGED: dict[str, Any] = {
    "entry of the kernel": lambda config: config.kernel_parameters.update(read_oot="imag"),
    "entry of the positions": lambda config: config.rope_parameters.update(theta=3),
    "number of layers": lambda config: setattr(config, "num_hidden_layers", 3),
    "vocabulary": lambda config: setattr(config, "eos_token_id", 10**6),
    "tensor": lambda config: setattr(config, "threshold", torch.ones(1)),
    "set": lambda config: setattr(config, "nested", {"a": {1, 2}}),
    "keys of two kinds": lambda config: setattr(config, "nested", {"a": 1, 2: 3}),
    "name of a method": lambda config: setattr(config, "validate_heads", 3),
    "name of Python": lambda config: setattr(config, "__foo", 3),
    "attention": lambda config: setattr(config, "attn_implementation", ["sdpa"]),
    "map of names": lambda config: setattr(config, "attribute_map", {}),
    "nesting": lambda config: setattr(config, "nested", nested(40)),
    "parameter of generation": lambda config: setattr(config, "temperature", 0.5),
    "state of both directions": lambda config: config.update({"bidirectional": True, "use_cache": True}),
}


def nested(depth: int) -> Any:
    """A list in a list in a list …."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())
def test_what_could_not_be_loaded_is_not_saved(change: Any, tmp_path: Path):
    """It is refused, and the file that is there stays as it is."""
    config = DLRConfig(num_hidden_layers=2)
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    change(config)
    assert refusal(config.save_pretrained, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_part_of_a_dictionary_is_filled_when_it_is_set():
    """As in the constructor."""
    config = DLRConfig(use_cache=True)
    config.kernel_parameters = {"read_out": "imag"}
    config.rope_parameters = {"rope_theta": 5}
    assert config.kernel_parameters == DLRConfig(kernel_parameters={"read_out": "imag"}).kernel_parameters
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5}
    assert "'read_oot'" in refusal(setattr, config, "kernel_parameters", {"read_oot": 1})


# What stands in config.json, and what the message must contain.
UNREADABLE: dict[str, tuple[Any, list[str]]] = {
    "list": ([], ["one JSON object", "[]"]),
    "number": (3, ["one JSON object"]),
    "half a file": ('{"model_type": "dl', ["not a valid JSON file"]),
    "nothing": ("", ["not a valid JSON file"]),
    "too deep to parse": ("[" * 10**5, ["one JSON object", "32 levels"]),
    "too deep to copy": ('{"a":' * 400 + "1" + "}" * 400, ["32 levels"]),
    "deeper than anybody writes": ({"a": nested(40)}, ["32 levels"]),
    "number of many digits": ('{"hidden_size": ' + "9" * 5000 + "}", ["4300 digits"]),
    "method": ({"to_dict": 3}, ["'to_dict'", "Config itself"]),
    "name of Python": ({"__class__": 3}, ["'__class__'", "Config itself"]),
    "long text for a number": ({"hidden_size": "9" * 10**6}, ["'hidden_size'", "expected int", "…"]),
    "type of no name": ({"dtype": {"nested": [1]}}, ["dtype", "nested"]),
    "another model": ({"model_type": "bert", "hidden_size": 8}, ["the type 'bert'", "AutoConfig and AutoModel"]),
    "a model of no name": ({"model_type": ["dlr"]}, ["the type ['dlr']"]),
}


@pytest.mark.parametrize("config_class", [DLRConfig, StripedHyenaConfig])
@pytest.mark.parametrize(("content", "says"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable(content: Any, says: list[str], config_class: type[PreTrainedConfig], tmp_path: Path):
    """One line says what is wrong with a file."""
    write(tmp_path, content)
    with pytest.raises((ValueError, OSError)) as caught:
        config_class.from_pretrained(tmp_path)
    message = str(caught.value)
    assert all(part in message for part in says), message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("config_class", [DLRConfig, StripedHyenaConfig])
def test_too_large(config_class: type[PreTrainedConfig], tmp_path: Path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**28 + 1)
    assert all(part in refusal(config_class.from_pretrained, tmp_path) for part in ("268435457 bytes", "at most"))


def test_the_folder_of_another_model(tmp_path: Path):
    """The model that it holds is named."""
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    for load in (DLRConfig, DLRModel, DLRForCausalLM):
        message = refusal(load.from_pretrained, tmp_path)
        assert all(part in message for part in ("'bert'", "'dlr'", "AutoConfig and AutoModel")), message


@pytest.mark.parametrize("number", [DLRConfig.from_dict, DLRConfig.from_pretrained], ids=["from_dict", "folder"])
def test_nothing_is_counted_down_for_ever(number: Any, tmp_path: Path):
    """Sizes that no memory holds are refused before anything of that size is made."""
    for huge in ({"num_hidden_layers": 10**8}, {"num_labels": 10**9}, {"state_size": 10**30}):
        write(tmp_path, huge)
        assert next(iter(huge)) in refusal(number, huge if number == DLRConfig.from_dict else tmp_path)
