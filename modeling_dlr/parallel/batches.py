"""Split a batch over processes, steps by steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from modeling_dlr.configuration_base_dlr import IGNORED_CLASS
from modeling_dlr.layout_dlr import build_layout

# The axis of the steps in each argument; -1 is the last. Other arguments are not split.
_STEP_AXES = {"input_ids": -1, "inputs_embeds": -2, "input_values": 1, "pixel_values": 2}
_STEP_AXES |= dict.fromkeys(("attention_mask", "position_ids", "token_type_ids", "shift_labels"), -1)
_INPUTS = ("input_ids", "inputs_embeds", "input_values", "pixel_values")


def shard_batch(batch: Mapping[str, Any], mesh: DeviceMesh, keep: Sequence[str] = ()) -> dict[str, Any]:
    """This process's part of a batch, for a model that `context_parallel` made ready.

    Every process passes the same batch. Steps are split into contiguous parts, of which the first have one step more
    if the number of processes does not divide the length. Images are split into rows. Labels at every step are split,
    too, and shifted before for causal models (``shift_labels``); other labels stay whole.

    Args:
        batch: arguments of the model, by name.
        mesh: of one dimension, the one given to `context_parallel`.
        keep: names of arguments that stay whole, such as "labels" of several classes per sequence that happen to be as
            many as the steps.

    Returns:
        The arguments for this process.

    Raises:
        TypeError: if an argument that has steps is not a tensor.
        ValueError: if there is no input, a length differs, or there are fewer steps than processes.
    """
    if not isinstance(mesh, DeviceMesh) or mesh.ndim != 1:
        raise TypeError(f"mesh must be a DeviceMesh of one dimension, got {mesh}: pass the one of context_parallel.")
    name = next((name for name in _INPUTS if batch.get(name) is not None), None)
    if name is None:
        raise ValueError(f"A batch needs one of {', '.join(_INPUTS)}, got {', '.join(batch) or 'nothing'}.")
    axes = {key: _STEP_AXES[key] for key, value in batch.items() if key in _STEP_AXES and value is not None}
    for key in axes:
        if not isinstance(batch[key], Tensor):
            raise TypeError(f"{key} must be a tensor, got a {type(batch[key]).__name__}.")
    if name == "input_values" and batch[name].dim() == 4:  # several sequences for each example
        axes[name] = 2
    length, parts = batch[name].shape[axes[name]], mesh.size()
    if length < parts:
        raise ValueError(f"{name} has {length} steps for {parts} processes: each needs at least one.")
    whole, labels = dict(batch), batch.get("labels")
    if "labels" not in keep and isinstance(labels, Tensor) and labels.shape[1:2] == (length,) and length > 1:
        axes["labels"] = 1
        if labels.dim() == 2 and not labels.is_floating_point() and name in ("input_ids", "inputs_embeds"):
            axes["shift_labels"] = -1
            if whole.get("shift_labels") is None:
                whole["shift_labels"] = _shifted(labels, whole)
    wrong = {key: whole[key].shape[axis] for key, axis in axes.items() if whole[key].shape[axis] != length}
    if wrong:
        raise ValueError(f"{name} has {length} steps, but {wrong}: all must agree.")
    rank = mesh.get_local_rank()
    split = {key: whole[key].tensor_split(parts, axis)[rank] for key, axis in axes.items() if key not in keep}
    return whole | {key: value.contiguous() for key, value in split.items()}


def _shifted(labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """The label of the next step, [B, L]; ignored where that is in another document."""
    given = (batch.get(name) for name in ("attention_mask", "position_ids", "cu_seq_lens_q"))
    layout = build_layout(labels, *given, past=0, attends=False, carries_state=False)
    if layout.documents is not None:
        labels = labels.masked_fill(layout.documents.starts, IGNORED_CLASS)
    return functional.pad(labels, (0, 1), value=IGNORED_CLASS)[:, 1:]
