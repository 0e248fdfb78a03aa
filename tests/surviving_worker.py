"""Train in processes that are killed, and go on: run by test_surviving.py.

    python surviving_worker.py FOLDER

Each row of ``RUNS`` trains in FOLDER/NAME with the agent of `torchrun`, which starts processes again after one has been
killed; after all have been killed, agent included, the same training starts again. Processes are forked here, because
importing takes longer than training. ``MOMENTS`` says when they are killed: in the middle of a step, or when a file of
a checkpoint is half written.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers.modeling_utils
from datasets import Dataset
from tiny import HEADS, tiny_config
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import Trainer, TrainerState, TrainingArguments

from modeling_dlr.cli.recipes import main as run_recipe
from modeling_dlr.parallel import shared_errors
from modeling_dlr.training import newest_checkpoint, optimizer_for_trainer

PROCESSES, STEPS, EVERY, KILLS = 2, 12, 2, 5
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state_{rank}.pth")


class Moment(NamedTuple):
    """When a process kills itself: at a step, before or after its gradients or when it has written half of a file."""

    step: int
    where: str
    rank: int


def moments(seed: int) -> list[Moment]:
    """So many moments of a run, one after the other."""
    drawn = random.Random(seed)
    places = drawn.sample([*FILES, "before", "after"], KILLS)
    found = []
    for i, where in enumerate(places):
        step, rank = EVERY * (i + 1), drawn.randrange(PROCESSES)
        rank = rank if where in ("before", "after", FILES[-1]) else 0  # the first process writes the other files
        found.append(Moment(step, where.format(rank=rank), rank))
    return found


def killer(folder: Path, run: "Run") -> Callable[[int, str, Path | None], None]:
    """What ends this process, or all with the agent, when the next moment is there."""
    rank = int(os.environ["RANK"])
    (folder / f"pid {rank}").write_text(str(os.getpid()), encoding="utf-8")

    def reached(step: int, where: str, path: Path | None = None) -> None:
        done = len(list(folder.glob("killed *")))
        if done == len(run.kills) or run.kills[done] != Moment(step, where, rank):
            return
        if path is not None:
            os.truncate(path, path.stat().st_size // 2)
        (folder / f"killed {done}").write_text(str(time.time()), encoding="utf-8")
        if run.end == "one fails":
            raise ValueError("The row is broken.")
        if run.end == "all killed":
            others = [int((folder / f"pid {other}").read_text()) for other in range(PROCESSES) if other != rank]
            for process in (*others, os.getppid()):
                os.kill(process, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    return reached


def watch(reached: Callable[[int, str, Path | None], None]) -> None:
    """Call ``reached`` in each step, and after each file that is written into a checkpoint."""
    step_of, training_step, save = {}, Trainer.training_step, torch.save
    save_file, to_json = transformers.modeling_utils.safe_save_file, TrainerState.save_to_json

    def step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        step_of["now"] = trainer.state.global_step + 1
        reached(step_of["now"], "before", None)
        loss = training_step(trainer, *args, **kwargs)
        reached(step_of["now"], "after", None)
        return loss

    def written(path: Any) -> None:
        if isinstance(path, (str, Path)) and Path(path).parent.name.startswith("checkpoint-"):
            reached(step_of["now"], Path(path).name, Path(path))

    def saved(what: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(what, path, *args, **kwargs)
        written(path)

    def saved_file(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save_file(tensors, path, *args, **kwargs)
        written(path)

    def saved_state(self: TrainerState, json_path: str) -> None:
        to_json(self, json_path)
        written(json_path)

    Trainer.training_step, torch.save, TrainerState.save_to_json = step, saved, saved_state
    transformers.modeling_utils.safe_save_file = saved_file


def with_trainer(folder: Path) -> None:
    """The stock Trainer, with groups, a schedule, dropout and shuffled rows."""
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=2,
        max_steps=STEPS,
        save_steps=EVERY,
        logging_steps=1,
        learning_rate=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        weight_decay=0.1,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    torch.manual_seed(3)
    model = HEADS["sequence head"](tiny_config(hidden_dropout_prob=0.2))
    ids = torch.randint(1, 11, (20, 7), generator=torch.Generator().manual_seed(4))
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids[:, 0] % 4}).with_format("torch")
    groups = optimizer_for_trainer(args, state_learning_rate={"angle": 0.001})
    trainer = Trainer(model, args, train_dataset=rows, optimizer_cls_and_kwargs=groups)
    with shared_errors():
        trainer.train(resume_from_checkpoint=newest_checkpoint(args))


def with_recipe(folder: Path) -> None:
    """`modeling-dlr recipes run`."""
    said = ["--smoke", "--output_dir", str(folder / "out"), "--num_train", "20", "--max_steps", str(STEPS)]
    said += ["--save_steps", str(EVERY), "--eval_steps", str(EVERY), "--model_options", "hidden_dropout_prob=0.2"]
    said += ["--lr_scheduler_type", "cosine", "--save_total_limit", "10", "--disable_tqdm", "True"]
    run_recipe(["twin-atomic-dlr", *said, "--use_cpu", "True", "--resume_from_checkpoint", "auto"])


class Run(NamedTuple):
    """A training, when it is interrupted, and how: one process is killed, or all are, or one raises an error."""

    train: Callable[[Path], None]
    kills: list[Moment]
    end: Literal["one killed", "all killed", "one fails"] = "one killed"
    restarts: int = 0


RUNS = {
    "trainer": Run(with_trainer, []),
    "trainer, one killed": Run(with_trainer, moments(1), restarts=KILLS),
    "trainer, all killed": Run(with_trainer, moments(2), "all killed"),
    "recipe": Run(with_recipe, []),
    "recipe, one killed": Run(with_recipe, moments(3), restarts=KILLS),
    "recipe, all killed": Run(with_recipe, moments(4), "all killed"),
}
# Trainings that are not started again.
ENDED = {
    "the first fails": Run(with_trainer, [Moment(3, "before", 0)], "one fails"),
    "the second fails": Run(with_trainer, [Moment(3, "before", 1)], "one fails"),
    "the second is killed": Run(with_trainer, [Moment(3, "after", 1)]),
}


def work(run: Run, folder: Path) -> None:
    """One process of a training."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not that of the agent
    torch.set_num_threads(1)
    watch(killer(folder, run))
    try:
        run.train(folder)
    except Exception as error:
        (folder / f"said {os.environ['RANK']}").write_text(str(error), encoding="utf-8")
        raise


def launch(function: Callable[[Run, Path], None], run: Run, folder: Path) -> None:
    """Call a function in several processes by the agent of `torchrun`."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=PROCESSES,
        max_restarts=run.restarts,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="fork",
    )
    elastic_launch(config, function)(run, folder)


def in_child(function: Callable[..., None], *arguments: Any) -> int:
    """Call a function in a forked process, and return its number."""
    child = os.fork()
    if not child:
        try:
            function(*arguments)
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:  # the parent goes on
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def ended(child: int) -> int:
    """How a process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(run: Run, folder: Path) -> None:
    """Start a training, and again for as long as all its processes are killed."""
    folder.mkdir()
    ends: list[int] = []
    while not ends or (ends[-1] == -signal.SIGKILL and len(ends) <= KILLS):
        ends.append(ended(in_child(launch, work, run, folder)))
    told = {"ends": ends, "at": time.time()}
    (folder / "ends.json").write_text(json.dumps(told), encoding="utf-8")


def main(folder: Path) -> None:
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # otherwise gloo finds the addresses of killed processes
    children = [in_child(train, run, folder / name) for name, run in (RUNS | ENDED).items()]
    assert [ended(child) for child in children] == [0] * len(children)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
