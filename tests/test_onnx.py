"""ONNX Runtime gives torch's outputs at every size, for the exporters of torch and of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_compile_export import batch_of
from test_hybrids import HYBRIDS, SIZES
from tiny import perturbed, tiny_config
from torch import nn
from torch.export import Dim
from transformers.exporters import OnnxConfig, OnnxExporter

from modeling_dlr import (
    DLRForCausalLM,
    DLRForMaskedLM,
    DLRForMultipleChoice,
    DLRForQuestionAnswering,
    DLRForSequenceClassification,
    DLRForTokenClassification,
)

ort = pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.slow,
    # torch's own exporter still asks its trees by the old name.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]

BOTH_WAYS = {"bidirectional": True}
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "classification": (DLRForSequenceClassification, BOTH_WAYS),
    "tokens": (DLRForTokenClassification, BOTH_WAYS | {"kernel_parameters": {"kernel_type": "dss"}}),
    "masked language model": (DLRForMaskedLM, BOTH_WAYS | {"output_gate": "glu"}),
    "causal language model": (DLRForCausalLM, {}),
    "hybrid": (DLRForTokenClassification, SIZES | HYBRIDS["one of each"]),
}
BATCH_AND_LENGTH = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
AXES = {"input_ids": BATCH_AND_LENGTH, "attention_mask": BATCH_AND_LENGTH}


def session_by_torch(model: nn.Module, inputs: dict[str, Any], folder: Path, axes: dict[str, Any]) -> Any:
    path = folder / "model.onnx"
    torch.onnx.export(model, kwargs=inputs, f=path, dynamo=True, dynamic_shapes=axes, verbose=False)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def session_by_transformers(model: nn.Module, inputs: dict[str, Any], folder: Path, axes: dict[str, Any]) -> Any:
    OnnxExporter().export(model, inputs, OnnxConfig(dynamic_shapes=axes)).save_pretrained(folder)
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "session_of"), [*((name, session_by_torch) for name in MODELS), ("hybrid", session_by_transformers)]
)
@torch.no_grad()
def test_logits(name: str, session_of: Any, tmp_path: Path):
    """ONNX Runtime gives torch's logits to 1e-4 at several odd lengths and batch sizes."""
    model_class, fields = MODELS[name]
    model = perturbed(model_class(tiny_config(**fields))).eval()
    session = session_of(model, batch_of(2, 33), tmp_path, AXES)
    for batch, length in ((1, 1), (2, 7), (3, 63), (2, 301)):
        inputs = batch_of(batch, length)
        (logits,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        expected = model(**inputs).logits.numpy()
        assert np.isfinite(logits).all()
        counts = inputs["attention_mask"].bool().numpy() if logits.ndim == 3 else slice(None)
        np.testing.assert_allclose(logits[counts], expected[counts], rtol=0, atol=1e-4)


@torch.no_grad()
def test_several_sequences_and_several_outputs(tmp_path: Path):
    """Choices have their own axis, and question answering has two outputs."""
    model = perturbed(DLRForMultipleChoice(tiny_config(**BOTH_WAYS))).eval()
    axes = {"input_ids": BATCH_AND_LENGTH | {2: Dim.DYNAMIC}}
    session = session_by_torch(model, {"input_ids": torch.ones(2, 3, 9, dtype=torch.long)}, tmp_path, axes)
    for shape in ((1, 1, 1), (3, 4, 7)):
        ids = torch.randint(1, 11, shape)
        np.testing.assert_allclose(session.run(None, {"input_ids": ids.numpy()})[0], model(ids).logits, atol=1e-4)
    model = perturbed(DLRForQuestionAnswering(tiny_config(**BOTH_WAYS))).eval()
    axes = {"input_ids": BATCH_AND_LENGTH}
    session = session_by_torch(model, {"input_ids": torch.ones(2, 9, dtype=torch.long)}, tmp_path, axes)
    ids = torch.randint(1, 11, (3, 17))
    expected = model(ids)
    for answer, name in zip(session.run(None, {"input_ids": ids.numpy()}), ("start_logits", "end_logits"), strict=True):
        np.testing.assert_allclose(answer, expected[name], atol=1e-4)


@pytest.mark.parametrize("kernel_type", ["dlr", "dss", "s4d"])
@torch.no_grad()
def test_a_step_with_its_cache(kernel_type: str, tmp_path: Path):
    """One exported step with the state as input and output streams a sequence, in any batch size."""
    config = tiny_config(kernel_parameters={"kernel_type": kernel_type})
    model = perturbed(DLRForCausalLM(config)).eval()
    cache = model(torch.ones(2, 3, dtype=torch.long), use_cache=True).cache
    example = {"input_ids": torch.ones(2, 1, dtype=torch.long), "cache": cache}
    OnnxExporter().export(model, example, OnnxConfig(dynamic=True)).save_pretrained(tmp_path)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids = torch.randint(1, 11, (3, 40))
    expected = model(ids).logits.numpy()
    names = [output.name for output in session.get_outputs()]
    state = {
        name.replace("output.", "input."): np.zeros((3, config.hidden_size, config.state_size), dtype=np.float32)
        for name in names
        if name.startswith("output.")
    }
    assert len(state) == 2 * config.num_hidden_layers
    for step in range(40):
        answers = session.run(names, {"input_ids": ids[:, step : step + 1].numpy()} | state)
        outputs = dict(zip(names, answers, strict=True))
        np.testing.assert_allclose(outputs["logits"][:, 0], expected[:, step], rtol=0, atol=1e-4)
        state = {name: outputs[name.replace("input.", "output.")] for name in state}
