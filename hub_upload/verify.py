"""Verify a folder: inspect every file, and load it in a process without this package."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from . import confined, without_package
from .bounded_files import read_bytes, read_json
from .errors import InputError, VerificationError, reason_of
from .file_kinds import uploaded_files
from .folders import scratch_folder
from .inspect_folder import INSPECTIONS, config_of_folder
from .model_folder import check_model_folder
from .own_code import foreign_code
from .samples import SAMPLES, inputs_of, task_of

# Limits of the other process: seconds; bytes of memory, plus this multiple of the weights; bytes of its logits, and of
# the outputs of its pipeline.
_SECONDS, _MEMORY, _WEIGHTS, _LOGITS, _PIPELINE = 600, 2**33, 8, 2**30, 2**26
# Settings that silence everything except the error; and the beginnings of warnings that are printed anyway.
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
_WARNING = re.compile(r"^(\S+:\d+: )?\w*warning\b|^W\d{4} ", re.IGNORECASE)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verified(NamedTuple):
    """The verified facts, one per line."""

    facts: list[str]


def verify(folder: Path, *, trust_folder_code: bool = False) -> Verified:
    """Inspect every file of a model folder, then load it without this package and compare the outputs bit by bit.

    Args:
        folder: written by `save_pretrained`, with a tokenizer or processor and a card.
        trust_folder_code: also run Python code of the folder that is not this package's, in the other process.

    Raises:
        InputError: if the folder has no model, or if there is no disk space for the test.
        VerificationError: with a list of all problems.
    """
    check_model_folder(folder)
    problems, facts = [], []
    for title, inspect in INSPECTIONS.items():
        new_problems = inspect(folder)
        problems += new_problems
        facts += [] if new_problems else [title]
    if not problems and not trust_folder_code:
        problems += foreign_code(folder)
    if not problems:
        facts += _compare_outputs(folder, problems)
    if problems:
        raise VerificationError(f"{folder} is not ready:", problems)
    return Verified(facts)


def _compare_outputs(folder: Path, problems: list[str]) -> list[str]:
    """Compare the outputs with and without the package; return facts, and append differences to ``problems``."""
    config = config_of_folder(folder)
    served = inputs_of(folder, config)
    with scratch_folder() as job:
        _write_job(job, folder, served)
        failure = _run_without_package(job, folder)
        if failure is not None:
            problems.append(f"a process without this package cannot use it: {failure}")
            return []
        without = _outputs_without_package(job)
        try:
            with_package = _outputs_with_package(job)
        except Exception as error:
            problems.append(f"this package cannot use it: {type(error).__name__}: {reason_of(error)}")
            return []
    if without is None:
        problems.append("a process without this package wrote outputs that cannot be read")
        return []
    facts = []
    for name, logits in with_package.logits.items():
        difference = _difference(logits, without.logits.get(name))
        if difference is None:
            facts.append(f"{name} loads without this package, with bit-identical outputs")
        else:
            problems.append(f"{name}: its outputs without this package differ {difference}: save the folder again")
    if with_package.pipeline != without.pipeline:
        problems.append("pipeline: its outputs without this package differ: save the folder again")
    elif with_package.pipeline is not None:
        facts.append("its pipeline has the same outputs without this package")
    return facts


def _difference(expected: Tensor, actual: Tensor | None) -> str | None:
    """Describe how two outputs differ; None if they are bit-identical."""
    if actual is None or actual.shape != expected.shape or actual.dtype != expected.dtype:
        return "in their form"
    if torch.equal(expected, actual):
        return None
    return f"by {(expected.double() - actual.double()).abs().max():.1g}"


def _run_without_package(job: Path, folder: Path) -> str | None:
    """Run the other process; return the reason if it fails.

    Raises:
        OSError: if it fails because the disk is full, which is not a problem of the folder.
    """
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    limits = confined.Limits(_SECONDS, _MEMORY + _WEIGHTS * weights, _LOGITS)
    environment = {"HF_HOME": str(job / "home"), "HF_HUB_OFFLINE": "1"} | _QUIET
    finished = confined.run(without_package.__file__, [str(job)], job, limits, environment)
    if finished.returncode == 0:
        return None
    if finished.returncode is None:
        return f"it did not finish within {_SECONDS} s"
    reason = _reason(finished.returncode, finished.errors)
    for code in _NO_SPACE:
        if os.strerror(code) in reason:
            raise OSError(code, os.strerror(code))
    return reason


def _reason(returncode: int, errors: str) -> str:
    """The exception that ended a process; without an exception its return code, and for code 1 also the message.

    Python ends with code 1 after `sys.exit("message")`. With other codes, the output may come from libraries.
    """
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not _WARNING.search(line)]
    if "Traceback (most recent call last):" in lines:
        return lines[-1][:300]
    message = f": {lines[-1][:300]}" if lines and returncode == 1 else ""
    return f"it ended without an exception, with return code {returncode}{message}"


def _outputs_without_package(job: Path) -> without_package.Outputs | None:
    """Read the outputs of the other process, which the folder's code may have written; None if they are not valid."""
    try:
        logits = load(read_bytes(job / "logits.safetensors", _LOGITS))
        return without_package.Outputs(logits, read_json(job / "pipeline.json", _PIPELINE))
    except (InputError, SafetensorError):
        return None


def _write_job(job: Path, folder: Path, served: dict[str, dict[str, torch.Tensor]]) -> None:
    task = task_of(folder)
    task = None if task is None or not task.runs else task
    content = {
        "folder": str(_as_pushed(folder, job / "model")),
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


def _as_pushed(folder: Path, target: Path) -> Path:
    """A folder of links to the files that a push uploads, so that no other file is loaded."""
    for path in uploaded_files(folder):
        link = target / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(path.resolve())
        except OSError:  # as on Windows, where not every user may
            shutil.copyfile(path, link)
    return target


def _outputs_with_package(job: Path) -> without_package.Outputs:
    """Compute the outputs in this process, without code of the folder; the random state does not change."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            return without_package.outputs_of(job, trust_remote_code=False)
    finally:
        transformers_logging.set_verbosity(verbosity)
