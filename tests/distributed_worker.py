"""Train one part of every batch: run by test_training.py with `torchrun --nproc_per_node 2`.

    python -m torch.distributed.run --nproc_per_node 2 distributed_worker.py FOLDER

Each row of ``TRAININGS`` is also what test_training.py calls itself, in one process on whole batches. The weights that
come out go to FOLDER/NAME, rank RANK.safetensors.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import save_file
from tiny import HEADS, tiny_config
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, default_data_collator

from modeling_dlr.heads_dlr import DLRHead
from modeling_dlr.training import optimizer_for_trainer, parameter_groups

BATCH, LENGTH, STEPS = 4, 7, 5
RATES = {"state_learning_rate": {"angle": 0.001, "weights": 0.02}}


def model_for(head: str) -> DLRHead:
    """The same model in every process, in float64, so that only the order of sums differs."""
    torch.manual_seed(3)
    return HEADS[head](tiny_config(bidirectional=True)).double()


def data_for(head: str) -> Dataset:
    """Rows in which some steps are padding, and, for a head at every step, unequal numbers of labels are ignored."""
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(1, 11, (BATCH * STEPS, LENGTH), generator=random)
    lengths = torch.randint(1, LENGTH + 1, (BATCH * STEPS, 1), generator=random)
    mask = (torch.arange(LENGTH) < lengths).long()
    labels = ids[:, 0] % 4 if head == "sequence head" else (ids % 4).masked_fill(mask == 0, -100)
    return Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": labels}).with_format("torch")


def with_trainer(head: str, folder: Path, processes: int) -> torch.nn.Module:
    """The stock Trainer, on shuffled data."""
    args = TrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=BATCH // processes,
        max_steps=STEPS,
        learning_rate=0.01,
        weight_decay=0.1,
        max_grad_norm=0.5,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    model = model_for(head)
    Trainer(
        model, args, train_dataset=data_for(head), optimizer_cls_and_kwargs=optimizer_for_trainer(args, **RATES)
    ).train()
    return model


def with_accelerate(head: str, folder: Path, processes: int) -> torch.nn.Module:
    """A bare loop of Accelerate, on data in their order."""
    del folder
    accelerator = Accelerator(cpu=True)
    model = model_for(head)
    loader = DataLoader(data_for(head), batch_size=BATCH // processes, collate_fn=default_data_collator)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, weight_decay=0.1, **RATES))
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for batch in loader:
        optimizer.zero_grad()
        accelerator.backward(prepared(**batch).loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 0.5)
        optimizer.step()
    return model


TRAININGS: dict[str, tuple[Callable[[str, Path, int], torch.nn.Module], str]] = {
    "Trainer, sequence head": (with_trainer, "sequence head"),
    "Trainer, token head": (with_trainer, "token head"),
    "Accelerate, sequence head": (with_accelerate, "sequence head"),
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, (train, head) in TRAININGS.items():
        model = train(head, folder, 2)
        assert torch.distributed.get_world_size() == 2
        save_file(dict(model.named_parameters()), folder / f"{name}, rank {torch.distributed.get_rank()}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
