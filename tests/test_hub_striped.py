"""Folders of StripedHyena are inspected, described, pushed, and loaded without this package."""

import json
from pathlib import Path

import hub_server
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_striped import tiny_striped

from hub_upload import push as push_module
from hub_upload.card import CardOptions, write_card
from hub_upload.errors import VerificationError
from hub_upload.inspect_folder import INSPECTIONS
from hub_upload.push import dry_run, push
from hub_upload.verify import verify
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES
from modeling_dlr.tokenization import evo_tokenizer

HEADS = [name for name in STRIPED_HYENA_CLASSES if "For" in name]


def make_folder(folder: Path, auto_class: str) -> Path:
    """A small model with tokenizer and card."""
    torch.manual_seed(0)
    tiny_striped(STRIPED_HYENA_CLASSES[auto_class], vocab_size=512).float().save_pretrained(folder)
    evo_tokenizer().save_pretrained(folder)
    write_card(folder, CardOptions())
    return folder


@pytest.mark.parametrize("auto_class", STRIPED_HYENA_CLASSES)
def test_inspected(auto_class: str, tmp_path: Path):
    """A saved folder has no problem, and its card describes it."""
    folder = make_folder(tmp_path / "model", auto_class)
    assert {title: found for title, inspect in INSPECTIONS.items() if (found := inspect(folder))} == {}
    card = (folder / "README.md").read_text()
    assert "A causal hybrid of StripedHyena and transformer" in card
    assert f"from modeling_dlr import {STRIPED_HYENA_CLASSES[auto_class].__name__}" in card
    assert not (folder / "kernels.png").exists()


def test_problems_are_found(tmp_path: Path):
    """Weights of another model, and a class that the code does not have."""
    folder = make_folder(tmp_path / "model", "AutoModelForCausalLM")
    weights = load_file(folder / "model.safetensors")
    del weights["backbone.blocks.0.filter.poles"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "modeling_striped_hyena.Nothing"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(VerificationError) as refused:
        verify(folder)
    assert "missing: backbone.blocks.0.filter.poles" in str(refused.value)
    assert "Nothing of modeling_striped_hyena.py, which has no such class" in str(refused.value)


# huggingface_hub sends files to Git LFS by an argument that its own HTTP client deprecates.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("auto_class", HEADS)
def test_pushed(auto_class: str, hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A dry run sends nothing; a pushed folder loads from the Hub with the same outputs."""
    folder = make_folder(tmp_path / "model", auto_class)
    monkeypatch.setattr(push_module, "verify", lambda _folder, **_options: None)
    plan = dry_run(folder, "me/evo")
    assert not hub.repositories
    push(folder, "me/evo")
    sent = hub.repositories["models/me/evo"].files()
    assert sorted(plan.new) == sorted(sent.keys() - {".gitattributes"})
    assert {"model.safetensors", "modeling_striped_hyena.py", "checkpoint_striped_hyena.py", "tokenizer.json"} < set(
        sent
    )
    auto, ids = getattr(transformers, auto_class), evo_tokenizer()(["ACGTN"], return_tensors="pt")
    options = {"cache_dir": tmp_path / "cache"}
    assert (
        transformers.AutoTokenizer.from_pretrained("me/evo", **options)(["ACGTN"]).input_ids == ids.input_ids.tolist()
    )
    answers = [auto.from_pretrained(place, **options)(**ids).logits for place in ("me/evo", folder)]
    torch.testing.assert_close(*answers, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("auto_class", HEADS)
def test_verified(auto_class: str, tmp_path: Path):
    """Without this package, every class and the pipeline have bit-identical outputs."""
    facts = verify(make_folder(tmp_path / "model", auto_class)).facts
    for name in STRIPED_HYENA_CLASSES:
        assert f"{name} loads without this package, with bit-identical outputs" in facts
    assert "its pipeline has the same outputs without this package" in facts
