"""Whole models against the official code (tests/golden): DLR, DSS, SGConv and attention backbones."""

import pytest
import torch
from golden_data import assert_gradients, fields, loaded, specs, tensors
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional

from hub_upload.official import config_of
from modeling_dlr import DLRForSequenceClassification, DLRForTokenClassification, DLRModel
from modeling_dlr.heads_dlr import DLRHead

CASES = specs("backbones")

# The DSS repository reads the reverse taps of a truncated bidirectional kernel at wrong lags; that of DLR mended it.
WRONG_LAGS = "dssrepo_a_lra_cifar__exp_bidir_maxk"
RIGHT = [case for case in CASES if case != WRONG_LAGS]

# The retrieval head reads two documents per example, so of these cases only the backbone is compared.
WITH_HEAD = [case for case in RIGHT if CASES[case]["decoder"] != "retrieval"]
WITH_STATISTICS = [case for case in RIGHT if CASES[case]["norm"] == "batch"]


def backbone_of(case: str, device: torch.device) -> DLRModel:
    """The official backbone, without its decoder."""
    official = fields(tensors("backbones")[case], "sd.", CASES[case]["kernel_type"])
    backbone = {name.removeprefix("model."): value for name, value in official.items() if name.startswith("model.")}
    return loaded(DLRModel(config_of(CASES[case])), backbone, device)


def model_of(case: str, device: torch.device) -> DLRHead:
    """The head that the official decoder amounts to: l_output 0 is one label for the whole sequence."""
    head = DLRForSequenceClassification if CASES[case]["l_output"] == 0 else DLRForTokenClassification
    official = fields(tensors("backbones")[case], "sd.", CASES[case]["kernel_type"])
    return loaded(head(config_of(CASES[case])), official, device)


def inputs_of(case: str, device: torch.device) -> dict[str, Tensor]:
    """The batch as keyword arguments of our models."""
    x = tensors("backbones")[case]["batch.0"].to(device)
    return {"input_ids": x.long()} if CASES[case]["encoder"] == "embedding" else {"input_values": x.double()}


def logits_of(case: str, model: DLRHead, device: torch.device) -> Tensor:
    """The logits that the official decoder keeps: those of the last l_output steps, or all.

    As there, the backbone (and its statistics) reads padding like any other step, and only the pooling leaves it out.
    """
    data, l_output = tensors("backbones")[case], CASES[case]["l_output"]
    states = model.model(**inputs_of(case, device)).last_hidden_state
    steps = torch.arange(states.shape[1], device=device)
    mask = steps < data["batch.2"].to(device).unsqueeze(-1) if "batch.2" in data else None
    logits = model.predict(states, mask, None)
    return logits[:, -l_output:] if l_output else logits


def official_logits(case: str) -> tuple[Tensor, torch.dtype | str]:
    """The official logits and their tolerance: parts of the official code are in float32."""
    data = tensors("backbones")[case]
    name = "eval.logits64" if "eval.logits64" in data else "eval.logits"
    in_float32 = case.startswith("dssrepo") or CASES[case]["kernel_type"] in ("sgconv", "attn")
    return data[name], "official float32" if in_float32 else torch.float64


@pytest.mark.parametrize("case", RIGHT)
def test_backbone_is_the_official_one(case: str, device: torch.device):
    """Embeddings and the hidden states after every layer, in evaluation mode, of the first sequence."""
    spec, data = CASES[case], tensors("backbones")[case]
    ((name, inputs),) = inputs_of(case, device).items()
    with torch.no_grad():
        states = backbone_of(case, device).eval()(**{name: inputs[:1]}, output_hidden_states=True).hidden_states
    layers = [data[f"eval.layer{i}_out"] for i in range(spec["n_layers"] - 1)]
    layers = [layer.transpose(1, 2) for layer in layers] if spec["transposed"] else layers
    for ours, official in zip(states, [data["eval.encoder_out"], *layers, data["eval.backbone_out"]], strict=True):
        assert_close(ours, official, "official float32")


@pytest.mark.parametrize("case", WITH_HEAD)
def test_logits_are_the_official_ones(case: str, device: torch.device):
    """Logits in evaluation mode: to 1e-12, where the official code stays in float64."""
    with torch.no_grad():
        logits = logits_of(case, model_of(case, device).eval(), device)
    assert_close(logits, *official_logits(case))


@pytest.mark.parametrize("case", WITH_HEAD)
def test_model_trains_as_the_official_one(case: str, device: torch.device):
    """The official loss and its gradient by every parameter, in training mode."""
    spec, data = CASES[case], tensors("backbones")[case]
    model = model_of(case, device).train()
    loss = LOSSES[spec["loss"]](logits_of(case, model, device).flatten(0, -2), data["batch.1"].to(device))
    assert_close(loss, torch.tensor(spec["train_loss"]), "official float32")
    loss.backward()
    assert_gradients(model, fields(data, "train.grad.", spec["kernel_type"]), "official float32 gradient")


@pytest.mark.parametrize("case", WITH_STATISTICS)
def test_statistics_are_the_official_ones(case: str, device: torch.device):
    """The running means and variances of every BatchNorm after one more batch."""
    backbone = backbone_of(case, device).train()
    backbone(**inputs_of(case, device))
    official = fields(tensors("backbones")[case], "train.after.model.", CASES[case]["kernel_type"])
    own = dict(backbone.named_buffers())
    assert official.keys() == {name for name in own if name.endswith(("running_mean", "running_var"))}
    for name, value in official.items():
        assert_close(own[name], value, "official float32")


def test_wrong_lags_are_not_reproduced(device: torch.device):
    """In the case with this bug, we agree up to the first mixer, and differ after it."""
    data = tensors("backbones")[WRONG_LAGS]
    inputs = inputs_of(WRONG_LAGS, device)["input_values"][:1]
    with torch.no_grad():
        states = backbone_of(WRONG_LAGS, device).eval()(input_values=inputs, output_hidden_states=True).hidden_states
    assert_close(states[0], data["eval.encoder_out"], "official float32")
    assert (states[-1].cpu() - data["eval.backbone_out"]).abs().max() > 0.1 * data["eval.backbone_out"].abs().max()


def class_weighted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the classes present of the mean over their members."""
    per_step = functional.cross_entropy(logits, labels.flatten().long(), reduction="none")
    return torch.stack([per_step[labels.flatten() == label].mean() for label in labels.unique()]).mean()


LOSSES = {
    "mse": lambda logits, y: functional.mse_loss(logits, y.double().flatten(0, -2)),
    "cross_entropy": lambda logits, y: functional.cross_entropy(logits, y.flatten().long()),
    "class_weighted_cross_entropy": class_weighted_cross_entropy,
}
