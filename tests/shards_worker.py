"""Compare models in shards with the same models in one process: run by test_processes.py.

Every process computes each row of ``CASES`` by itself, too, and writes how much the results differ, and the messages of
``REFUSALS``, to FOLDER/shards RANK.json. A trained model is saved in shards to FOLDER/shards, whole to FOLDER/whole,
and by `save_pretrained` to FOLDER/gathered; one that transformers has loaded in shards to FOLDER/loaded.
"""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from context_worker import ATTENTION, NO_MODEL, Case, build, fresh, largest_error, message_of
from families import FAMILIES
from safetensors.torch import save_file
from tiny import tiny_config
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import DistributedConfig

from modeling_dlr import DLRForCausalLM
from modeling_dlr.kernels_dlr import Kernel
from modeling_dlr.parallel import context_parallel, shard, shard_batch

STEPS, RATE, LARGEST_NORM = 2, 0.1, 0.5
LOADED = "loaded in shards"

CASES: dict[str, Case] = {
    **{name: Case("AutoModelForCausalLM", {"kernel_parameters": each.options}) for name, each in FAMILIES.items()},
    "tied": Case("AutoModelForCausalLM", {"tie_word_embeddings": True}),
    "checkpointing": Case("AutoModelForCausalLM", {"tie_word_embeddings": True}, "padding left", checkpointing=True),
    "batch norm": Case("AutoModelForTokenClassification", {"norm_type": "batch"}, "padding right"),
    "pooled": Case("AutoModelForSequenceClassification", {}, "padding inside"),
    "attention": Case("AutoModelForCausalLM", ATTENTION | {"layer_types": ["dlr", "full_attention"]}),
}
# How models that split sequences over one axis use the other one, and their norm: DDP shares no statistics.
ON_TWO_AXES: dict[str, tuple[Callable[[Any, DeviceMesh], nn.Module], str]] = {
    "context and shards": (shard, "batch"),
    "context and DDP": (
        lambda model, mesh: DistributedDataParallel(model, process_group=mesh["data"].get_group()),
        "layer",
    ),
}


def rows_of(batch: dict[str, Any], mesh: DeviceMesh) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch with as many sequences as the mesh has processes, or two; and what this process has of it.

    Labels of padding are ignored, so processes have unequal numbers of labels, which they have to know.
    """
    more = {name: torch.cat([x, x.flip(-1)]) if mesh.size() > len(x) else x for name, x in batch.items()}
    if more["labels"].dim() == 2 and "attention_mask" in more:
        more["labels"] = more["labels"].masked_fill(more["attention_mask"] == 0, -100)
    part = {name: x.chunk(mesh.size())[mesh.get_local_rank()] for name, x in more.items()}
    return more, part


def count_of(labels: Tensor, model: nn.Module) -> int:
    """The labels that a loss is a mean over, as the Trainer counts them."""
    counted = labels[:, 1:] if isinstance(model, DLRForCausalLM) else labels
    return int((counted != -100).sum())


def train(model: nn.Module, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The first gradients, and the loss of each step."""
    gradients: dict[str, Tensor] = {}
    optimizer, losses = torch.optim.SGD(model.parameters(), RATE), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients = gradients or {name: whole(x.grad).clone() for name, x in model.named_parameters()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        losses.append(loss.detach())
    return gradients, losses


def whole(x: Tensor) -> Tensor:
    """A tensor of which each process may have a part."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def errors_of(
    case: Case,
    mesh: DeviceMesh,
    prepare: Callable[[Any, DeviceMesh], nn.Module] = shard,
    shared: DeviceMesh | None = None,
) -> dict[str, float]:
    """The largest errors of losses, gradients and weights; ``shared`` are the processes that share sequences."""
    model, batch = build(case)
    batch, part = rows_of(batch, mesh["data"] if shared is not None else mesh)
    alone = copy.deepcopy(model)
    gradients, losses = train(alone, batch)
    shared_size = 1 if shared is None else shared.size()
    part["num_items_in_batch"] = count_of(batch["labels"], model) / (distributed.get_world_size() // shared_size)
    if shared is not None:
        part = shard_batch(part, shared)
        context_parallel(model, shared)
    prepared = prepare(model, mesh)
    own_gradients, own_losses = train(prepared, part)
    for loss in own_losses:
        distributed.all_reduce(loss)
    errors = {
        f"loss {step}": largest_error(own / distributed.get_world_size(), loss)
        for step, (own, loss) in enumerate(zip(own_losses, losses, strict=True))
    }
    named = {name.removeprefix("module."): x for name, x in own_gradients.items()}
    errors |= {f"gradient of {name}": largest_error(named[name], gradients[name]) for name in gradients}
    found = {name.removeprefix("module."): x for name, x in prepared.state_dict().items()}
    return errors | {name: largest_error(whole(found[name]), value) for name, value in alone.state_dict().items()}


def loaded_in_shards(folder: Path, model: Any, mesh: DeviceMesh) -> nn.Module:
    """The same model, which transformers loads in shards; it saves it as a whole."""
    if distributed.get_rank() == 0:
        model.save_pretrained(folder / "first")
    distributed.barrier()
    config = DistributedConfig(fsdp_size=mesh.size())
    loaded = type(model).from_pretrained(folder / "first", distributed_config=config, dtype=torch.float64)
    loaded.save_pretrained(folder / "loaded")
    return loaded.train()


def errors_in_bfloat16(mesh: DeviceMesh) -> dict[str, float]:
    """Of the loss, against one process whose kernels stay in float32; and whether the kernels' gradients are whole."""
    torch.manual_seed(3)
    model = DLRForCausalLM(tiny_config(hidden_size=16, state_size=32))
    tokens = torch.randint(1, 11, (4, 512))
    alone = copy.deepcopy(model).to(torch.bfloat16)
    shard(model, mesh, torch.bfloat16)
    expected = alone(tokens, labels=tokens).loss
    expected.backward()
    own = tokens.chunk(mesh.size())[mesh.get_local_rank()]
    loss = model(own, labels=own).loss
    loss.backward()
    distributed.all_reduce(mean := loss.detach() / mesh.size())
    kernel, kernel_alone = model.model.layers[0].mixer.kernel, alone.model.layers[0].mixer.kernel
    assert isinstance(kernel, Kernel)
    return {
        "loss": largest_error(mean, expected.detach()),
        "kernel": largest_error(kernel(100), kernel_alone(100)),
        "gradient": largest_error(whole(kernel.weights.grad), kernel_alone.weights.grad),
    }


def save(folder: Path, mesh: DeviceMesh) -> None:
    """Train a model in shards, and save it in shards and whole."""
    model, batch = build(CASES["tied"])
    model.float()
    train(shard(model, mesh), rows_of(batch, mesh)[1])
    checkpoint.save(model.state_dict(), checkpoint_id=folder / "shards")
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank() == 0:
        model.save_pretrained(folder / "gathered", state_dict=weights)
        model.config.save_pretrained(folder / "merged")
        save_file({name: x.clone() for name, x in weights.items()}, folder / "whole.safetensors")


def on_one_axis(mesh: DeviceMesh) -> None:
    """Shards over other processes than those that share sequences."""
    both = init_device_mesh("cpu", (mesh.size() // 2, 2), mesh_dim_names=("data", "context"))
    shard(context_parallel(fresh()[0], both["context"]), both["data"])


def tied_in_shards(mesh: DeviceMesh) -> None:
    """What transformers does in `from_pretrained`: the configuration is there before the model."""
    config = tiny_config(tie_word_embeddings=True)
    config.distributed_config = DistributedConfig(fsdp_size=mesh.size())
    DLRForCausalLM(config)


# What is refused, and words of the message.
REFUSALS: dict[str, tuple[Callable[[DeviceMesh], object], str]] = {
    "twice": (lambda mesh: shard(shard(fresh()[0], mesh), mesh), "already"),
    "integers": (lambda mesh: shard(fresh()[0], mesh, torch.int8), "torch.int8"),
    "no model": (lambda mesh: shard(NO_MODEL, mesh), "Linear"),
    "no mesh": (lambda mesh: shard(fresh()[0], mesh.get_group()), "DeviceMesh"),
    "shards before context": (lambda mesh: context_parallel(shard(fresh()[0], mesh), mesh), "sharded already"),
    "one axis of two": (on_one_axis, "2 processes that share a sequence"),
    "tied weights in shards of transformers": (tied_in_shards, "tie_word_embeddings=False"),
    "saving parts": (lambda mesh: shard(fresh()[0], mesh).save_pretrained("nowhere"), "get_model_state_dict"),
}


def main(folder: Path) -> None:
    """Run all, in a process group that is there."""
    size = distributed.get_world_size()
    mesh = init_device_mesh("cpu", (size,))
    both = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "context"))
    errors = {name: errors_of(case, mesh) for name, case in CASES.items()}
    for name, (prepare, norm) in ON_TWO_AXES.items():
        case = Case("AutoModelForCausalLM", {"norm_type": norm}, "padding inside")
        errors[name] = errors_of(case, both, prepare, both["context"])
    errors[LOADED] = errors_of(Case("AutoModelForCausalLM"), mesh, functools.partial(loaded_in_shards, folder))
    save(folder, mesh)
    found = {
        "errors": errors,
        "bfloat16": errors_in_bfloat16(mesh),
        "messages": {name: message_of(refused, mesh) for name, (refused, _) in REFUSALS.items()},
    }
    (folder / f"shards {distributed.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")
