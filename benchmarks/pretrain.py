"""Pretrain `dlr-small-bytes-bidirectional` on the bytes of `corpus.py`, in pieces.

    python benchmarks/pretrain.py --minutes 100                            # a piece; the next one resumes from it
    python benchmarks/pretrain.py --minutes 100 --steps 18000 --decay 3000  # a last piece, which ends at step 18,000

The model reads windows of bytes in which spans are hidden, and predicts the hidden bytes from both sides. Single hidden
bytes can be guessed from their neighbours; spans of five bytes on average ask for the word. The learning rate rises for
500 steps, is then constant, and falls to 0 over the last ``--decay`` steps, so that the number of pieces need not be
known beforehand. A window and its spans depend on the seed and their number only: a resumed run reads what an
uninterrupted one would have read. Each piece ends with a checkpoint; Ctrl-C and SIGTERM save one, too.
"""

import argparse
import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import FOLDER, KINDS
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.finetuning.stopping import StopCallback, command_line
from modeling_dlr.presets import preset_folder
from modeling_dlr.recipes import span_mask
from modeling_dlr.tokenization import byte_tokenizer
from modeling_dlr.training import newest_checkpoint, optimizer_for_trainer

NAME = "dlr-small-bytes-bidirectional"
SHARE, SPAN, IGNORED = 0.2, 5, -100
WARMUP, STATE_RATE = 500, 1e-3


class Windows(Dataset):
    """Windows of an array of bytes at random places, with hidden spans.

    Args:
        content: [size] uint8.
        length: steps of a window.
        count: number of windows.
        seed: random seed; a window depends on it and its number only.
    """

    def __init__(self, content: np.ndarray, length: int, count: int, seed: int):
        tokenizer = byte_tokenizer(add_prefix_space=False, split_special_tokens=True)
        self.content, self.length, self.count, self.seed = content, length, count, seed
        self.ids, self.mask_id = ids_of_bytes(tokenizer), tokenizer.mask_token_id

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng((self.seed, number))
        start = generator.integers(max(1, len(self.content) - self.length + 1))
        tokens = self.ids[self.content[start : start + self.length]]
        hidden = span_mask(len(tokens), SHARE, SPAN, generator)
        return {"input_ids": np.where(hidden, self.mask_id, tokens), "labels": np.where(hidden, tokens, IGNORED)}


def ids_of_bytes(tokenizer: Any) -> np.ndarray:
    """The token of each byte, [256]; of those that UTF-8 never uses, the unknown one."""
    some = [code for code in (*range(0x800), *range(0x800, 0x110000, 0x1000)) if not 0xD800 <= code < 0xE000]
    text = "".join(map(chr, some))
    ids = np.full(256, tokenizer.unk_token_id, dtype=np.int64)
    ids[np.frombuffer(text.encode(), dtype=np.uint8)] = tokenizer(text).input_ids
    return ids


class PieceCallback(TrainerCallback):
    """Ends a piece with a checkpoint after so many minutes, and prints a line for each report of the Trainer."""

    def __init__(self, minutes: float, bytes_per_step: int):
        self.end, self.bytes_per_step = time.monotonic() + 60 * minutes, bytes_per_step
        self.step, self.time = 0, 0.0  # of the report before

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """End the piece."""
        if time.monotonic() > self.end:
            control.should_save = control.should_evaluate = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any):
        """Print a line."""
        line: dict[str, Any] = {"time": f"{datetime.now():%H:%M:%S}", "step": state.global_step}
        line |= {f"{name}_bits": round(value / math.log(2), 4) for name, value in logs.items() if name.endswith("loss")}
        if "loss" in logs:
            spent, read = time.process_time() - self.time, (state.global_step - self.step) * self.bytes_per_step
            line |= {"rate": logs["learning_rate"], "norm": round(float(logs["grad_norm"]), 3)}
            line |= {"bytes_per_cpu_second": round(read / spent)} if self.step else {}
            self.step, self.time = state.global_step, time.process_time()
        print(json.dumps(line), flush=True)


def arguments_of(options: argparse.Namespace) -> TrainingArguments:
    """The Trainer's arguments of a piece."""
    return TrainingArguments(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=0.05,
        adam_beta2=0.98,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": options.decay, "decay_type": "linear"},
        warmup_steps=WARMUP,
        train_sampling_strategy="sequential",  # windows are at random places whatever their order
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=options.every,
        save_steps=options.every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=options.bf16,
        seed=options.seed,
    )


def trainer_of(options: argparse.Namespace, corpus: Path = FOLDER, fields: dict[str, Any] | None = None) -> Trainer:
    """The Trainer of a piece.

    Args:
        options: of the command line.
        corpus: folder of the arrays.
        fields: of DLRConfig, to change the model.
    """
    arguments = arguments_of(options)
    set_seed(options.seed)
    folder = preset_folder("models", NAME)
    held_out = {kind: np.load(corpus / f"held_out_{kind}.npy") for kind in KINDS}
    count = min(64, *(len(content) // options.length for content in held_out.values()))
    train = np.load(corpus / "train.npy", mmap_mode="r")
    trainer = Trainer(
        model=DLRForMaskedLM(DLRConfig.from_pretrained(folder, **fields or {})),
        args=arguments,
        train_dataset=Windows(train, options.length, 4_000_000, options.seed),
        eval_dataset={
            kind: Windows(content, options.length, count, options.seed) for kind, content in held_out.items()
        },
        optimizer_cls_and_kwargs=optimizer_for_trainer(arguments, STATE_RATE),
        callbacks=[PieceCallback(options.minutes, options.batch_size * options.length), StopCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=100, help="length of the piece")
    parser.add_argument("--steps", type=int, default=200_000, help="step at which training ends")
    parser.add_argument("--decay", type=int, default=0, help="steps before that, over which the learning rate falls")
    parser.add_argument("--output", type=Path, default=Path("outputs/pretrain"), help="folder of the checkpoints")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations, and between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="products of weights in bfloat16, for processors with AMX")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train a piece."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # kernels that decay fast have such numbers, which are slow
    with command_line("pretrain.py"):
        trainer = trainer_of(options)
        trainer.train(resume_from_checkpoint=newest_checkpoint(trainer.args))


if __name__ == "__main__":
    main()
