"""How the memory of a model divides among processes: by batches, by parameters, and by steps.

>>> from modeling_dlr import DLRConfig
>>> from modeling_dlr.memory import Pass
>>> config = DLRConfig(hidden_size=64, num_hidden_layers=4, vocab_size=16)
>>> alone, batches, shards, steps = plans(config, Pass(batch=8, length=16384), devices=4)[:4]
>>> alone.parameters == batches.parameters == 4 * shards.parameters
True
>>> steps.activations < alone.activations / 3
True
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import modeling_dlr
from modeling_dlr.configuration_dlr import DLRConfig
from modeling_dlr.kernels_dlr import Kernel
from modeling_dlr.memory import BYTES, Head, Pass, activations
from modeling_dlr.presets import preset_folder, preset_names

# Two numbers of AdamW for every parameter.
ADAMW = 2


@dataclass(frozen=True)
class Plan:
    """What one process needs, in bytes.

    Attributes:
        way: how the work is divided.
        work: what this process computes at once.
        parameters: of this process.
        gradients: of them; 0 without training.
        optimizer: the state of AdamW.
        gathered: what is gathered from other processes, or sent to them, at a time.
        activations: at their most.
        moment: when that is.
    """

    way: str
    work: Pass
    parameters: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    moment: str

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.gathered + self.activations


def plans(config: DLRConfig, work: Pass, devices: int = 1) -> list[Plan]:
    """What a process needs, for every way to divide the work, the simplest first.

    Args:
        config: of the model.
        work: all that is computed at once.
        devices: how many processes share it.

    Returns:
        In one process; and with more than one, by batches (DDP), with parameters in shards, by steps (context
        parallelism), and by steps with parameters in shards. Each without and with checkpointing, while training.

    Raises:
        ValueError: for a head that the model cannot have.
    """
    whole, largest = parameter_bytes(config, work)
    found = []
    for checkpointing in [False, True] if work.training else [False]:
        for way, each, sharded in _ways(replace(work, checkpointing=checkpointing), devices):
            share = devices if sharded else 1
            copies = 1 if work.training else 0
            # DDP copies gradients into buckets; FSDP gathers a unit and the next one, and the gradients of one.
            gathered = (2 + copies) * largest if sharded else whole * copies if way == "batches" else 0
            needed = activations(config, each)
            kept = whole / share
            of_training = copies * kept, ADAMW * copies * kept
            found.append(Plan(way, each, kept, *of_training, gathered, needed.peak, needed.moment))
    return found


def _ways(work: Pass, devices: int) -> Iterator[tuple[str, Pass, bool]]:
    yield "one process", work, False
    if devices > 1:
        few = replace(work, batch=-(-work.batch // devices))
        yield "batches", few, False
        yield "batches, parameters in shards", few, True
        yield "steps", replace(work, parts=devices), False
        yield "steps, parameters in shards", replace(work, parts=devices), True


def fitting(found: list[Plan], limit: float) -> Plan | None:
    """The first plan that needs at most ``limit`` bytes: several processes before checkpointing, which takes time."""
    of_several = [plan for plan in found if plan.way != "one process"] or found
    return next((plan for plan in of_several if plan.total <= limit), None)


def parameter_bytes(config: DLRConfig, work: Pass) -> tuple[int, int]:
    """Bytes of all parameters, and of the largest part that `modeling_dlr.parallel.shard` gathers at a time.

    Raises:
        ValueError: for a head that the model cannot have.
    """
    with torch.device("meta"):
        model = model_class(config, work.head)(config)
    kernels = {name for name, module in model.named_modules() if isinstance(module, Kernel)}
    units: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        of_kernel = next((kernel for kernel in kernels if name.startswith(f"{kernel}.")), None)
        block = ".".join(name.split(".")[:3]) if ".layers." in name else "root"
        size = parameter.numel() * (work.wide if of_kernel else BYTES[work.dtype])
        units[of_kernel or block] = units.get(of_kernel or block, 0) + size
    return sum(units.values()), max(units.values())


def model_class(config: DLRConfig, head: Head) -> Any:
    """The class of this library with such a head.

    Raises:
        ValueError: for a language model of real values.
    """
    if head == "language":
        if config.vocab_size is None:
            raise ValueError(f"A language model reads tokens, but input_size={config.input_size}: choose another head.")
        return modeling_dlr.DLRForMaskedLM if config.bidirectional else modeling_dlr.DLRForCausalLM
    names = {
        ("steps", True): "DLRForTokenClassification", ("steps", False): "DLRForAudioFrameClassification",
        ("pooled", True): "DLRForSequenceClassification", ("pooled", False): "DLRForAudioClassification",
    }  # fmt: skip
    return getattr(modeling_dlr, names[head, config.vocab_size is not None])


def usual_head(config: DLRConfig) -> Head:
    """The head that a configuration names, or else the one that most models of its kind have."""
    named = " ".join(config.architectures or [])
    if "LM" in named or (not named and config.vocab_size is not None):
        return "language"
    return "steps" if "Token" in named or "Frame" in named else "pooled"


def find_config(name: str) -> DLRConfig:
    """The configuration of a named model, a folder, or a JSON file.

    Raises:
        ValueError: for what is none of them, and for one of another model.
    """
    path = preset_folder("models", name) if name in preset_names("models") else Path(name)
    if not path.exists():
        raise ValueError(
            f"There is no model, folder or file {name!r}: give one of {preset_names('models')}, or a path."
        )
    try:
        kind = transformers.PretrainedConfig.get_config_dict(path)[0].get("model_type", "dlr")
        if kind != "dlr":
            raise ValueError(f"{name} is a model of type {kind!r}: only those of type 'dlr' are planned.")
        return DLRConfig.from_pretrained(path)
    except OSError as error:
        raise ValueError(f"{name} has no configuration that can be read: {' '.join(str(error).split())}") from None
