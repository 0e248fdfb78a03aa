"""Optimizer groups: kernel parameters get their own learning rates and no weight decay.

    trainer = Trainer(model, args, ..., optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3))

A plain `Trainer` works too, but then projections and poles share one learning rate, and weight decay pulls every pole
towards Λ = 1, which has no damping.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging

from modeling_dlr.launch import check_processes
from modeling_dlr.resuming import newest_of_all

from .kernel_parameters_dlr import refuse_unknown_names

logger = logging.get_logger(__name__)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    state_learning_rate: float | Mapping[str, float] | None = None,
    *,
    decay_vectors: bool = False,
) -> list[dict[str, Any]]:
    """Build the parameter groups of an optimizer, always in the same order.

    Weight decay applies to the weights of projections and embeddings, not to biases, norms and the skip D, and never to
    kernel parameters. Each kind of kernel parameter (for DLR: ``decay_root``, ``angle``, ``weights``) is one group.

    Args:
        model: a DLR model, or any model that contains one (PEFT, DistributedDataParallel, ...).
        learning_rate: learning rate of all other parameters.
        weight_decay: weight decay of the weights of projections and embeddings.
        state_learning_rate: learning rate of the kernel parameters: one rate, or one per kind (missing kinds use
            ``learning_rate``), or None for ``learning_rate``.
        decay_vectors: whether to apply weight decay to biases, norms and D, too, as in both papers.

    Returns:
        A list of groups with the keys ``name``, ``params``, ``lr`` and ``weight_decay``; empty groups are left out.

    Raises:
        ValueError: if ``state_learning_rate`` names a kind that the model does not have, or a rate is negative.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    kinds = sorted({name.split(".")[-1] for name, _ in named if _is_kernel(name)})
    if isinstance(state_learning_rate, Mapping):
        refuse_unknown_names("state_learning_rate", state_learning_rate, kinds)
        rates = {kind: state_learning_rate.get(kind, learning_rate) for kind in kinds}
    else:
        rates = dict.fromkeys(kinds, learning_rate if state_learning_rate is None else state_learning_rate)
    for what, value in {"learning_rate": learning_rate, "weight_decay": weight_decay, **rates}.items():
        if not value >= 0:
            raise ValueError(f"{what} must be >= 0, got {value}.")

    def group(name: str, lr: float, decay: float) -> dict[str, Any]:
        members = [parameter for key, parameter in named if _group_of(key, parameter) == name]
        return {"name": name, "params": members, "lr": lr, "weight_decay": decay}

    groups = [
        group("decayed", learning_rate, weight_decay),
        group("undecayed", learning_rate, weight_decay if decay_vectors else 0.0),
    ]
    groups += [group(f"kernel.{kind}", rate, 0.0) for kind, rate in rates.items()]
    return [group for group in groups if group["params"]]


def _is_kernel(name: str) -> bool:
    return "kernel" in name.split(".")[:-1]


def _group_of(name: str, parameter: nn.Parameter) -> str:
    kind = name.rsplit(".", 1)[-1]
    if _is_kernel(name):
        return f"kernel.{kind}"
    return "decayed" if kind not in ("bias", "D") and parameter.dim() > 1 else "undecayed"


class AdamWFactory:
    """A factory that the Trainer instantiates and then calls with the model to get its optimizer."""

    def __call__(self, model: nn.Module, *, groups: dict[str, Any], adamw: dict[str, Any]) -> torch.optim.AdamW:
        """Build AdamW over ``parameter_groups(model, **groups)``."""
        return torch.optim.AdamW(parameter_groups(model, **groups), **adamw)


def optimizer_for_trainer(
    args: TrainingArguments,
    state_learning_rate: float | Mapping[str, float] | None = None,
    *,
    decay_vectors: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Build the ``optimizer_cls_and_kwargs`` of a stock Trainer: AdamW with the values of ``args``.

    Args:
        args: gives learning_rate, weight_decay, adam_beta1, adam_beta2 and adam_epsilon; its optim must be
            "adamw_torch" or "adamw_torch_fused".
        state_learning_rate: as in `parameter_groups`. The scheduler scales it like all other learning rates.
        decay_vectors: as in `parameter_groups`.

    Raises:
        ValueError: if ``args.optim`` names another optimizer.
    """
    if args.optim not in ("adamw_torch", "adamw_torch_fused"):
        raise ValueError(
            f"optimizer_for_trainer builds AdamW, got optim={str(args.optim)!r}: use 'adamw_torch' or "
            "'adamw_torch_fused', or pass parameter_groups(model, ...) to your own optimizer."
        )
    groups = {
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "state_learning_rate": state_learning_rate,
        "decay_vectors": decay_vectors,
    }
    adamw: dict[str, Any] = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    # None, as in the Trainer, lets torch take all parameters of a group at once on accelerators; False would not.
    adamw["fused"] = True if args.optim == "adamw_torch_fused" else None
    return AdamWFactory, {"groups": groups, "adamw": adamw}


def newest_checkpoint(args: TrainingArguments) -> str | None:
    """Find where a killed run of the stock Trainer goes on: its newest complete checkpoint, or None to begin.

    Pass it to ``trainer.train(resume_from_checkpoint=...)``, in every process. A process that is killed while it writes
    leaves an incomplete checkpoint, which is named in a warning and left out; so is one that other processes do
    not see whole. All processes need the same folder ``args.output_dir``.

    Raises:
        ValueError: if several processes were launched that do not know one another.
    """
    check_processes(args)
    newest, broken = newest_of_all(Path(str(args.output_dir)), args.world_size, only_model=args.save_only_model)
    if broken and args.process_index == 0:
        named = "; ".join(f"{path.name} is incomplete, {problem}" for path, problem in broken.items())
        logger.warning(f"Going on from {'step 0' if newest is None else newest.name}: {named}.")
    return None if newest is None else str(newest)
