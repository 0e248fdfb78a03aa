"""Training: parameter groups, the stock Trainer, and resuming to the bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import HEADS, assert_same_tensors, draw_input, draw_labels, parameters_of, tiny_config
from tiny_striped import tiny_striped
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_dlr import DLRModel, StripedHyenaForSequenceClassification
from modeling_dlr.training import optimizer_for_trainer, parameter_groups

# The parameters of a group, by the ends of their names.
GROUPS = {
    "decayed": {"embed_tokens.weight", "out_proj.weight", "classifier.weight"},
    "undecayed": {"out_proj.bias", "classifier.bias", "norm.weight", "norm.bias", "mixer.D"},
    "kernel.angle": {"kernel.angle"},
    "kernel.decay_root": {"kernel.decay_root"},
    "kernel.weights": {"kernel.weights"},
}

# state_learning_rate, and the rates of the groups where all others have 0.1.
RATES: dict[str, tuple[float | Mapping[str, float] | None, dict[str, float]]] = {
    "none": (None, {}),
    "one for all": (0.01, dict.fromkeys(("kernel.angle", "kernel.decay_root", "kernel.weights"), 0.01)),
    "zero": (0.0, dict.fromkeys(("kernel.angle", "kernel.decay_root", "kernel.weights"), 0.0)),
    "by kind": ({"angle": 0.01, "weights": 0.02}, {"kernel.angle": 0.01, "kernel.weights": 0.02}),
}


def head_model(**fields: Any) -> nn.Module:
    return HEADS["sequence head"](tiny_config(**fields))


def names_in(groups: list[dict[str, Any]], model: nn.Module) -> dict[str, list[str]]:
    """The names of every group's parameters, in order."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: [name_of[parameter] for parameter in group["params"]] for group in groups}


def test_groups():
    """Weights decay, biases, norms and D do not, each kind of kernel parameter is a group, and the order is fixed."""
    model = head_model()
    names = names_in(parameter_groups(model, 0.1, 0.5), model)
    assert list(names) == list(GROUPS)
    for group, members in names.items():
        assert {".".join(name.split(".")[-2:]) for name in members} == GROUPS[group]


@pytest.mark.parametrize("norm_type", ["layer", "scalar_layer"])
@pytest.mark.parametrize("input_size", [None, 3], ids=["tokens", "values"])
def test_every_parameter_is_in_one_group(norm_type: str, input_size: int | None):
    """Every trainable parameter is in exactly one group, in the model's order."""
    model = head_model(norm_type=norm_type, **({} if input_size is None else {"input_size": input_size}))
    names = names_in(parameter_groups(model, 0.1), model)
    order = [name for name, _ in model.named_parameters()]
    assert sorted(name for members in names.values() for name in members) == sorted(order)
    assert all(members == [name for name in order if name in members] for members in names.values())


@pytest.mark.parametrize(("state_learning_rate", "rates"), RATES.values(), ids=RATES.keys())
def test_rates(state_learning_rate: Any, rates: dict[str, float]):
    """Every group has its learning rate, and only weights of projections and embeddings decay."""
    groups = parameter_groups(head_model(), 0.1, 0.5, state_learning_rate)
    assert {group["name"]: group["lr"] for group in groups} == dict.fromkeys(GROUPS, 0.1) | rates
    assert {group["name"]: group["weight_decay"] for group in groups} == dict.fromkeys(GROUPS, 0.0) | {"decayed": 0.5}


def test_frozen_parameters_are_left_out():
    """What does not train is in no group, and a group of which nothing is left is gone."""
    model = head_model()
    frozen = {name for name, _ in model.named_parameters() if name.endswith(("angle", "out_proj.bias"))}
    for name in frozen:
        model.get_parameter(name).requires_grad = False
    names = names_in(parameter_groups(model, 0.1), model)
    assert "kernel.angle" not in names
    assert not frozen & {name for members in names.values() for name in members}


def test_groups_of_a_model_inside_another():
    """A DLR model inside another module, as adapters and DistributedDataParallel make them, has the same groups."""
    inner = head_model()
    wrapped = parameter_groups(nn.ModuleDict({"inner": inner}), 0.1)
    assert names_in(wrapped, inner) == names_in(parameter_groups(inner, 0.1), inner)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"state_learning_rate": {"angel": 0.1}}, ["'angel'", "'angle'"]),
        ({"state_learning_rate": {"Lambda": 0.1}}, ["'Lambda'", "decay_root", "weights"]),
        ({"state_learning_rate": -0.1}, ["angle", ">= 0", "-0.1"]),
        ({"state_learning_rate": {"weights": float("nan")}}, ["weights", ">= 0", "nan"]),
        ({"learning_rate": -1}, ["learning_rate", ">= 0", "-1"]),
        ({"weight_decay": -1}, ["weight_decay", ">= 0", "-1"]),
    ],
    ids=["misspelt kind", "unknown kind", "negative", "no number", "negative rate", "negative decay"],
)
def test_refused(arguments: dict[str, Any], says: list[str]):
    """An unknown kind of kernel parameter and a negative rate are refused."""
    with pytest.raises(ValueError, match=says[0]) as caught:
        parameter_groups(head_model(), **{"learning_rate": 0.1} | arguments)
    assert all(part in str(caught.value) for part in says), caught.value


def arguments_for(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 3,
        "max_steps": 6,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**settings | changes)


def dataset_for(head: str, rows: int = 13) -> Dataset:
    """Rows enough for two epochs in six steps, the last batch smaller."""
    torch.manual_seed(5)
    config = tiny_config()
    columns = draw_input("tokens", config, rows, 7) | {"labels": draw_labels(head, config, rows, 7)}
    return Dataset.from_dict(columns).with_format("torch")


def trainer_for(head: str, folder: Path, grouped: bool, **changes: Any) -> Trainer:
    torch.manual_seed(6)
    model = HEADS[head](tiny_config(hidden_dropout_prob=0.2, classifier_dropout=0.3))
    args = arguments_for(folder, **changes)
    optimizer = {"optimizer_cls_and_kwargs": optimizer_for_trainer(args, {"angle": 0.001})} if grouped else {}
    return Trainer(model, args, train_dataset=dataset_for(head), **optimizer)


def rates_of(trainer: Trainer) -> list[float]:
    assert trainer.optimizer is not None
    return [group["lr"] for group in trainer.optimizer.param_groups]


by_head = pytest.mark.parametrize("head", HEADS)
by_optimizer = pytest.mark.parametrize("grouped", [True, False], ids=["own groups", "plain Trainer"])


def test_trainer_takes_the_groups(tmp_path: Path):
    """The stock Trainer steps AdamW with our groups and its own arguments, and its schedule scales every rate alike."""
    trainer = trainer_for("sequence head", tmp_path, grouped=True, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-5)
    rates = dict.fromkeys(GROUPS, 0.01) | {"kernel.angle": 0.001}
    schedule = []
    trainer.create_optimizer_and_scheduler(num_training_steps=6)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    assert isinstance(optimizer, torch.optim.AdamW)
    assert scheduler is not None
    for _ in range(6):
        schedule.append([group["lr"] / rates[group["name"]] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [group["name"] for group in optimizer.param_groups] == list(GROUPS)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0, 0, 0, 0]
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-5)}
    for step, factor in zip(schedule, [0, 0.5, 1, 0.75, 0.5, 0.25], strict=True):
        assert step == pytest.approx([factor] * len(GROUPS))


@by_head
@by_optimizer
def test_trainer_trains(head: str, grouped: bool, tmp_path: Path):
    """The stock Trainer moves every parameter and lowers the loss, with our groups and with its own."""
    trainer = trainer_for(head, tmp_path, grouped, max_steps=30, warmup_steps=0)
    before = parameters_of(trainer.model)
    data = trainer.train_dataset
    loss = trainer.evaluate(data)["eval_loss"]
    trainer.train()
    after = parameters_of(trainer.model)
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]
    assert trainer.evaluate(data)["eval_loss"] < loss


@by_head
@by_optimizer
def test_resume(head: str, grouped: bool, tmp_path: Path):
    """Six steps straight, and three, a checkpoint, a new process's objects and three more, end in the same bits.

    The data are shuffled, there is dropout, and the break lies within an epoch.
    """
    straight = trainer_for(head, tmp_path, grouped, save_strategy="steps", save_steps=3)
    straight.train()
    resumed = trainer_for(head, tmp_path / "again", grouped)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same_tensors(parameters_of(resumed.model), parameters_of(straight.model))
    assert rates_of(resumed) == rates_of(straight)
    halfway = parameters_of(HEADS[head].from_pretrained(tmp_path / "checkpoint-3"))
    assert not [name for name, value in parameters_of(resumed.model).items() if torch.equal(value, halfway[name])]


@by_head
def test_gradient_accumulation(head: str, tmp_path: Path):
    """Small batches accumulated train like large ones, though the token head's have unequal numbers of labels."""
    results = []
    for accumulation in (1, 3):
        torch.manual_seed(6)
        model = HEADS[head](tiny_config()).double()
        data = dataset_for(head, 12).map(lambda row, i: {"labels": shortened(row["labels"], i)}, with_indices=True)
        args = arguments_for(
            tmp_path,
            per_device_train_batch_size=6 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
            train_sampling_strategy="sequential",
        )
        Trainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=optimizer_for_trainer(args)).train()
        results.append(parameters_of(model))
    assert_same_tensors(results[1], results[0], tolerance=1e-9)


def shortened(labels: torch.Tensor, row: int) -> torch.Tensor:
    """Labels of steps from row % 7 + 1 on are ignored; the one of a sequence stays."""
    return labels if labels.dim() == 0 else labels.masked_fill(torch.arange(len(labels)) > row % 7, -100)


def test_backbone_has_groups_too():
    """A backbone without a head has every group: nothing in them depends on the head."""
    assert [group["name"] for group in parameter_groups(DLRModel(tiny_config()), 0.1)] == list(GROUPS)


@pytest.mark.parametrize("family", ["DLR", "StripedHyena"])
def test_predictions_are_the_logits(family: str, tmp_path: Path):
    """Not the cache beside them, which the Trainer leaves out by itself."""
    striped = family == "StripedHyena"
    model = tiny_striped(StripedHyenaForSequenceClassification).float() if striped else head_model(use_cache=True)
    assert model.config.use_cache
    rows = [{"input_ids": [1, 2, 3], "labels": 1}] * 2
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    assert Trainer(model, arguments).predict(rows).predictions.shape == (2, model.config.num_labels)
