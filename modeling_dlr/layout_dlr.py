"""The layout of a batch: which steps are padding, how many steps came before, and where documents begin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import auto_docstring

from .checks_dlr import check_tensor, check_values, has_shape, values_are_cheap, warn_of_empty_documents


class Order(NamedTuple):
    """An order of the steps of every row: `take_steps` sorts by ``steps``, and back by ``places``.

    Attributes:
        steps: [B, L], the step at each place.
        places: [B, L], the place of each step.
    """

    steps: Tensor
    places: Tensor


class Layout(NamedTuple):
    """The layout of the current steps of a batch. A model builds it once, and every layer reads it.

    Attributes:
        past: P, the number of earlier steps that attention layers read. A state does not need it.
        mask: [B, P + L], False where a step is padding; None if no step is padding.
        current_mask: [B, L], the mask of the current steps alone; None if none of them is padding.
        order: puts padding before all other steps; None if the layers can compute the steps as they are.
        documents: of rows that hold several documents; None if every row is one document.
        in_block: whether the current steps are one token, which every recurrent layer decodes in its present block.
    """

    past: int = 0
    mask: Tensor | None = None
    current_mask: Tensor | None = None
    order: Order | None = None
    documents: "Documents | None" = None
    in_block: bool = False

    def positions(self, length: int, device: torch.device) -> Tensor:
        """The number of steps before each step, without padding: [B or 1, P + L], where L is ``length``."""
        if self.mask is None:
            return torch.arange(self.past + length, device=device).unsqueeze(0)
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)


class DocumentGroup(NamedTuple):
    """Documents of similar length, padded to the longest of them by repeating their last steps.

    Attributes:
        rows: [D, 1], the row of each document.
        steps: [D, l], the steps of each document.
        real: indices of the D · l steps that are not repetitions.
        layout: of the documents as a batch [D, l] of its own, where repetitions are padding.
    """

    rows: Tensor
    steps: Tensor
    real: Tensor
    layout: Layout


class Documents(NamedTuple):
    """The documents of a batch whose rows hold several, grouped by length.

    Attributes:
        groups: which together hold every step once.
        places: [B · L], the place of each step when the real steps of all groups are concatenated.
        starts: [B, L], True at the first step of each document.
    """

    groups: list[DocumentGroup]
    places: Tensor
    starts: Tensor


ONE_DOCUMENT_PER_ROW = Layout()


OUTPUT_ARGS = r"""
attention_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
    False where a step is padding; None if no step is. Heads read it.
document_starts (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
    True at the first step of each document; None if every row is one document. Heads read it.
"""


@auto_docstring(
    custom_intro="The output of transformers that has this name without its first word, and the layout of the batch.",
    custom_args=OUTPUT_ARGS,
)
@dataclass
class BackboneOutput(BaseModelOutputWithPast):
    attention_mask: Tensor | None = None
    document_starts: Tensor | None = None


def build_layout(
    inputs: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seq_lens: Tensor | None,
    past: int,
    attends: bool,
    carries_state: bool,
) -> Layout:
    """Build the layout that a model's arguments describe. ``cu_seq_lens`` overrides the mask.

    Args:
        inputs: [B, L, ...].
        attention_mask: [B, P + L], 0 at padding; a model without attention layers also accepts [B, L].
        position_ids: [B, L] or [1, L]; a document begins where they restart.
        cu_seq_lens: [D + 1], the first steps of the documents of a single row, and its end.
        past: P, the number of steps that the cache has seen.
        attends: whether the model has attention layers, which need the mask of earlier steps.
        carries_state: whether the state after the last step is needed; then padding has to come first.

    Raises:
        TypeError: if an argument is not a tensor.
        ValueError: if a shape or a boundary does not fit.
    """
    batch_size, length = inputs.shape[:2]
    mask = None if attention_mask is None else _checked_mask(attention_mask, batch_size, length, past, attends)
    if mask is not None and cu_seq_lens is not None:
        mask = functional.pad(mask[:, : mask.shape[1] - length], (0, length), value=True)
    current = None if mask is None else _none_if_all(mask[:, mask.shape[1] - length :])
    if position_ids is not None or cu_seq_lens is not None:
        documents = _find_documents(inputs, current, position_ids, cu_seq_lens)
        if documents is not None:
            return Layout(current_mask=current, documents=documents)
    order = None if current is None or (not carries_state and _lie_together(current)) else sort_steps(~current)
    if not attends or mask is None or not past:
        return Layout(past if attends else 0, current, current, order)
    return Layout(past, _none_if_all(mask), current, order)


def without_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Replace padding in x [B, L, ...], even NaN, by zeros; ``mask`` [B, L] is False at padding."""
    return x.masked_fill(~mask.unsqueeze(-1), 0)


def _none_if_all(mask: Tensor) -> Tensor | None:
    """The mask, or None if it is True everywhere. On accelerators it is not looked at, which would synchronize."""
    return None if values_are_cheap(mask) and bool(mask.all()) else mask


def _lie_together(mask: Tensor) -> bool:
    """Whether padding is only at the beginning and the end of every row.

    False on accelerators, where looking would synchronize, and while tracing.
    """
    if not values_are_cheap(mask):
        return False
    begins = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    return bool((begins <= 1).all())


def _find_documents(
    inputs: Tensor, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None
) -> Documents | None:
    """Find the documents by their boundaries or by restarting positions; None if every row is one document."""
    batch_size, length = inputs.shape[:2]
    if cu_seq_lens is not None:
        if batch_size != 1:
            raise ValueError(f"cu_seq_lens_q describes one row of documents, got {batch_size} rows: join them in one.")
        return split_documents(_starts_from_boundaries(cu_seq_lens, length), device=inputs.device)
    if position_ids is None:
        return None
    check_tensor("position_ids", position_ids, "make a torch.tensor of it")
    if not has_shape(position_ids, (batch_size, length), (1, length)):
        raise ValueError(
            f"position_ids must have the shape {[batch_size, length]} of the input, got {list(position_ids.shape)}."
        )
    starts = _starts_from_positions(position_ids.expand(batch_size, -1), mask)
    if torch.compiler.is_compiling():
        torch._assert_async(~starts.any(), "position_ids restart: pass cu_seq_lens_q to a compiled model instead")
        return None
    return None if length <= 1 else split_documents(starts, mask)


def _checked_mask(attention_mask: Tensor, batch_size: int, length: int, past: int, attends: bool) -> Tensor:
    """The mask as booleans, [B, P + L], or [B, L] for a model without attention layers."""
    check_tensor("attention_mask", attention_mask, "ask the tokenizer or processor for return_tensors='pt'")
    shapes = [(batch_size, past + length)] if attends else [(batch_size, past + length), (batch_size, length)]
    if not has_shape(attention_mask, *shapes):
        raise ValueError(
            f"attention_mask must have the shape {list(shapes[0])} of the batch and of the steps so far, got "
            f"{list(attention_mask.shape)}: one number per step, 0 for padding."
        )
    if not attends:
        attention_mask = attention_mask[:, attention_mask.shape[1] - length :]
    if attention_mask.dtype != torch.bool:
        check_values(
            attention_mask,
            lambda values: (values == 0) | (values == 1),
            "attention_mask must be 1 at steps that count and 0 at padding",
            "pass attention_mask == 0 where yours is additive (0 and -inf), or the one that the tokenizer returned",
        )
    return attention_mask.bool()


def per_document(x: Tensor, documents: Documents, function: Callable[[Tensor, Layout], Tensor]) -> Tensor:
    """Apply a function of whole sequences to each document by itself.

    Args:
        x: [B, L, ...].
        documents: of the batch.
        function: (x [D, l, ...], layout) to [D, l, ...]; called once for each group.

    Returns:
        [B, L, ...] of what ``function`` returns.
    """
    outputs = [function(x[rows, steps], layout).flatten(0, 1)[real] for rows, steps, real, layout in documents.groups]
    return torch.cat(outputs)[documents.places].unflatten(0, x.shape[:2])


def split_documents(starts: Tensor, mask: Tensor | None = None, device: torch.device | None = None) -> Documents | None:
    """Group the documents of a batch by length, so that padding at most doubles the work.

    The number of documents decides shapes, so this synchronizes with an accelerator once, and counts on the CPU.

    Args:
        starts: [B, L] bool, True at the first step of a document; the first step of a row always is one.
        mask: [B, L] bool, False where a step is padding; None if no step is.
        device: of the input; None is that of ``starts``.

    Returns:
        The documents, or None if every row is one document.
    """
    device = starts.device if device is None else device
    starts = starts.to("cpu", copy=True)
    starts[:, :1] = True
    rows, first = starts.nonzero(as_tuple=True)
    if len(rows) <= len(starts):
        return None
    lengths = torch.diff(rows * starts.shape[1] + first, append=rows.new_tensor([starts.numel()]))
    groups, indices = [], []
    # The bit length of l - 1: documents of 5 … 8 steps go together. The longest first: its kernel begins like theirs.
    sizes = (lengths - 1).float().clamp(min=0.5).log2().floor()
    for size in sizes.unique().flip(0).tolist():
        chosen = sizes == size
        steps, real = _padded_steps(first[chosen], lengths[chosen])
        indices.append((rows[chosen].unsqueeze(1) * starts.shape[1] + steps)[real])
        group = (rows[chosen].unsqueeze(1), steps, real.flatten().nonzero().squeeze(1), real)
        group_rows, steps, real_indices, real = (part.to(device, non_blocking=True) for part in group)
        current = real if mask is None else real & mask[group_rows, steps]
        order = None if _lie_together(current) else sort_steps(~current)
        groups.append(DocumentGroup(group_rows, steps, real_indices, Layout(0, current, current, order)))
    places = torch.cat(indices).argsort().to(device, non_blocking=True)
    return Documents(groups, places, starts.to(device, non_blocking=True))


def _padded_steps(first: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The steps [D, l] of documents from their first steps and lengths [D], and which of them are not repetitions."""
    lengths = lengths.unsqueeze(1)
    offsets = torch.arange(int(lengths.max())).unsqueeze(0)
    return first.unsqueeze(1) + torch.minimum(offsets, lengths - 1), offsets < lengths


def _starts_from_positions(position_ids: Tensor, mask: Tensor | None) -> Tensor:
    """True where a position is not the one before plus 1, [B, L].

    A row in which only positions of padding break off holds one document. In other rows padding is a document too.
    """
    breaks = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if mask is not None:
        shared = (breaks & mask[:, 1:] & mask[:, :-1]).any(dim=1, keepdim=True)
        breaks = shared & (breaks | (mask[:, 1:] != mask[:, :-1]))
    return functional.pad(breaks, (1, 0))


def _starts_from_boundaries(cu_seq_lens: Tensor, length: int) -> Tensor:
    """True at the first step of each document, [1, L], by their boundaries ``cu_seq_lens`` [D + 1]: 0, l_1, …, L.

    Raises:
        TypeError: if the boundaries are not a tensor.
        ValueError: unless they are integers that rise from 0 to ``length``.
    """
    check_tensor("cu_seq_lens_q", cu_seq_lens, "make a torch.tensor of it")
    if cu_seq_lens.is_floating_point():
        raise ValueError(f"cu_seq_lens_q must be integers, got {cu_seq_lens.dtype}: count steps, not shares of them.")
    bounds = cu_seq_lens.long().cpu()
    if bounds.dim() != 1 or len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != length or (bounds.diff() < 0).any():
        raise ValueError(
            f"cu_seq_lens_q must rise from 0 to the {length} steps of the row, got {bounds.tolist()}: begin with 0, "
            "and end with the number of steps."
        )
    empty = bounds.diff() == 0
    if bool(empty.any()):
        warn_of_empty_documents()
    starts = torch.zeros(1, length, dtype=torch.bool)
    starts[0, bounds[:-1][~empty]] = True
    return starts


def take_steps(x: Tensor, steps: Tensor, dim: int = 1) -> Tensor:
    """Take from each row of x [B, ...] its own ``steps`` [B or 1, L] along ``dim``, as a copy."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x.transpose(1, dim)[rows, steps].transpose(1, dim)


def sort_steps(first: Tensor) -> Order:
    """The stable order in which the steps where ``first`` [B, L] is True come before the others of their row.

    Computed by cumulative sums, because a stable sort of torch cannot be exported to ONNX.
    """
    places = torch.where(first, first.cumsum(1), first.sum(1, keepdim=True) + (~first).cumsum(1)) - 1
    steps = torch.arange(first.shape[1], device=first.device).expand_as(places)
    return Order(torch.zeros_like(places).scatter(1, places, steps), places)
