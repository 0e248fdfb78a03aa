"""StripedHyena against the official code (tests/golden/striped_hyena): four tiny checkpoints under published names."""

from functools import cache
from pathlib import Path

import pytest
import torch
from golden_data import GOLDEN
from safetensors.torch import load_file
from tolerances import assert_close
from torch import Tensor
from transformers import AutoModelForCausalLM

from modeling_dlr import StripedHyenaModelForCausalLM

CASES = ["evo-8k", "evo-131k", "sh-7b", "thirds"]
TYPES = {"float64": torch.float64, "float32": "StripedHyena in float32"}

by_case = pytest.mark.parametrize("case", CASES)
by_type = pytest.mark.parametrize("kind", TYPES)


def folder(case: str) -> Path:
    return GOLDEN / "striped_hyena" / case


@cache
def expected(case: str) -> dict[str, Tensor]:
    return load_file(folder(case) / "expected.safetensors")


def load(case: str, kind: str, device: torch.device) -> StripedHyenaModelForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(folder(case), dtype=getattr(torch, kind))
    assert type(model) is StripedHyenaModelForCausalLM
    return model.to(device).eval()


@by_case
@by_type
@torch.no_grad()
def test_logits_are_the_official_ones(case: str, kind: str, device: torch.device):
    """For all steps at once."""
    logits = load(case, kind, device)(expected(case)["input_ids"].to(device)).logits
    assert_close(logits, expected(case)[f"logits_{kind}"], TYPES[kind])


@by_case
@by_type
@torch.no_grad()
def test_steps_are_the_official_ones(case: str, kind: str, device: torch.device):
    """Seven steps at once, and then one by one from the cache."""
    model, ids = load(case, kind, device), expected(case)["input_ids"].to(device)
    outputs = model(ids[:, :7], use_cache=True)
    logits = [outputs.logits]
    logits += [model(ids[:, t : t + 1], cache=outputs.cache).logits for t in range(7, ids.shape[1])]
    assert_close(torch.cat(logits, dim=1), expected(case)[f"step_logits_{kind}"], TYPES[kind])


@by_case
@torch.no_grad()
def test_blocks_and_states_are_the_official_ones(case: str, device: torch.device):
    """Hidden states after every block, log-probabilities, and the states of both filters after all steps."""
    model, data, blocks = load(case, "float64", device), expected(case), []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: blocks.append(output))
    ids = data["input_ids"].to(device)
    outputs = model(ids, use_cache=True, output_hidden_states=True)
    for i, (states, kind) in enumerate(zip(blocks, model.config.layer_types, strict=True)):
        assert_close(states, data[f"block_{i}_float64"], torch.float64)
        if kind == "hyena":
            layer = outputs.cache.layers[i]
            assert_close(torch.stack(layer.contents(), dim=-1), data[f"final_state_{i}_float64"], torch.float64)
            assert_close(layer.recent.mT, data[f"final_fir_state_{i}_float64"], torch.float64)
    assert_close(outputs.hidden_states[2], data["block_1_float64"], torch.float64)
    next_ones = outputs.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    assert_close(next_ones, data["log_probabilities_float64"], torch.float64)


@by_case
@torch.no_grad()
def test_bfloat16_is_closer_than_the_official_one(case: str, device: torch.device):
    """As published: poles and residues in float32, all else in bfloat16; and no further from float64 than theirs."""
    model, data = load(case, "bfloat16", device), expected(case)
    types = {name: value.dtype for name, value in model.named_parameters()}
    exact = {name for name in types if name.endswith(("poles", "residues"))}
    assert {types[name] for name in exact} == {torch.float32}
    assert {types[name] for name in types.keys() - exact} == {torch.bfloat16}
    logits = model(data["input_ids"].to(device)).logits
    ours, theirs, exactly = (x.double().cpu() for x in (logits, data["logits_bfloat16"], data["logits_float64"]))
    assert (ours - exactly).abs().max() <= (theirs - exactly).abs().max()
    assert (ours - exactly).square().mean() <= (theirs - exactly).square().mean()


@by_case
def test_weights_load_as_they_lie_and_save_under_the_same_names(case: str, tmp_path: Path):
    """Every tensor comes back with its name, type, shape and value; but the rotary frequencies are the exact ones."""
    model, info = AutoModelForCausalLM.from_pretrained(folder(case), dtype="auto", output_loading_info=True)
    assert not any(info.values())
    model.save_pretrained(tmp_path)
    saved, published = (load_file(place / "model.safetensors") for place in (tmp_path, folder(case)))
    assert saved.keys() == published.keys()
    for name, value in published.items():
        assert saved[name].dtype == value.dtype, name
        torch.testing.assert_close(saved[name], value, rtol=0, atol=0, msg=name)
    wide = AutoModelForCausalLM.from_pretrained(folder(case), dtype=torch.float32).state_dict()
    (frequencies, *_) = (value for name, value in wide.items() if name.endswith("inv_freq"))
    exact = float(model.config.rotary_emb_base) ** (torch.arange(0, 8, 2, dtype=torch.float64) / -8)
    torch.testing.assert_close(frequencies.double(), exact, rtol=1e-6, atol=0)
