"""Where the steps of a batch stand: which count, how many came before them, and which document they belong to."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .checks_dlr import check_tensor, check_values, has_shape, values_are_cheap, warn_of_empty_documents


class Documents(NamedTuple):
    """Documents of similar length, each a run of steps of one row.

    Attributes:
        rows: [D, 1], the row of each document.
        steps: [D, l], its steps, the last one repeated up to the longest of the group.
        own: which of the D · l steps are no such repetitions, one after the other.
        counts: [D, l], True where a step is neither a repetition nor padding.
    """

    rows: Tensor
    steps: Tensor
    own: Tensor
    counts: Tensor


class Order(NamedTuple):
    """An order of the steps of every row: `take_steps` sorts by ``steps``, and back by ``places``.

    Attributes:
        steps: [B, L], the step at each place.
        places: [B, L], the place of each step.
    """

    steps: Tensor
    places: Tensor


class Layout(NamedTuple):
    """Where the steps of a batch stand.

    Attributes:
        past: P, steps before these that matter here: those that attention looks back upon. A state has no use for them.
        mask: [B, P + L], False where a step is padding; None counts every step.
        documents: groups that cover the row when several documents share it; None is one document per row.
        order: in which the steps that count come last; None if they lie together already.
        pads: whether these L steps may hold padding.
        in_blocks: whether these steps are one token that every recurrent layer decodes in the block it is in already.
    """

    past: int = 0
    mask: Tensor | None = None
    documents: list[Documents] | None = None
    order: Order | None = None
    pads: bool = True
    in_blocks: bool = False

    @property
    def here(self) -> Tensor | None:
        """The mask of these steps alone, [B, L]; None if all of them count."""
        return self.mask[:, self.past :] if self.mask is not None and self.pads else None

    def positions(self, length: int, device: torch.device) -> Tensor:
        """Steps that count before each one, [B or 1, P + L]; ``length`` is L. Padding moves no position."""
        if self.mask is None:
            return torch.arange(self.past + length, device=device).unsqueeze(0)
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)


ONE_DOCUMENT_PER_ROW = Layout()


class Reading(NamedTuple):
    """How a model reads its inputs, once they have been found to fit.

    Attributes:
        batch_size: B.
        length: L.
        layout: where the steps stand.
        streams: whether a state goes on from here, so that later steps may follow.
    """

    batch_size: int
    length: int
    layout: Layout
    streams: bool


def build_layout(
    inputs: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seq_lens: Tensor | None,
    past: int,
    attends: bool,
) -> Layout:
    """The layout that a model's arguments describe. Explicit boundaries of documents win over the mask.

    Args:
        inputs: [B, L, ...].
        attention_mask: [B, P + L], 0 for padding; [B, L] will do for a model without attention layers.
        position_ids: [B, L] or [1, L]; where they restart, a document begins.
        cu_seq_lens: [D + 1], where the documents of a single row begin, and its end.
        past: P, steps that a cache has seen.
        attends: whether the model has attention layers, which look back upon padding, too.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for shapes or boundaries that do not fit.
    """
    batch_size, length = inputs.shape[:2]
    mask = None if attention_mask is None else _checked_mask(attention_mask, batch_size, length, past, attends)
    if mask is not None and cu_seq_lens is not None:
        mask = functional.pad(mask[:, :past], (0, length), value=True) if attends and past else None
    here = None if mask is None else _where_it_matters(mask[:, mask.shape[1] - length :])
    documents = find_documents(inputs, here, position_ids, cu_seq_lens)
    if documents is not None:
        return Layout(0, here, documents)
    order = None if here is None or _together(here) else sort_steps(~here)
    return Layout(past, mask, None, order, here is not None) if attends else Layout(0, here, order=order)


def without_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros in x [B, L, ...] where ``mask`` [B, L] says padding, whatever stands there; None counts every step."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)


def _where_it_matters(mask: Tensor) -> Tensor | None:
    """The mask, or None if it counts every step, as far as that can be seen without waiting for a device."""
    return None if values_are_cheap(mask) and bool(mask.all()) else mask


def _together(mask: Tensor) -> bool:
    """Whether the steps that count are one run in every row, as those of padded texts are.

    An accelerator is not waited for, nor is a mask looked at that a traced model has yet to see.
    """
    if not values_are_cheap(mask):
        return False
    begins = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    return bool((begins <= 1).all())


def find_documents(
    inputs: Tensor, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None
) -> list[Documents] | None:
    """The documents that boundaries or restarting positions mark, or None if every row is one; see `build_layout`."""
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
        torch._assert_async(
            ~starts.any(), "position_ids restart: a compiled model is told of documents by cu_seq_lens_q"
        )
        return None
    return None if length <= 1 else split_documents(starts, mask)


def _checked_mask(attention_mask: Tensor, batch_size: int, length: int, past: int, attends: bool) -> Tensor | None:
    """The mask as truths, or None if it counts every step."""
    check_tensor("attention_mask", attention_mask, "ask the tokenizer or processor for return_tensors='pt'")
    shapes = [(batch_size, past + length)] if attends else [(batch_size, past + length), (batch_size, length)]
    if not has_shape(attention_mask, *shapes):
        raise ValueError(
            f"attention_mask must have the shape {list(shapes[0])} of the batch and of the steps so far, got "
            f"{list(attention_mask.shape)}: one number per step, 0 for padding."
        )
    if not attends:
        # States have no use for the steps before.
        attention_mask = attention_mask[:, attention_mask.shape[1] - length :]
    if attention_mask.dtype != torch.bool:
        check_values(
            attention_mask,
            lambda values: (values == 0) | (values == 1),
            "attention_mask must be 1 at steps that count and 0 at padding",
            "pass attention_mask == 0 where yours is additive (0 and -inf), or the one that the tokenizer returned",
        )
    return _where_it_matters(attention_mask.bool())


def apart(x: Tensor, documents: list[Documents], function: Callable[[Tensor, Layout], Tensor]) -> Tensor:
    """Apply a function of whole sequences to each document as if it were alone.

    Args:
        x: [B, L, ...].
        documents: from `split_documents`.
        function: (x [D, l, ...], layout) to [D, l, ...], where the steps that its layout masks do not count.

    Returns:
        [B, L, ...] of what ``function`` returns.
    """
    pieces, places = [], []
    for rows, steps, own, counts in documents:
        order = None if _together(counts) else sort_steps(~counts)
        pieces.append(function(x[rows, steps], Layout(mask=counts, order=order)).flatten(0, 1)[own])
        places.append((rows * x.shape[1] + steps).flatten()[own])
    return torch.cat(pieces)[torch.cat(places).argsort()].unflatten(0, x.shape[:2])


def split_documents(
    starts: Tensor, mask: Tensor | None = None, device: torch.device | None = None
) -> list[Documents] | None:
    """Group the documents of a batch by length, so that padding them to one length at most doubles the work.

    How many there are decides shapes, so an accelerator is waited for here, once; the rest is counted on the CPU.

    Args:
        starts: [B, L] bool, True at the first step of a document; the first step of a row is one in any case.
        mask: [B, L] bool, False where a step is padding; None counts every step.
        device: of the input; None is that of ``starts``.

    Returns:
        The groups, or None if every row is one document.
    """
    device = starts.device if device is None else device
    starts = starts.to("cpu", copy=True)
    starts[:, :1] = True
    rows, first = starts.nonzero(as_tuple=True)
    if len(rows) <= len(starts):
        return None
    flat = rows * starts.shape[1] + first
    lengths = torch.diff(flat, append=flat.new_tensor([starts.numel()]))
    groups = []
    # The bit length of l - 1: documents of 5 … 8 steps go together. The longest first: its kernel begins like theirs.
    sizes = (lengths - 1).float().clamp(min=0.5).log2().floor()
    for size in sizes.unique().flip(0).tolist():
        chosen = sizes == size
        length = lengths[chosen].unsqueeze(1)
        offsets = torch.arange(int(length.max())).unsqueeze(0)
        steps = first[chosen].unsqueeze(1) + torch.minimum(offsets, length - 1)
        counts = offsets < length
        own = counts.flatten().nonzero().squeeze(1)
        found = (rows[chosen].unsqueeze(1), steps, own, counts)
        rows_there, steps, own, counts = (part.to(device, non_blocking=True) for part in found)
        counts = counts if mask is None else counts & mask[rows_there, steps]
        groups.append(Documents(rows_there, steps, own, counts))
    return groups


def first_steps(documents: list[Documents], like: Tensor) -> Tensor:
    """True where a document begins, [B, L] as ``like``."""
    first = torch.zeros_like(like, dtype=torch.bool)
    for rows, steps, _, _ in documents:
        first[rows[:, 0], steps[:, 0]] = True
    return first


def _starts_from_positions(position_ids: Tensor, mask: Tensor | None) -> Tensor:
    """True where positions do not go on by one, [B, L]; nowhere in a row where only those of padding do not.

    Where several documents share a row that is padded, the padding is a document of its own.
    """
    breaks = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if mask is not None:
        shared = (breaks & mask[:, 1:] & mask[:, :-1]).any(dim=1, keepdim=True)
        breaks = shared & (breaks | (mask[:, 1:] != mask[:, :-1]))
    return functional.pad(breaks, (1, 0))


def _starts_from_boundaries(cu_seq_lens: Tensor, length: int) -> Tensor:
    """The first steps [1, L] of documents that end where `cu_seq_lens` [D + 1] says: 0, l_1, l_1 + l_2, …, L.

    Raises:
        TypeError: for boundaries that are no tensor.
        ValueError: unless they are integers that rise from 0 to ``length``; an empty document has no step to begin at.
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
    """In each row of x [B, ...] its own ``steps`` [B or 1, L] along ``dim``, as a copy."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x.transpose(1, dim)[rows, steps].transpose(1, dim)


def sort_steps(first: Tensor) -> Order:
    """The order in which the steps of ``first`` [B, L] come before the others of their row, and all else stays.

    A sort of bits takes two sums; what torch calls a stable sort cannot be exported to ONNX.
    """
    places = torch.where(first, first.cumsum(1), first.sum(1, keepdim=True) + (~first).cumsum(1)) - 1
    steps = torch.arange(first.shape[1], device=first.device).expand_as(places)
    return Order(torch.zeros_like(places).scatter(1, places, steps), places)
