"""What somebody without this package meets: load a folder under its Auto classes, compute logits, run its pipeline.

`verify.py` runs this file as a script, in a confined process from which the package is hidden, and calls `answer` in
its own, where no code of the folder is run:

    python stranger.py JOB

JOB is a folder with job.json and inputs.safetensors; logits.safetensors and answers.json are written beside them. Only
what a stranger has is imported here.
"""

import importlib.abc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HIDDEN = ("hub_upload", "modeling_dlr")


class Answers(NamedTuple):
    """The first output under every Auto class, by its name, and what the pipeline answers, if there is one."""

    logits: dict[str, torch.Tensor]
    pipeline: Any


class Hiding(importlib.abc.MetaPathFinder):
    """Makes packages impossible to import, however they are installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Refuse the hidden packages, and leave every other to the finders that follow."""
        if fullname.split(".", maxsplit=1)[0] in HIDDEN:
            raise ModuleNotFoundError(f"{fullname} is hidden, as on a machine without it", name=fullname)


def answer(job_folder: Path, *, trust_remote_code: bool) -> Answers:
    """Load the folder that job.json names in every way it lists, and answer its inputs."""
    job = json.loads((job_folder / "job.json").read_text(encoding="utf-8"))
    inputs = load_file(job_folder / "inputs.safetensors")
    torch.set_num_threads(job["threads"])
    logits = {}
    for auto_class in job["auto_classes"]:
        torch.manual_seed(0)  # the head is drawn afresh where another one was saved
        make = getattr(transformers, auto_class).from_pretrained
        model = make(job["folder"], trust_remote_code=trust_remote_code, use_safetensors=True).eval()
        given = {
            name.removeprefix(f"{auto_class}/"): value
            for name, value in inputs.items()
            if name.startswith(f"{auto_class}/")
        }
        with torch.no_grad():
            logits[auto_class] = model(**given, return_dict=True)[job["outputs"][auto_class]].contiguous()
    if job["task"] is None:
        return Answers(logits, None)
    run: Any = transformers.pipeline(
        job["task"], model=job["folder"], trust_remote_code=trust_remote_code, device="cpu"
    )
    torch.manual_seed(0)
    replies = [run(_example(job["kind"], example), **job["pipeline_options"]) for example in job["examples"]]
    return Answers(logits, json.loads(json.dumps(replies, default=_plain)))


def _example(kind: str, value: Any) -> Any:
    """A text as it is, samples as an array, pixels as an image."""
    if kind == "audio":
        return np.array(value, dtype=np.float32)
    if kind == "image":
        from PIL import Image

        return Image.fromarray(np.array(value, dtype=np.uint8))
    return value


def _plain(value: Any) -> Any:
    """Arrays and images of a pipeline's answer as lists; numbers of NumPy as numbers."""
    return np.asarray(value).tolist()


def main(job_folder: Path) -> None:
    """Answer as a stranger, and write it down."""
    sys.meta_path.insert(0, Hiding())
    for package in HIDDEN:
        try:
            __import__(package)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{package} can be imported here, so nothing would be proved")
    found = answer(job_folder, trust_remote_code=True)
    save_file(found.logits, job_folder / "logits.safetensors")
    (job_folder / "answers.json").write_text(json.dumps(found.pipeline), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
