"""Train one part of every batch: run by test_processes.py in several processes.

Each row of ``TRAININGS`` is also what test_processes.py calls itself, in one process on whole batches. The weights that
come out go to FOLDER/NAME, rank RANK.safetensors; the messages of ``REFUSALS`` to FOLDER/trainer RANK.json.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import ParallelismConfig
from context_worker import message_of
from datasets import Dataset
from safetensors.torch import save_file
from tiny import HEADS, tiny_config
from torch import distributed
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, default_data_collator

from modeling_dlr.heads_dlr import DLRHead
from modeling_dlr.parallel import DistributedTrainer, context_parallel
from modeling_dlr.training import optimizer_for_trainer, parameter_groups

BATCH, LENGTH, STEPS = 8, 7, 5
ROWS, UNEVEN_ROWS = 24, 23  # of the last batch one process gets a row less
RATES = {"state_learning_rate": {"angle": 0.001, "weights": 0.02}}


class Training(NamedTuple):
    """How to train, what, and on what.

    Attributes:
        context: over how many processes sequences are split.
    """

    train: Callable[["Training", Path, int], torch.nn.Module]
    head: str
    rows: int = ROWS
    arguments: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    context: int = 1


def model_for(training: Training) -> DLRHead:
    """The same model in every process, in float64, so that only the order of sums differs."""
    torch.manual_seed(3)
    return HEADS[training.head](tiny_config(bidirectional=True, **training.fields)).double()


def data_for(training: Training) -> Dataset:
    """Rows in which some steps are padding, and, for a head at every step, unequal numbers of labels are ignored."""
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(1, 11, (training.rows, LENGTH), generator=random)
    lengths = torch.randint(1, LENGTH + 1, (training.rows, 1), generator=random)
    mask = (torch.arange(LENGTH) < lengths).long()
    labels = ids[:, 0] % 4 if training.head == "sequence head" else (ids % 4).masked_fill(mask == 0, -100)
    return Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": labels}).with_format("torch")


def arguments_for(training: Training, folder: Path, processes: int) -> TrainingArguments:
    """Of batches that are as large over all processes as in one."""
    accumulation = training.arguments.get("gradient_accumulation_steps", 1) if processes > 1 else 1
    shares = max(1, processes // training.context)
    return TrainingArguments(
        **{
            "output_dir": str(folder / "run"),
            "per_device_train_batch_size": BATCH // (shares * accumulation),
            "max_steps": STEPS,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "max_grad_norm": 0.5,
            "ddp_find_unused_parameters": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        | training.arguments
        | {"gradient_accumulation_steps": accumulation}
    )


def with_trainer(training: Training, folder: Path, processes: int, trainer: type[Trainer] = Trainer) -> torch.nn.Module:
    """The stock Trainer, on shuffled data."""
    args, model = arguments_for(training, folder, processes), model_for(training)
    if training.context > 1 and processes > 1:
        sizes = {"dp_replicate_size": processes // training.context, "dp_shard_size": 1, "cp_size": training.context}
        context_parallel(model, mesh_of(sizes)["cp"])
    groups = optimizer_for_trainer(args, **RATES)
    trainer(model, args, train_dataset=data_for(training), optimizer_cls_and_kwargs=groups).train()
    return model


def mesh_of(sizes: dict[str, int]) -> Any:
    """The mesh of Accelerate's sizes. It refuses some of them for its own parallelism, which is not used."""
    if sizes["dp_replicate_size"] == 1:
        return ParallelismConfig(**sizes).build_device_mesh("cpu")
    return distributed.device_mesh.init_device_mesh("cpu", tuple(sizes.values())[::2], mesh_dim_names=("dp", "cp"))


def with_ours(training: Training, folder: Path, processes: int) -> torch.nn.Module:
    """The Trainer for several processes."""
    if processes > 1:
        return with_trainer(training, folder, processes, DistributedTrainer)
    return with_trainer(training, folder, processes)


def streamed(training: Training, folder: Path, processes: int) -> torch.nn.Module:
    """The stock Trainer, on a stream of rows of different length, which are padded batch by batch."""
    args, model = arguments_for(training, folder, processes), model_for(training)
    stream = data_for(training).to_iterable_dataset()
    Trainer(model, args, train_dataset=stream, data_collator=padded).train()
    return model


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch as long as its longest row."""
    batch = default_data_collator(rows)
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: value[:, :longest] if value.dim() > 1 else value for name, value in batch.items()}


def with_accelerate(training: Training, folder: Path, processes: int) -> torch.nn.Module:
    """A bare loop of Accelerate, on data in their order. The loss is a mean over the labels of all processes."""
    del folder
    accelerator = Accelerator(cpu=True)
    model = model_for(training)
    loader = DataLoader(data_for(training), batch_size=BATCH // processes, collate_fn=default_data_collator)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, weight_decay=0.1, **RATES))
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for batch in loader:
        optimizer.zero_grad()
        count = accelerator.reduce((batch["labels"] != -100).sum())
        loss = prepared(**batch, num_items_in_batch=count).loss
        accelerator.backward(loss * accelerator.num_processes)  # DistributedDataParallel takes the mean
        accelerator.clip_grad_norm_(prepared.parameters(), 0.5)
        optimizer.step()
    return model


ONE_BY_ONE = {"accelerator_config": {"dispatch_batches": False}}  # each process reads the rows itself
TRAININGS = {
    "Trainer, sequence head": Training(with_trainer, "sequence head"),
    "Trainer, token head": Training(with_trainer, "token head"),
    "Trainer, accumulation": Training(with_trainer, "token head", arguments={"gradient_accumulation_steps": 2}),
    "Trainer, checkpointing": Training(with_trainer, "token head", arguments={"activation_checkpointing": True}),
    "Trainer, a stream": Training(
        streamed, "token head", arguments={"accelerator_config": {"dispatch_batches": False}}
    ),
    "uneven batches, sequence head": Training(with_ours, "sequence head", UNEVEN_ROWS),
    "uneven batches, token head": Training(with_ours, "token head", UNEVEN_ROWS),
    "batch norm": Training(with_ours, "token head", fields={"norm_type": "batch"}),
    "split sequences, sequence head": Training(with_ours, "sequence head", context=2),
    "split sequences, token head": Training(with_ours, "token head", context=2),
    "split sequences, batch norm": Training(with_ours, "token head", fields={"norm_type": "batch"}, context=2),
    "Accelerate, sequence head": Training(with_accelerate, "sequence head"),
    "Accelerate, token head": Training(with_accelerate, "token head"),
}


def refused(folder: Path, processes: int, **changes: Any) -> None:
    with_ours(Training(with_ours, "token head")._replace(**changes), folder, processes)


def evaluates(folder: Path, processes: int) -> None:
    training = Training(with_ours, "token head", context=2)
    sizes = {"dp_replicate_size": processes // 2, "dp_shard_size": 1, "cp_size": 2}
    model = context_parallel(model_for(training), mesh_of(sizes)["cp"])
    DistributedTrainer(model, arguments_for(training, folder, processes), eval_dataset=data_for(training)).evaluate()


# What is refused, and words of the message.
REFUSALS: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "unequal shares": (
        lambda folder, processes: refused(folder, processes, rows=BATCH + 1),
        "9 rows are .* share equally",
    ),
    "label smoothing": (
        lambda folder, processes: refused(folder, processes, context=2, arguments={"label_smoothing_factor": 0.1}),
        "label_smoothing_factor=0",
    ),
    "evaluation of split sequences": (evaluates, "in one process"),
}


def main(folder: Path) -> None:
    """Run all, in a process group that is there."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    for name, training in TRAININGS.items():
        model = training.train(training, folder, size)
        save_file(dict(model.state_dict()), folder / f"{name}, rank {rank}.safetensors")
    messages = {name: message_of(lambda _, f=f: f(folder, size), None) for name, (f, _) in REFUSALS.items()}
    (folder / f"trainer {rank}.json").write_text(json.dumps(messages), encoding="utf-8")
