"""What a stranger will meet: every file of a folder is looked at, and a process without this package loads it."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from . import stranger
from .errors import VerificationError
from .folders import scratch_folder
from .inspect_folder import INSPECTIONS, config_of_folder
from .samples import SAMPLES, check_model_folder, task_of

_TIMEOUT = 600
# What lets a process say nothing but how it failed; and how warnings begin that are printed all the same, torch's too.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
_WARNING = re.compile(r"^(\S+:\d+: )?\w*warning\b|^W\d{4} ", re.IGNORECASE)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verified(NamedTuple):
    """What was found to be true, line by line."""

    facts: list[str]


def verify(folder: Path) -> Verified:
    """Look at every file of a model folder, then load it as a stranger and compare to the bit.

    Args:
        folder: as `save_pretrained` wrote it, with its tokenizer or processor and its card.

    Raises:
        InputError: if there is no model in it, or no space to try it out in.
        VerificationError: listing everything that is wrong.
    """
    check_model_folder(folder)
    problems, facts = [], []
    for title, inspect in INSPECTIONS.items():
        found = inspect(folder)
        problems += found
        facts += [] if found else [title]
    if not problems:
        facts += _meet(folder, problems)
    if problems:
        raise VerificationError("\n".join([f"{folder} is not ready:", *(f"  {problem}" for problem in problems)]))
    return Verified(facts)


def _meet(folder: Path, problems: list[str]) -> list[str]:
    """Answer as a stranger and as an owner of the package; the facts, and whatever differs to ``problems``."""
    config = config_of_folder(folder)
    served = {name: inputs for name, row in SAMPLES.items() if (inputs := row.inputs(config)) is not None}
    with scratch_folder() as job:
        _write_job(job, folder, served)
        failure = _run_stranger(job)
        if failure is not None:
            problems.append(f"a process without this package cannot use it: {failure}")
            return []
        theirs = stranger.Answers(
            load_file(job / "logits.safetensors"),
            json.loads((job / "answers.json").read_text(encoding="utf-8")),
        )
        ours = _our_answers(job)
    facts = []
    for name, logits in ours.logits.items():
        if torch.equal(logits, theirs.logits[name]):
            facts.append(f"{name} loads without this package, with the same answers to the bit")
        else:
            difference = (logits.double() - theirs.logits[name].double()).abs().max()
            problems.append(f"{name}: a stranger's answers differ from ours by {difference:.1g}: save the folder again")
    if ours.pipeline != theirs.pipeline:
        problems.append("pipeline: a stranger gets other answers than we do: save the folder again")
    elif ours.pipeline is not None:
        facts.append("its pipeline answers the same without this package")
    return facts


def _run_stranger(job: Path) -> str | None:
    """Let the other process answer; what it says of its failure, if it fails.

    Raises:
        OSError: if it fails for want of space, which says nothing of the folder.
    """
    environment = {"HF_HOME": str(job / "home"), "HF_HUB_OFFLINE": "1"} | _QUIET
    command = [sys.executable, "-P", stranger.__file__, str(job)]
    try:
        subprocess.run(
            command, env=os.environ | environment, cwd=job, capture_output=True, text=True, timeout=_TIMEOUT, check=True
        )
    except subprocess.TimeoutExpired:
        return f"it had no answer after {_TIMEOUT} s"
    except subprocess.CalledProcessError as failed:
        reason = _reason(failed)
        for code in _NO_SPACE:
            if os.strerror(code) in reason:
                raise OSError(code, os.strerror(code)) from failed
        return reason
    return None


def _reason(failed: subprocess.CalledProcessError) -> str:
    """The exception that ended a process; of one that ended without, its return code, and the message if it is 1.

    With that code Python ends after `sys.exit("message")`; before any other, libraries may have said anything.
    """
    words = [line.strip() for line in failed.stderr.splitlines() if line.strip() and not _WARNING.search(line)]
    if "Traceback (most recent call last):" in words:
        return words[-1]
    said = f": {words[-1]}" if words and failed.returncode == 1 else ""
    return f"it ended without an exception, with return code {failed.returncode}{said}"


def _write_job(job: Path, folder: Path, served: dict[str, dict[str, torch.Tensor]]) -> None:
    task = task_of(folder)
    task = None if task is None or not task.runs else task
    content = {
        "folder": str(folder.resolve()),
        "threads": torch.get_num_threads(),
        "auto_classes": list(served),
        "outputs": {name: SAMPLES[name].output for name in served},
        "task": None if task is None else task.name,
        "kind": None if task is None else task.kind,
        "examples": [] if task is None else task.examples(folder),
        "pipeline_options": {} if task is None else task.options,
    }
    (job / "job.json").write_text(json.dumps(content), encoding="utf-8")
    tensors = {f"{name}/{key}": value for name, inputs in served.items() for key, value in inputs.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, job / "inputs.safetensors")


def _our_answers(job: Path) -> stranger.Answers:
    """The same in this process, without reports of heads drawn afresh; the caller's random state stays as it was."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            return stranger.answer(job)
    finally:
        transformers_logging.set_verbosity(verbosity)
