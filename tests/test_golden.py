"""Our numbers against those of the official code (tests/golden), computed in float64 from its parameters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_map import config_of, kernel_parameters_of, parameters_of
from safetensors.torch import load_file
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn import functional

from modeling_dlr import DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.kernels_dlr import KERNELS
from modeling_dlr.modeling_dlr import DLRMixer

GOLDEN = Path(__file__).parent / "golden"
KERNEL_CASES, BLOCK_CASES, MODEL_CASES = (
    json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("kernels", "blocks", "backbones")
)


def official(file: str, case: str) -> dict[str, Tensor]:
    """The tensors of one case, by field."""
    tensors = load_file(GOLDEN / f"{file}.safetensors")
    return {key.removeprefix(f"{case}/"): value for key, value in tensors.items() if key.startswith(f"{case}/")}


def fields(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The fields ``prefix<official name>``, under our names."""
    return parameters_of({key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)})


def loaded(module: nn.Module, parameters: dict[str, Tensor], device: torch.device) -> Any:
    """The module in float64 with these parameters, all of them and no others."""
    module.double().load_state_dict(parameters)
    return module.to(device)


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], kind: torch.dtype | str) -> None:
    """Every parameter's gradient is the official one."""
    actual = dict(module.named_parameters())
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(actual[name].grad, gradient, kind)


@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernel_is_the_official_one(case: str, device: torch.device):
    """Values and gradients of every kernel, up to 2^20 steps."""
    spec, data = KERNEL_CASES[case], official("kernels", case)
    kernel_class = KERNELS[spec["kernel_type"]]
    kernel = kernel_class(spec["channels"], spec["d_model"], spec["d_state"], kernel_parameters_of(spec))
    K = loaded(kernel, fields(data, "param."), device)(spec["L"])
    assert_close(K[..., data["pos"]] if "pos" in data else K, data["K64"], torch.float64)
    if "G" in data:
        (K * data["G"].to(device)).sum().backward()
        assert_gradients(kernel, fields(data, "grad64."), torch.float64)


@pytest.mark.parametrize("case", BLOCK_CASES)
def test_mixer_is_the_official_block(case: str, device: torch.device):
    """Output of every block, and its gradients by the input and all parameters."""
    spec, data = BLOCK_CASES[case], official("blocks", case)

    def ours(x: Tensor) -> Tensor:
        return x.transpose(1, 2) if spec["transposed"] else x

    mixer = loaded(DLRMixer(config_of(spec)), fields(data, "sd."), device)
    u = data["u"].to(device).double().requires_grad_()
    y = ours(mixer(ours(u)))
    assert_close(y, data["y64"], torch.float64)
    (y * data["G"].to(device)).sum().backward()
    kind = "official float32, thousands of steps" if u.shape[1 + spec["transposed"]] > 1000 else "official float32"
    assert_close(u.grad, data["grad_u"], kind)
    assert_gradients(mixer, fields(data, "grad."), kind)


@pytest.mark.parametrize("case", MODEL_CASES)
def test_model_is_the_official_one(case: str, device: torch.device):
    """Logits and the hidden states after every layer, in evaluation mode."""
    spec, data = MODEL_CASES[case], official("backbones", case)
    model = loaded(model_of(spec), fields(data, "sd."), device).eval()
    with torch.no_grad():
        outputs = model(**inputs_of(spec, data, device), output_hidden_states=True)
    assert_close(last_steps(spec, outputs.logits), data["eval.logits64"], torch.float64)
    layers = [data[f"eval.layer{i}_out"] for i in range(spec["n_layers"] - 1)]
    layers = [layer.transpose(1, 2) for layer in layers] if spec["transposed"] else layers
    expected = [data["eval.encoder_out"], *layers, data["eval.backbone_out"]]
    assert len(outputs.hidden_states) == len(expected)
    for hidden_states, theirs in zip(outputs.hidden_states, expected, strict=True):
        assert_close(hidden_states, theirs, "official float32")


@pytest.mark.parametrize("case", MODEL_CASES)
def test_model_trains_as_the_official_one(case: str, device: torch.device):
    """The gradient of the official loss by every parameter, in training mode."""
    spec, data = MODEL_CASES[case], official("backbones", case)
    model = loaded(model_of(spec), fields(data, "sd."), device).train()
    logits = last_steps(spec, model(**inputs_of(spec, data, device)).logits)
    loss = LOSSES[spec["loss"]](logits.flatten(0, -2), data["batch.1"].to(device))
    assert_close(loss, torch.tensor(spec["train_loss"]), "official float32")
    loss.backward()
    assert_gradients(model, fields(data, "train.grad."), "official float32")


def model_of(spec: dict[str, Any]) -> DLRForSequenceClassification | DLRForTokenClassification:
    """The head that the official decoder amounts to: l_output 0 is one label for the whole sequence."""
    return (DLRForSequenceClassification if spec["l_output"] == 0 else DLRForTokenClassification)(config_of(spec))


def inputs_of(spec: dict[str, Any], data: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch as keyword arguments of our models."""
    x = data["batch.0"].to(device)
    return {"input_ids": x} if spec["encoder"] == "embedding" else {"input_values": x.double()}


def last_steps(spec: dict[str, Any], logits: Tensor) -> Tensor:
    """What the official decoder keeps: the last l_output steps, or all."""
    return logits[:, -spec["l_output"] :] if spec["l_output"] else logits


def class_weighted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the classes present of the mean over their members."""
    per_step = functional.cross_entropy(logits, labels.flatten(), reduction="none")
    return torch.stack([per_step[labels.flatten() == label].mean() for label in labels.unique()]).mean()


LOSSES = {
    "mse": lambda logits, y: functional.mse_loss(logits, y.double().flatten(0, -2)),
    "cross_entropy": lambda logits, y: functional.cross_entropy(logits, y.flatten()),
    "class_weighted_cross_entropy": class_weighted_cross_entropy,
}
