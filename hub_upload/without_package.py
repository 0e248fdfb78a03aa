"""Use a folder as someone without this package: load it with its Auto classes, compute logits, run its pipeline.

`verify.py` runs this file as a script in a confined process that cannot import the package. It also calls `outputs_of`
in its own process, which runs no code of the folder:

    python without_package.py JOB

JOB is a folder with job.json and inputs.safetensors; the script writes logits.safetensors and pipeline.json into it.
This file imports only libraries that every user has.
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


class Outputs(NamedTuple):
    """The first output of every Auto class, by class name, and the outputs of the pipeline, if there is one."""

    logits: dict[str, torch.Tensor]
    pipeline: Any


class HiddenPackages(importlib.abc.MetaPathFinder):
    """Make packages impossible to import, however they are installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Refuse hidden packages; leave others to the next finders."""
        if fullname.split(".", maxsplit=1)[0] in HIDDEN:
            raise ModuleNotFoundError(f"{fullname} is hidden, as on a machine without it", name=fullname)


def outputs_of(job_folder: Path, *, trust_remote_code: bool) -> Outputs:
    """Load the folder with every class that job.json lists, and compute its outputs for the inputs."""
    job = json.loads((job_folder / "job.json").read_text(encoding="utf-8"))
    inputs = load_file(job_folder / "inputs.safetensors")
    torch.set_num_threads(job["threads"])
    logits = {}
    for auto_class in job["auto_classes"]:
        torch.manual_seed(0)  # the head is initialised at random if another one was saved
        load = getattr(transformers, auto_class).from_pretrained
        model = load(job["folder"], trust_remote_code=trust_remote_code, use_safetensors=True).eval()
        own_inputs = {
            name.removeprefix(f"{auto_class}/"): value
            for name, value in inputs.items()
            if name.startswith(f"{auto_class}/")
        }
        with torch.no_grad():
            logits[auto_class] = model(**own_inputs, return_dict=True)[job["outputs"][auto_class]].contiguous()
    if job["task"] is None:
        return Outputs(logits, None)
    run: Any = transformers.pipeline(
        job["task"], model=job["folder"], trust_remote_code=trust_remote_code, device="cpu"
    )
    torch.manual_seed(0)
    results = [run(_example(job["kind"], example), **job["pipeline_options"]) for example in job["examples"]]
    return Outputs(logits, json.loads(json.dumps(results, default=_plain)))


def _example(kind: str, value: Any) -> Any:
    """Convert an example: a text does not change, samples become an array, pixels an image."""
    if kind == "audio":
        return np.array(value, dtype=np.float32)
    if kind == "image":
        from PIL import Image

        return Image.fromarray(np.array(value, dtype=np.uint8))
    return value


def _plain(value: Any) -> Any:
    """Convert an output of a pipeline to plain values: arrays and images to lists, NumPy numbers to numbers."""
    return np.asarray(value).tolist()


def main(job_folder: Path) -> None:
    """Compute the outputs without the package, and write them."""
    sys.meta_path.insert(0, HiddenPackages())
    for package in HIDDEN:
        try:
            __import__(package)
        except ModuleNotFoundError:
            continue
        raise SystemExit(f"{package} can be imported here, so the check would prove nothing")
    outputs = outputs_of(job_folder, trust_remote_code=True)
    save_file(outputs.logits, job_folder / "logits.safetensors")
    (job_folder / "pipeline.json").write_text(json.dumps(outputs.pipeline), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
