"""StripedHyena compiled and exported: one graph answers as the model does, for every batch and length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_compile_export import batch_of
from tiny import gradients_of
from tiny_striped import VARIANTS, tiny_striped, tokens
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from transformers import DynamicCache

from modeling_dlr import (
    StripedHyenaForSequenceClassification,
    StripedHyenaForTokenClassification,
    StripedHyenaModelForCausalLM,
)

AXES = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in ("input_ids", "attention_mask")}


def stable(model_class: type[nn.Module], **changes: Any) -> Any:
    """A tiny model whose filters fade: of one that grows, long sequences say nothing about rounding."""
    model = tiny_striped(model_class, **changes)
    with torch.no_grad():
        for name, poles in model.named_parameters():
            if name.endswith("poles"):
                poles.mul_(0.99 / poles.norm(dim=-1, keepdim=True).clamp(min=0.99))
    return model


@pytest.mark.parametrize("name", ["Evo", pytest.param("StripedHyena-7B", marks=pytest.mark.slow)])
def test_compiled_training_step(name: str):
    """Forward and backward in one graph, with the same loss and gradients."""
    model = stable(StripedHyenaForSequenceClassification, **VARIANTS[name])
    inputs = batch_of(2, 17) | {"labels": torch.tensor([0, 1])}
    expected = model(**inputs).loss
    expected.backward()
    gradients = gradients_of(model)
    model.zero_grad()
    torch._dynamo.reset()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for parameter, value in gradients_of(model).items():
        torch.testing.assert_close(value, gradients[parameter], rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_compiled_steps_from_a_cache():
    """A few graphs serve every step of a stream, from the first one on."""
    model, ids = stable(StripedHyenaModelForCausalLM), tokens(2, 15)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(model, fullgraph=True, backend=counter)
    cache, logits, graphs = DynamicCache(config=model.config), [], []
    for token in ids.split(1, dim=1):
        logits.append(step(token, cache=cache, use_cache=True).logits)
        graphs.append(counter.frame_count)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=1e-8, atol=1e-10)
    assert graphs[-1] == graphs[4]


@torch.no_grad()
def test_exported_for_every_batch_and_length():
    """One torch.export serves every batch size and length, down to one step."""
    model = stable(StripedHyenaForTokenClassification)
    program = torch.export.export(model, (), batch_of(2, 33), dynamic_shapes=AXES, strict=False).module()
    for batch, length in ((1, 1), (2, 7), (3, 63), (5, 301)):
        inputs = batch_of(batch, length)
        counts = inputs["attention_mask"].bool()
        logits, expected = program(**inputs).logits[counts], model(**inputs).logits[counts]
        torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_a_cache_of_attention_is_not_exported():
    """Its length would become a constant."""
    model = stable(StripedHyenaModelForCausalLM)
    with pytest.raises(ValueError, match="cannot be exported with a cache"):
        torch.export.export(model, (tokens(2, 1),), {"use_cache": True}, strict=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["Evo", "StripedHyena-7B"])
@torch.no_grad()
def test_onnx(name: str, tmp_path: Path):
    """ONNX Runtime answers the same, at other sizes than the exported one."""
    ort = pytest.importorskip("onnxruntime")
    model = stable(StripedHyenaModelForCausalLM, **VARIANTS[name]).float()
    model.config.use_cache = False
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, kwargs=batch_of(2, 33), f=path, dynamo=True, dynamic_shapes=AXES, verbose=False)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, length in ((1, 7), (3, 61)):
        inputs = batch_of(batch, length)
        logits = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
        counts = inputs["attention_mask"].bool()
        torch.testing.assert_close(logits[counts], model(**inputs).logits[counts], rtol=1e-3, atol=1e-4)
