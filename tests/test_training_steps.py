"""Four official optimizer steps, taken by our model, groups, losses and schedules from the same parameters.

Adam divides a gradient by its own size. Where the true gradient is 0 (a bias before a BatchNorm, the imaginary part of
a real mode's weight) its steps are therefore rounding alone, another on every machine: those entries are not compared.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_data import specs, tensors
from torch import Tensor
from transformers import get_constant_schedule, get_cosine_schedule_with_warmup

from hub_upload.hyperparameters import official_arguments
from hub_upload.official import config_of, parameters_of
from modeling_dlr import DLRForSequenceClassification, DLRForTokenClassification
from modeling_dlr.training import parameter_groups
from modeling_dlr.weighted_loss import class_weighted_loss

STEPS = 4
# A gradient below this share of the parameter's largest one is rounding, and so is all of a parameter's below the other
# share of the model's largest one.
_ROUNDING, _ALL_ROUNDING = 1e-4, 1e-6


def masked_labels(model: Any, batch: list[Tensor]) -> Tensor:
    """A class for each step that has one."""
    return model(input_ids=batch[0], labels=batch[1]).loss


def weighted_pixels(model: Any, batch: list[Tensor]) -> Tensor:
    """All classes weigh the same."""
    return class_weighted_loss(model(input_values=batch[0]), batch[1])


def pooled_over_lengths(model: Any, batch: list[Tensor]) -> Tensor:
    """The official backbone sees the pads, as its BatchNorm does; only the mean over time leaves them out."""
    states = model.model(input_ids=batch[0], return_dict=True).last_hidden_state
    counts = torch.arange(states.shape[1]) < batch[2].unsqueeze(1)
    logits = model.classifier((states * counts.unsqueeze(-1)).sum(1) / batch[2].unsqueeze(1))
    return torch.nn.functional.cross_entropy(logits, batch[1])


# By case: the head, the rates of kernel parameters where they differ from the global one, and the loss.
CASES: dict[str, tuple[type, Any, Callable[[Any, list[Tensor]], Tensor]]] = {
    "b_listops_subtrees__dlr": (DLRForTokenClassification, 0.001, masked_labels),
    "c_pathseg__dssexp": (DLRForTokenClassification, {"log_time_step": 0.001}, weighted_pixels),
    "a_lra_listops__dsssoftmax": (DLRForSequenceClassification, 0.001, pooled_over_lengths),
}


@pytest.mark.parametrize("case", CASES)
def test_official_steps(case: str):
    """Losses, rates and every parameter after four steps are the official ones to 1e-5."""
    official, data = specs("training_steps")[case], tensors("training_steps")[case]
    head, state_learning_rate, loss_of = CASES[case]
    start = {name.removeprefix("sd0."): value for name, value in data.items() if name.startswith("sd0.")}
    arguments = official_arguments(official["config"], start)
    model = head(config_of(arguments)).train()
    load(model, parameters_of(start, arguments["kernel_type"]))

    optimizer_options = official["config"]["optimizer"]
    rate, decay = optimizer_options["lr"], optimizer_options["weight_decay"]
    groups = parameter_groups(model, rate, decay, state_learning_rate, decay_vectors=True)
    optimizer = torch.optim.AdamW(groups)
    schedule = schedule_of(official["config"]["scheduler"], optimizer)
    settled = {name: torch.ones_like(value, dtype=torch.bool) for name, value in model.named_parameters()}
    for step in range(STEPS):
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert rates == pytest.approx(sorted(set(official["lr_per_group_per_step"][step].values())))
        loss = loss_of(model, [data[f"batch{step}.{i}"] for i in range(3) if f"batch{step}.{i}" in data])
        assert loss.item() == pytest.approx(official["losses"][step], rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        for name, counts in exact_gradients(model).items():
            settled[name] &= counts
        optimizer.step()
        schedule.step()

    end = {name.removeprefix("sd4."): value for name, value in data.items() if name.startswith("sd4.")}
    end = parameters_of(end, arguments["kernel_type"])
    for name, value in model.named_parameters():
        expected = end[name].view_as(value)
        torch.testing.assert_close(value[settled[name]], expected[settled[name]], rtol=0, atol=1e-5, msg=name)
    for name, value in model.named_buffers():
        if not name.endswith("running_mean"):  # it moves with the bias before it
            torch.testing.assert_close(value, end[name].view_as(value), rtol=0, atol=1e-5, msg=name)
    assert sum(counts.sum() for counts in settled.values()) > 0.9 * sum(counts.numel() for counts in settled.values())


def exact_gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Where the gradients are more than rounding."""
    gradients = {name: value.grad.abs() for name, value in model.named_parameters()}
    largest = max(gradient.max() for gradient in gradients.values())
    return {
        name: (gradient > _ROUNDING * gradient.max()) & (gradient.max() > _ALL_ROUNDING * largest)
        for name, gradient in gradients.items()
    }


def load(model: torch.nn.Module, parameters: dict[str, Tensor]) -> None:
    """All of them, and no others."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.view(shapes[name]) for name, value in parameters.items()})


def schedule_of(options: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """By step; the plateau of the third case changes nothing within an epoch."""
    if options["_name_"] == "cosine_warmup":
        return get_cosine_schedule_with_warmup(optimizer, options["num_warmup_steps"], options["num_training_steps"])
    return get_constant_schedule(optimizer)
