"""End a stopped or failed command with one line that gives the reason and how to continue."""

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
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_dlr.launch import launched

# Errors that the user's files, options, folders or devices can cause (torch raises RuntimeError for devices). Any other
# error is a bug of the program.
ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError, StrictDataclassError)


class Stopped(KeyboardInterrupt):
    """The user stopped the command with Ctrl-C or SIGTERM.

    Attributes:
        number: number of the signal.
        checkpoint: the checkpoint that training saved before it stopped, or None.
        advice: how to continue.
    """

    def __init__(self, number: int, checkpoint: Path | None = None, advice: str = "Run the same command again."):
        self.number, self.checkpoint, self.advice = number, checkpoint, advice
        super().__init__(number)


@contextlib.contextmanager
def command_line(name: str, *errors: type[Exception]) -> Iterator[None]:
    """In this context, a stop or an error caused by the user ends the program with one line.

    Args:
        name: of the program, with which the line begins.
        errors: more classes of such errors than `ERRORS`.

    Raises:
        SystemExit: with the line as its message, or, if stopped, with exit code 128 + signal number, as in shells.
    """
    with handled(_stop):
        try:
            yield
        except KeyboardInterrupt as stop:
            stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
            print(f"{name}: stopped. {stopped.advice}", file=sys.stderr)
            raise SystemExit(128 + stopped.number) from stop
        except (*ERRORS, *errors) as error:
            raise SystemExit(f"{name}: {one_line(error)}") from error


@contextlib.contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """In this context, Ctrl-C and SIGTERM call ``handler``. In other threads than the main thread, nothing changes.

    Nor does it in one of several processes: it may wait for the others in an operation that only the default action
    ends. Data loader workers are copies of this process, which ends them with SIGTERM. In them the signal keeps its
    default action.
    """
    if threading.current_thread() is not threading.main_thread() or launched() > 1:
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
    """The message of an exception without line breaks, or its class name if the message is empty."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "there is not enough memory: use a smaller batch, shorter rows or a smaller model."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 1000 else f"{text[:1000]}…"


class SignalCallback(TrainerCallback):
    """Listens to signals during training: ``number`` is the first one, and the second stops at once.

    In a run with several processes, which would stop at different steps, signals keep their default action, and the
    run keeps the checkpoints it has.
    """

    def __init__(self):
        self.number: int | None = None
        self.listening = contextlib.ExitStack()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Install the signal handlers."""
        if args.world_size == 1:
            self.listening.enter_context(handled(self._ask))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Restore the signal handlers."""
        self.listening.close()

    def _ask(self, number: int) -> None:
        if self.number is not None:
            raise Stopped(number)
        self.number = number
        print("Stopping after this step, with a checkpoint. Signal again to stop at once.", file=sys.stderr)


class StopCallback(SignalCallback):
    """On the first signal, save a checkpoint after the current step and raise `Stopped`."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Ask the Trainer to save a checkpoint."""
        if self.number is not None:
            control.should_save = True

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Stop during an evaluation, without waiting for its end."""
        if self.number is not None:
            raise Stopped(self.number)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Stop training once the checkpoint is saved."""
        if self.number is not None:
            raise Stopped(self.number, Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


def _stop(number: int) -> None:
    raise Stopped(number)
