"""StripedHyena in folders: configurations, Auto classes, remote code, adapters, the Trainer, and what is refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from golden_data import GOLDEN
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_striped import TINY, tiny_striped, tokens
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments
from without_package import run_without_package

from modeling_dlr import (
    StripedHyenaConfig,
    StripedHyenaForSequenceClassification,
    StripedHyenaForTokenClassification,
    StripedHyenaModelForCausalLM,
)
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES

PUBLISHED = GOLDEN / "striped_hyena" / "evo-8k"

WORKER = """
import importlib.util, sys, torch, transformers
from pathlib import Path
from safetensors.torch import load_file
assert importlib.util.find_spec("modeling_dlr") is None
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    data = load_file(path)
    auto = getattr(transformers, path.stem)
    model = auto.from_pretrained(path.with_suffix(""), trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        torch.testing.assert_close(model(data["input_ids"])[0], data["answer"], rtol=0, atol=0)
    if "generated" in data:
        out = model.generate(data["input_ids"], max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert torch.equal(out, data["generated"])
"""


@pytest.mark.slow
def test_remote_code(tmp_path: Path):
    """Without the package, a saved folder loads under every Auto class and answers the same."""
    for auto_class, model_class in STRIPED_HYENA_CLASSES.items():
        model = tiny_striped(model_class).float()
        model.save_pretrained(tmp_path / auto_class)
        code = {path.name for path in (tmp_path / auto_class).glob("*.py")}
        assert {"modeling_striped_hyena.py", "configuration_striped_hyena.py"} < code
        assert not code & {"modeling_dlr.py", "kernels_dlr.py", "heads_dlr.py"}
        ids = tokens(2, 7)
        data = {"input_ids": ids, "answer": model(ids)[0].detach().contiguous()}
        if auto_class == "AutoModelForCausalLM":
            data["generated"] = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        save_file(data, tmp_path / f"{auto_class}.safetensors")
    run_without_package(tmp_path, "-c", WORKER, tmp_path)


@pytest.mark.parametrize("trust", [None, True, False])
def test_two_lines_of_a_user(trust: bool | None):
    """The published auto_map names code elsewhere: with this package, its classes are the ones that load."""
    config = AutoConfig.from_pretrained(PUBLISHED, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(PUBLISHED, config=config, trust_remote_code=trust)
    assert type(config) is StripedHyenaConfig
    assert type(model) is StripedHyenaModelForCausalLM


def test_configuration_of_a_file(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """Known keys of the Hub are kept silently; unknown ones are kept, and named once in a warning."""
    values = json.loads((PUBLISHED / "config.json").read_text())
    with caplog.at_level(logging.WARNING):
        config = StripedHyenaConfig.from_pretrained(PUBLISHED)
    assert not caplog.records
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    renamed = {"_commit_hash", "_name_or_path", "auto_map", "torch_dtype", "transformers_version"}
    for name in values.keys() - renamed:
        assert getattr(config, name) == values[name]
        assert saved.get(name, getattr(StripedHyenaConfig(), name, None)) == values[name], name
    (tmp_path / "config.json").write_text(json.dumps(values | {"quux": [1]}))
    with caplog.at_level(logging.WARNING):
        again = StripedHyenaConfig.from_pretrained(tmp_path)
    assert "does not read: 'quux'." in caplog.text
    assert again.quux == [1]
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quux"] == [1]


def test_names_of_transformers():
    """Standard names are the published ones, in the constructor, while loading, and as attributes."""
    config = StripedHyenaConfig(num_hidden_layers=3, hidden_size=12, num_attention_heads=2, tie_word_embeddings=False)
    assert (config.num_layers, config.tie_embeddings, config.intermediate_size) == (3, False, 64)
    loaded = AutoConfig.from_pretrained(PUBLISHED, num_labels=5, tie_word_embeddings=False, use_cache=False)
    assert (loaded.num_labels, loaded.tie_embeddings, loaded.use_cache) == (5, False, False)
    assert loaded.num_key_value_heads == 4
    assert StripedHyenaConfig(hidden_size=4096, inner_size_multiple_of=16).inner_mlp_size == 10928


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"num_layer": 3}, "'num_layer'.*'num_layers'"),
    "unknown": ({"quux": 3}, "unknown name 'quux'"),
    "in neither": ({"hyena_layer_idxs": [0]}, r"\[\] are in both and \[2\] in neither"),
    "in both": ({"hyena_layer_idxs": [0, 1, 2]}, r"\[1\] are in both"),
    "outside": ({"attn_layer_idxs": [3]}, r"must lie in 0 … num_layers-1 = 2, got \[3\]"),
    "groups": ({"hyena_filter_groups": 5}, "must divide hidden_size, got 5 and 12"),
    "filters": ({"num_filters": 13}, "num_filters must be hidden_size=12, got 13"),
    "heads": ({"num_attention_heads": 4}, "and of twice as many where a block attends, got 12 and 4"),
    "key heads": ({"proj_groups": 3}, "must be a multiple of proj_groups, got 2 and 3"),
    "smeared": ({"smeared_gqa": True}, "smeared_gqa must be False"),
    "activation": ({"mlp_activation": "relu"}, "mlp_activation"),
    "token": ({"eos_token_id": 11}, "eos_token_id must lie in 0 … vocab_size-1 = 10, got 11"),
    "type": ({"state_size": 1.5}, "state_size"),
    "range": ({"short_filter_length": 0}, "short_filter_length"),
    "dtype": ({"dtype": "float33"}, "dtype must be one of"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_refused_configurations(refused: str):
    """Rule, value and cure, when the configuration is born."""
    changes, says = REFUSED[refused]
    with pytest.raises((ValueError, StrictDataclassError), match=says):
        StripedHyenaConfig(**TINY | changes)


def test_stray_layers_are_ignored():
    """As published: StripedHyena-7B lists a block 32 of 32."""
    config = StripedHyenaConfig(**TINY | {"hyena_layer_idxs": [0, 2, 3]})
    assert config.layer_types == ["hyena", "full_attention", "hyena"]


REVISIONS: dict[str, tuple[str, str | None, bool]] = {
    "main": ("togethercomputer/evo-1-131k-base", None, True),
    "named main": ("togethercomputer/evo-1-8k-base", "main", True),
    "right": ("togethercomputer/evo-1-8k-base", "1.1_fix", False),
    "right commit": ("togethercomputer/evo-1-131k-base", "c206aab" + "0" * 33, False),
    "short commit": ("togethercomputer/evo-1-131k-base", "c206aab", False),
    "too short": ("togethercomputer/evo-1-131k-base", "c206", True),
    "commit of the other": ("togethercomputer/evo-1-8k-base", "c206aab" + "0" * 33, True),
    "another branch": ("togethercomputer/evo-1-8k-base", "1.1_fix_2", True),
    "another model": ("LongSafari/evo-1-8k-crispr", None, False),
}


@pytest.mark.parametrize("case", REVISIONS)
def test_wrong_revisions_are_warned_of(case: str, monkeypatch: pytest.MonkeyPatch):
    """Two repositories have permuted projections at all revisions but one, of whose commits one is known."""
    name, revision, warns = REVISIONS[case]
    model, said = tiny_striped(StripedHyenaModelForCausalLM), []
    info = dict.fromkeys(("missing_keys", "unexpected_keys"), ())
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(lambda *_, **__: (model, info)))
    monkeypatch.setattr("modeling_dlr.checkpoint_striped_hyena.logger.warning", said.append)
    assert StripedHyenaModelForCausalLM.from_pretrained(name, **({"revision": revision} if revision else {})) is model
    assert bool(said) == warns
    assert not warns or "Pass revision='1.1_fix'" in said[0]


def test_local_folders_are_not_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever they are called."""
    folder = tmp_path / "togethercomputer" / "evo-1-8k-base"
    shutil.copytree(PUBLISHED, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modeling_dlr.checkpoint_striped_hyena.logger.warning", pytest.fail)
    AutoModelForCausalLM.from_pretrained("togethercomputer/evo-1-8k-base")


# What is done to the weights, to the configuration, and what the error names.
MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, Any], str]] = {
    "missing": (lambda weights: weights.pop(f"{THIRD}.poles"), {}, "blocks.3.filter.poles missing"),
    "left over": (
        lambda weights: weights.update({"backbone.blocks.4.filter.poles": torch.zeros(1)}),
        {},
        "blocks.4.filter.poles left over",
    ),
    "untied": (lambda _: None, {"tie_embeddings": False}, "unembed.weight missing"),
    "shape": (lambda _: None, {"vocab_size": 513}, r"embedding_layer.weight of \[512, 32\] instead of \[513, 32\]"),
    "another model": (
        lambda weights: [weights.update({f"other.{name}": weights.pop(name)}) for name in sorted(weights)],
        {},
        r"and \d+ more missing; other.backbone.blocks.0",
    ),
}
THIRD = "backbone.blocks.3.filter"


def write_folder(
    place: Path, change: Callable[[dict[str, torch.Tensor]], object], fields: dict[str, Any], sharded: bool
) -> Path:
    """The published folder with other weights and another configuration, in one file or in two."""
    shutil.copytree(PUBLISHED, place)
    config, weights = json.loads((place / "config.json").read_text()), load_file(place / "model.safetensors")
    change(weights)
    (place / "config.json").write_text(json.dumps(config | fields))
    (place / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model.safetensors": names}
    if sharded:
        files = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
        index = {"metadata": {}, "weight_map": {name: file for file, some in files.items() for name in some}}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
    for file, some in files.items():
        save_file({name: weights[name] for name in some}, place / file, metadata={"format": "pt"})
    return place


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "two files"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit(misfit: str, sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are refused before any is read, blocks and the projection onto the vocabulary alike."""
    change, fields, says = MISFITS[misfit]
    folder = write_folder(tmp_path / "model", change, fields, sharded)
    monkeypatch.setattr(PreTrainedModel, "_load_pretrained_model", pytest.fail)
    with pytest.raises(ValueError, match=says):
        AutoModelForCausalLM.from_pretrained(folder)


def test_weights_in_a_pickle_that_do_not_fit(tmp_path: Path):
    """Their names are known when they are read."""
    folder = write_folder(tmp_path / "model", lambda weights: weights.pop(f"{THIRD}.poles"), {}, sharded=False)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"blocks\.3\.filter\.poles missing"):
        AutoModelForCausalLM.from_pretrained(folder)


def without_frequencies(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.endswith("inv_freq")]:
        del weights[name]


FITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, Any], dict[str, Any]]] = {
    "no rotary frequencies": (without_frequencies, {}, {}),
    "a projection onto the vocabulary that is the embedding": (
        lambda weights: weights.update({"backbone.unembed.weight": weights["backbone.embedding_layer.weight"].clone()}),
        {},
        {},
    ),
    "other names": (
        lambda weights: weights.update({f"{THIRD}.roots": weights.pop(f"{THIRD}.poles")}),
        {},
        {"key_mapping": {r"filter\.roots": "filter.poles"}},
    ),
}


@pytest.mark.parametrize("fit", FITS)
def test_weights_that_fit(fit: str, tmp_path: Path):
    """What is not needed may be missing, and names may be mapped: the answers are those of the published folder."""
    change, fields, options = FITS[fit]
    folder, ids = write_folder(tmp_path / "model", change, fields, sharded=False), tokens(1, 7)
    model, published = (
        AutoModelForCausalLM.from_pretrained(folder, **options),
        AutoModelForCausalLM.from_pretrained(PUBLISHED),
    )
    torch.testing.assert_close(model(ids).logits, published(ids).logits, rtol=0, atol=0)


def test_heads_on_published_weights(tmp_path: Path):
    """A classifier takes the backbone of a language model, and begins anew; the backbone alone loads, too."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(PUBLISHED, num_labels=3)
    assert type(model) is StripedHyenaForSequenceClassification
    assert model(tokens(2, 5)).logits.shape == (2, 3)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.num_labels == 3
    language = AutoModelForCausalLM.from_pretrained(PUBLISHED)
    backbone = transformers.AutoModel.from_pretrained(PUBLISHED)
    ids = tokens(1, 6)
    torch.testing.assert_close(backbone(ids)[0], language.backbone(ids)[0], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT itself
def test_lora():
    """On the usual targets: adapters are applied and trained, also where a sequence is computed in pieces."""
    model = tiny_striped(StripedHyenaModelForCausalLM).float()
    targets = ["Wqkv", "out_proj", "projections", "out_filter_dense", "l1", "l2", "l3"]
    ids = tokens(2, 9)
    before = model(ids).logits.detach()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    adapted(input_ids=ids, labels=ids).loss.backward()
    trained = {name for name, value in adapted.named_parameters() if value.grad is not None}
    assert {target for target in targets if any(f".{target}.lora_B" in name for name in trained)} == set(targets)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_()
        assert (adapted(input_ids=ids).logits - before).abs().max() > 1e-3
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, adapted(input_ids=ids).logits)


TASKS = {
    "sequence": (StripedHyenaForSequenceClassification, lambda: {"labels": 1}),
    "token": (StripedHyenaForTokenClassification, lambda: {"labels": [1, 0, 3, -100, 2]}),
    "language": (StripedHyenaModelForCausalLM, lambda: {"labels": [1, 2, 3, 4, 5]}),
}


@pytest.mark.parametrize("task", TASKS)
def test_trainer(task: str, tmp_path: Path):
    """The stock Trainer lowers the loss of every head, and evaluates it."""
    model_class, labels = TASKS[task]
    rows = Dataset.from_list([{"input_ids": [1, 2, 3, 4, 5], **labels()}] * 8)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=12,
        learning_rate=0.03,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
    )
    trainer = Trainer(tiny_striped(model_class).float(), arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2
