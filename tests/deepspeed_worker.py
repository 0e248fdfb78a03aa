"""Train one part of every batch with DeepSpeed's ZeRO, on CPUs: run by test_deepspeed.py with `torchrun`.

    python -m torch.distributed.run --nproc_per_node 2 deepspeed_worker.py FOLDER

The model of each stage goes to FOLDER/STAGE.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from distributed_worker import RATES, Training, arguments_for, data_for, model_for, with_trainer
from torch import distributed
from transformers import Trainer

from modeling_dlr.training import optimizer_for_trainer

STAGES = (2, 3)


def options_of(stage: int) -> dict[str, Any]:
    """As in configuration/accelerate; the optimizer is the one of the Trainer."""
    return {
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def train(folder: Path, processes: int, **arguments: Any) -> Trainer:
    """The stock Trainer in float32, because DeepSpeed has no float64."""
    training = Training(with_trainer, "token head", arguments=arguments)
    args, model = arguments_for(training, folder, processes), model_for(training).float()
    groups = optimizer_for_trainer(args, **RATES)
    trainer = Trainer(model, args, train_dataset=data_for(training), optimizer_cls_and_kwargs=groups)
    trainer.train()
    return trainer


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for stage in STAGES:
        train(folder, 2, deepspeed=options_of(stage)).save_model(str(folder / str(stage)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
