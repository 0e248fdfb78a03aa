"""How a command ends that is stopped or cannot go on: cleanly, with a line that says why and how to go on."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub_upload.errors import HubUploadError

# What a reader's files, options, folders and devices (of which torch says RuntimeError) may be the reason of; anything
# else is a fault of the program.
ERRORS = (
    *(ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError),
    *(StrictDataclassError, HubUploadError),
)


class Stopped(KeyboardInterrupt):
    """Somebody stopped the command, by Ctrl-C or SIGTERM.

    Attributes:
        number: of the signal.
        checkpoint: the one that training was stopped with, if it was.
        advice: how to go on.
    """

    def __init__(self, number: int, checkpoint: Path | None = None, advice: str = "Run the same command again."):
        self.number, self.checkpoint, self.advice = number, checkpoint, advice
        super().__init__(number)


@contextlib.contextmanager
def command_line(name: str) -> Iterator[None]:
    """Inside, a stop or an error of the reader's ends the program with one line.

    Raises:
        SystemExit: with the line, or, if it was stopped, with 128 and the number of the signal, as shells have it.
    """
    with handled(_stop):
        try:
            yield
        except KeyboardInterrupt as stop:
            stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
            print(f"{name}: stopped. {stopped.advice}", file=sys.stderr)
            raise SystemExit(128 + stopped.number) from stop
        except ERRORS as error:
            raise SystemExit(f"{name}: {one_line(error)}") from error


@contextlib.contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM call this; only the main thread of a process may ask for it.

    The processes that load data are copies of this one, which ends them by SIGTERM: there it does what it always does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def here(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:
            handler(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, here) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def one_line(error: BaseException) -> str:
    """All that an exception says, or its name if it says nothing, without line breaks."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "there is not enough memory: take a smaller batch, shorter rows or a smaller model."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 1000 else f"{text[:1000]}…"


class StopCallback(TrainerCallback, ExportableState):
    """Ends training after the step in which it is asked to stop, with a checkpoint; asked twice, at once.

    Several processes do not stop at the same step: these stop at once, with the checkpoints that they have.

    Args:
        run: what tells a run from others; it is written into the checkpoints, of which there is one of the last step,
            too. None: a run that saves checkpoints by itself.
    """

    def __init__(self, run: str | None = None):
        self.run = run
        self.number: int | None = None
        self.listening = contextlib.ExitStack()

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        return {"args": {"run": self.run}, "attributes": {}}

    @classmethod
    def run_of(cls, checkpoint: Path) -> str | None:
        """The run that a checkpoint is of."""
        callbacks: Any = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).stateful_callbacks or {}
        return callbacks.get(cls.__name__, {}).get("args", {}).get("run")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Take over the signals."""
        if args.world_size == 1:
            self.listening.enter_context(handled(self._ask))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Let the Trainer save."""
        if self.number is not None or (self.run is not None and state.global_step >= state.max_steps):
            control.should_save = True

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Do not wait for the end of an evaluation."""
        if self.number is not None:
            raise Stopped(self.number)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """End training with what was saved."""
        if self.number is not None:
            raise Stopped(self.number, Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Give the signals back."""
        self.listening.close()

    def _ask(self, number: int) -> None:
        if self.number is not None:
            raise Stopped(number)
        self.number = number
        print("Stopping after this step, with a checkpoint; asked once more, at once.", file=sys.stderr)


def _stop(number: int) -> None:
    raise Stopped(number)
