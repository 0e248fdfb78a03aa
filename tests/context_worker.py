"""Compare models over several processes with the same models in one: run by test_processes.py.

Every process computes each row of ``CASES`` by itself, too, and writes how much the results differ, and the messages of
``REFUSALS``, to FOLDER/context RANK.json.
"""

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from families import FAMILIES, READ_OUTS
from tiny import EXAMPLES, KERNELS, perturbed, tiny_config
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from modeling_dlr import DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_dlr import DLRPreTrainedModel
from modeling_dlr.parallel import context_parallel, shard_batch

BATCH, LENGTH, BOUND = 2, 13, timedelta(seconds=60)
SIZES = {"num_hidden_layers": 2, "hidden_size": 5}


class Case(NamedTuple):
    """A model, and how its batch is laid out."""

    auto_class: str
    fields: dict[str, Any] = {}
    layout: str = "whole"
    checkpointing: bool = False
    training: bool = True
    arguments: dict[str, Any] = {}
    uneven: bool = False


def padding(where: str) -> Tensor:
    """A mask [B, L] with padding at one side, or between steps."""
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    steps = {"left": slice(0, 8), "right": slice(5, None), "inside": slice(4, 9)}[where]
    mask[1, steps] = 0
    mask[0, steps.start] = 0
    return mask


def positions() -> Tensor:
    """Position ids [B, L] of rows that hold three and two documents."""
    lengths = ((5, 1, 7), (4, 9))
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])


LAYOUTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "whole": dict,
    **{
        f"padding {where}": lambda where=where: {"attention_mask": padding(where)}
        for where in ("left", "right", "inside")
    },
    "documents": lambda: {"position_ids": positions()},
    "documents and padding": lambda: {"position_ids": positions(), "attention_mask": padding("right")},
}
MORE_LAYOUTS: dict[str, Callable[[], dict[str, Tensor | None]]] = {
    "boundaries": lambda: (
        {name: torch.ones(1, LENGTH).long() for name in ("input_ids", "labels")}
        | {"cu_seq_lens_q": torch.tensor([0, 5, 6, LENGTH])}
    ),
    "embeddings": lambda: {"input_ids": None, "inputs_embeds": torch.randn(BATCH, LENGTH, SIZES["hidden_size"])},
    "several classes": lambda: {
        "labels": torch.rand(BATCH, LENGTH, 4).round().masked_fill(torch.rand(BATCH, LENGTH, 4) < 0.3, torch.nan)
    },
    "ignored labels": lambda: {"labels": torch.full((BATCH, LENGTH), -100).index_fill(1, torch.tensor([2, 3]), 7)},
}
DROPPED = "dropped channels"
BATCH_NORM = {"norm_type": "batch"}
ATTENTION = {"hidden_size": 12, "num_attention_heads": 6, "attention_window": 3}
HYBRID = ATTENTION | {"layer_types": ["dlr", "full_attention", "local_attention"], "num_hidden_layers": 3}

CASES: dict[str, Case] = {
    **{
        f"{name}, {kind}": Case(name, layout=kind)
        for name in ("AutoModelForCausalLM", "AutoModelForMaskedLM")
        for kind in LAYOUTS
    },
    **{f"hybrid, {kind}": Case("AutoModelForTokenClassification", HYBRID, kind) for kind in LAYOUTS},
    **{f"causal hybrid, {kind}": Case("AutoModelForCausalLM", HYBRID, kind) for kind in LAYOUTS},
    **{f"batch norm, {kind}": Case("AutoModelForTokenClassification", BATCH_NORM, kind) for kind in LAYOUTS},
    **{
        name: Case("AutoModelForTokenClassification", {"kernel_parameters": family.options})
        for name, family in FAMILIES.items()
    },
    **{
        f"causal, {name}": Case("AutoModelForCausalLM", {"kernel_parameters": options}, "padding left")
        for name, options in KERNELS.items()
    },
    **{
        f"read-out {name}": Case("AutoModelForMaskedLM", {"kernel_parameters": {"read_out": name}})
        for name in READ_OUTS
    },
    **{
        f"pooling {name}, {kind}": Case("AutoModelForSequenceClassification", {"pooling": name}, kind)
        for name in ("mean", "mean_max", "max", "first", "last")
        for kind in ("whole", "padding inside")
    },
    **{name: Case(name) for name in EXAMPLES},
    "two channels, gated": Case("AutoModelForCausalLM", {"num_kernel_channels": 2, "channel_gate_act": "gelu"}),
    "checkpointing": Case("AutoModelForCausalLM", {}, "documents", checkpointing=True),
    "checkpointing, batch norm": Case("AutoModelForMaskedLM", BATCH_NORM, "padding left", checkpointing=True),
    "counted labels": Case("AutoModelForCausalLM", {}, "documents", arguments={"num_items_in_batch": 17}),
    "uneven parts": Case("AutoModelForMaskedLM", {}, "documents and padding", uneven=True),
    "several classes": Case(
        "AutoModelForTokenClassification", {"problem_type": "multi_label_classification"}, "several classes"
    ),
    "boundaries": Case("AutoModelForTokenClassification", {}, "boundaries"),
    "embeddings": Case("AutoModelForCausalLM", {}, "embeddings"),
    "ignored labels": Case("AutoModelForMaskedLM", {}, "ignored labels"),
    "evaluation": Case("AutoModelForTokenClassification", BATCH_NORM, training=False),
    "shorter kernels": Case("AutoModelForCausalLM", {"kernel_parameters": {"max_length": 6}}),
}


def build(case: Case) -> tuple[DLRPreTrainedModel, dict[str, Any]]:
    """The model in float64, the same in every process, and its batch."""
    torch.manual_seed(3)
    example = EXAMPLES[case.auto_class]
    config = tiny_config(**SIZES | example.fields | case.fields)
    model = perturbed(AUTO_CLASSES[case.auto_class](config)).double().train(case.training)
    if case.checkpointing:
        model.activation_checkpointing_enable()
    batch = example.arguments(model.config, BATCH, LENGTH) | (LAYOUTS | MORE_LAYOUTS)[case.layout]() | case.arguments
    if "pixel_values" in batch:  # more rows than processes
        batch = {name: value.transpose(-1, -2) if value.dim() > 1 else value for name, value in batch.items()}
    return model, {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def run(model: DLRPreTrainedModel, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss, or the sum of squares of hidden states; gradients and statistics."""
    outputs = model(**batch)
    loss = outputs.loss if "loss" in outputs else outputs.last_hidden_state.square().sum()
    loss.backward()
    found: dict[str, Tensor | None] = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), found | dict(model.named_buffers())


def largest_error(actual: Tensor | None, expected: Tensor | None) -> float:
    """Relative to the largest number; infinite if one is missing, or not finite."""
    if actual is None or expected is None:
        return 0.0 if actual is expected else float("inf")
    error = ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item() if expected.numel() else 0.0
    return error if error == error else float("inf")  # noqa: PLR0124 - NaN


def unevenly(batch: dict[str, Any], mesh: DeviceMesh) -> dict[str, Tensor]:
    """One step for every process but the first."""
    bounds = list(range(LENGTH - mesh.size() + 1, LENGTH))
    return {name: value.tensor_split(bounds, 1)[mesh.get_local_rank()] for name, value in batch.items()}


def errors_of(case: Case, mesh: DeviceMesh) -> dict[str, float]:
    """The largest errors of the loss, and of gradients and statistics by name."""
    model, batch = build(case)
    alone = copy.deepcopy(model)
    loss, expected = run(alone, batch)
    split = unevenly(batch, mesh) if case.uneven else shard_batch(batch, mesh)
    actual_loss, actual = run(context_parallel(model, mesh), split)
    if isinstance(model, DLRModel):
        distributed.all_reduce(actual_loss)
    assert actual.keys() == expected.keys()
    return {"loss": largest_error(actual_loss, loss)} | {
        name: largest_error(actual[name], expected[name]) for name in expected
    }


def fresh(auto_class: str = "AutoModelForMaskedLM", **fields: Any) -> tuple[DLRPreTrainedModel, dict[str, Any]]:
    """A model and a batch that nothing is wrong with."""
    return build(Case(auto_class, fields, "padding right"))


def part_of(mesh: DeviceMesh, **changes: Callable[[dict[str, Any], int], object]) -> None:
    """Run a good model on a batch that is changed on some processes."""
    model, batch = fresh()
    context_parallel(model, mesh)
    part = shard_batch(batch, mesh)
    for change in changes.values():
        change(part, mesh.get_local_rank())
    model(**part)


def without_mask(part: dict[str, Any], rank: int) -> None:
    if rank:
        del part["attention_mask"]


def without_labels(part: dict[str, Any], rank: int) -> None:
    if not rank:
        del part["labels"], part["shift_labels"]


def wrong_token(part: dict[str, Any], rank: int) -> None:
    if rank:
        part["input_ids"] = part["input_ids"] + 100


def wrong_label(part: dict[str, Any], rank: int) -> None:
    if not rank:
        part["labels"] = part["labels"] + 100


def one_sequence(part: dict[str, Any], rank: int) -> None:
    if rank:
        part |= {name: value[:1] for name, value in part.items()}


def wrong_positions(part: dict[str, Any], rank: int) -> None:
    part["position_ids"] = torch.arange(LENGTH)[None] if rank else torch.arange(part["input_ids"].shape[1])[None]


def other_models(mesh: DeviceMesh) -> None:
    context_parallel(fresh(state_size=5 + mesh.get_local_rank())[0], mesh)


def run_with(mesh: DeviceMesh, auto_class: str = "AutoModelForMaskedLM", fields: Any = None, **arguments: Any) -> None:
    model, batch = fresh(auto_class, **fields or {})
    context_parallel(model, mesh)
    model(**shard_batch(batch, mesh) | arguments)


def with_own_loss(mesh: DeviceMesh) -> None:
    model, batch = fresh()
    model.loss_function = lambda **_: torch.zeros(())
    context_parallel(model, mesh)(**shard_batch(batch, mesh))


def generates(mesh: DeviceMesh) -> None:
    model, batch = fresh("AutoModelForCausalLM")
    context_parallel(model, mesh).generate(batch["input_ids"], max_new_tokens=2)


def sharded_by_another(mesh: DeviceMesh) -> None:
    model, batch = fresh()
    fully_shard(context_parallel(model, mesh), mesh=mesh)
    model(**shard_batch(batch, mesh))


NO_MODEL: Any = torch.nn.Linear(2, 2)
# What is refused, and words of the message.
REFUSALS: dict[str, tuple[Callable[[DeviceMesh], object], str]] = {
    "more processes than channels": (lambda mesh: context_parallel(fresh(hidden_size=1)[0], mesh), "hidden_size=1 "),
    "more processes than heads": (
        lambda mesh: context_parallel(fresh(**HYBRID | {"num_attention_heads": 1})[0], mesh),
        "num_attention_heads=1 ",
    ),
    "more processes than steps": (
        lambda mesh: shard_batch({"input_ids": torch.ones(1, 1).long()}, mesh),
        "1 steps for",
    ),
    "no input": (lambda mesh: shard_batch({"labels": torch.ones(1)}, mesh), "input_ids"),
    "two lengths": (
        lambda mesh: shard_batch({"input_ids": torch.ones(1, 9), "attention_mask": torch.ones(1, 8)}, mesh),
        "attention_mask",
    ),
    "two dimensions": (
        lambda mesh: context_parallel(fresh()[0], init_device_mesh("cpu", (1, mesh.size()))),
        "one dimension",
    ),
    "no mesh": (lambda mesh: context_parallel(fresh()[0], mesh.get_group()), "DeviceMesh"),
    "no model": (lambda mesh: context_parallel(NO_MODEL, mesh), "Linear"),
    "twice": (lambda mesh: context_parallel(context_parallel(fresh()[0], mesh), mesh), "already"),
    "other models": (other_models, "other models"),
    "a mask on one": (lambda mesh: part_of(mesh, change=without_mask), "attention_mask"),
    "labels on one": (lambda mesh: part_of(mesh, change=without_labels), "labels, shift_labels"),
    "a wrong token on one": (lambda mesh: part_of(mesh, change=wrong_token), "Process 1 .*Token ids"),
    "a wrong label on one": (lambda mesh: part_of(mesh, change=wrong_label), "Process 0 .*Labels"),
    "fewer sequences on one": (lambda mesh: part_of(mesh, change=one_sequence), "2 and 1 sequences"),
    "wrong positions on one": (lambda mesh: part_of(mesh, change=wrong_positions), "Process 1 .*position_ids"),
    "a cache": (lambda mesh: run_with(mesh, "AutoModelForCausalLM", use_cache=True, labels=None), "no cache"),
    "labels that are not shifted": (
        lambda mesh: run_with(mesh, "AutoModelForCausalLM", shift_labels=None),
        "shift_labels",
    ),
    "weights of attention": (lambda mesh: run_with(mesh, fields=HYBRID, output_attentions=True), "output_attentions"),
    "a loss of one's own": (with_own_loss, "loss function"),
    "generation": (generates, "no cache"),
    "shards of another function": (sharded_by_another, "parallel.shard"),
}


def message_of(refused: Callable[[DeviceMesh], object], mesh: DeviceMesh) -> str:
    """The error of this process."""
    try:
        refused(mesh)
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing was refused"


def dropped_channels(mesh: DeviceMesh) -> dict[str, float]:
    """How much the channels differ that this process and the first one drop."""
    model, _ = fresh(hidden_dropout_prob=0.5, dropout_type="channel")
    context_parallel(model, mesh)
    torch.manual_seed(mesh.get_local_rank())
    kept = model.model.layers[0].dropout(torch.ones(64, 3, 5))
    first = kept.clone()
    distributed.broadcast(first, 0)
    return {"kept": largest_error(kept, first), "dropped": float(not 0.4 < (kept == 0).double().mean() < 0.6)}


def main(folder: Path) -> None:
    """Run all, in a process group that is there."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    errors = {name: errors_of(case, mesh) for name, case in CASES.items()} | {DROPPED: dropped_channels(mesh)}
    messages = {name: message_of(refused, mesh) for name, (refused, _) in REFUSALS.items()}
    found = {"errors": errors, "messages": messages}
    (folder / f"context {distributed.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")
