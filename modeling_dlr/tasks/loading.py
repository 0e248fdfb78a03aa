"""`load_task`: the rows of a task as a data set of 🤗 Datasets, cached or streamed."""

import difflib
import itertools
import math
import multiprocessing
import os
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher

from .atomic import (
    MIPS,
    ContextShift,
    CumMax,
    CumSum,
    MaskedSelect,
    MaskedSelectFixed,
    Reverse,
    Shift,
    Solve,
    SolveFixed,
    Sort,
)
from .listops import ListOps, ListOpsSubTrees
from .pathfinder import Pathfinder, PathfinderSegmentation
from .seeds import SPLITS, Split
from .task import Task

TaskName = Literal[
    "shift",
    "cumsum",
    "cummax",
    "reverse",
    "sort",
    "masked_select_fixed",
    "masked_select",
    "solve_fixed",
    "solve",
    "context_shift",
    "mips",
    "listops_subtrees",
    "pathfinder_segmentation",
    "listops",
    "pathfinder",
]
TASKS: dict[TaskName, type[Task]] = {
    "shift": Shift,
    "cumsum": CumSum,
    "cummax": CumMax,
    "reverse": Reverse,
    "sort": Sort,
    "masked_select_fixed": MaskedSelectFixed,
    "masked_select": MaskedSelect,
    "solve_fixed": SolveFixed,
    "solve": Solve,
    "context_shift": ContextShift,
    "mips": MIPS,
    "listops_subtrees": ListOpsSubTrees,
    "pathfinder_segmentation": PathfinderSegmentation,
    "listops": ListOps,
    "pathfinder": Pathfinder,
}

# Goes into the fingerprint of what is cached: a new number whenever a task draws other rows than before.
_EDITION = 1
# Parts of a stream: as many workers or processes can share it.
_SHARDS = 64
# What the writer of 🤗 Datasets holds, and then turns into three times as much, before it is written: rows, and bytes.
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 2**26
# Rows drawn again before it is said that there are no others.
_MAX_DRAWS = 1000


def load_task(
    name: TaskName,
    *,
    split: Split,
    num_examples: int,
    seed: int = 0,
    streaming: bool = False,
    num_proc: int = 1,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.IterableDataset:
    """A task's examples as torch tensors: ``input_values`` or ``input_ids``, and ``labels`` (ignored: NaN or -100).

    Example i depends on the seed, the split and i alone, so more examples or other splits change none that were there.
    No two examples of a split are the same, and none is in two splits; a stream, which sees one example at a time,
    promises only the second.

    Args:
        name: a key of `TASKS`.
        split: "train", "validation" or "test".
        num_examples: how many.
        seed: of all of them.
        streaming: draw examples when they are read, and keep none; workers and processes then share the stream.
        num_proc: processes that draw, where the data set is not cached yet.
        cache_dir: where it is cached; None is where 🤗 Datasets caches.
        options: the fields of ``TASKS[name]``, such as ``length=4096``.

    Raises:
        ValueError: for an unknown task, split or option (naming the nearest), options that no example can have, or more
            examples than there can be.
        ModuleNotFoundError: if the task needs a package that is not installed; the message names the extra.

    >>> data = load_task("shift", split="train", num_examples=3, length=16, streaming=True)
    >>> {name: list(values.shape) for name, values in next(iter(data)).items()}
    {'input_values': [16, 3], 'labels': [16, 8]}
    """
    task = build_task(name, options)
    _refuse_unknown("split", split, SPLITS)
    for what, value, least in (("num_examples", num_examples, 1), ("seed", seed, 0), ("num_proc", num_proc, 1)):
        if type(value) is not int or value < least:
            raise ValueError(f"load_task: {what} must be an int >= {least}, got {value!r}.")
    task.check(num_examples)
    if streaming:
        stream = datasets.IterableDataset.from_generator(
            _streamed,
            features=task.features,
            gen_kwargs={"task": task, "seed": seed, "split": split, "ranges": _ranges(num_examples)},
            split=datasets.NamedSplit(split),
        )
        if any(isinstance(column, datasets.List) for column in task.features.values()):
            # Row by row, lists become tensors one number at a time; of an Arrow table they do so at once.
            stream = stream.with_format("arrow").map(_unchanged, batched=True, batch_size=1, features=task.features)
        return stream.with_format("torch")
    known_by = [_EDITION, name, asdict(task), split, num_examples, seed]
    try:
        data = datasets.Dataset.from_generator(
            partial(_cached, task, seed, split, num_examples, num_proc),
            features=task.features,
            cache_dir=None if cache_dir is None else str(cache_dir),
            split=datasets.NamedSplit(split),
            fingerprint=Hasher.hash(known_by),
            writer_batch_size=_rows_at_once(task.features),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None
    return data.with_format("torch")


def build_task(name: TaskName, options: dict[str, Any]) -> Task:
    """The task of this name with these options.

    Raises:
        ValueError: for an unknown name or option (naming the nearest), or a value of the wrong type.
    """
    _refuse_unknown("task", name, TASKS)
    task_class = TASKS[name]
    kinds = typing.get_type_hints(task_class)
    known = [field.name for field in fields(task_class)]
    for option, value in options.items():
        _refuse_unknown(f"option of {name}", option, known)
        choices = typing.get_args(kinds[option])
        if choices:
            _refuse_unknown(f"{option} of {name}", value, choices)
        elif type(value) is not kinds[option]:
            raise ValueError(f"{option} of {name} must be of type {kinds[option].__name__}, got {value!r}.")
    return task_class(**options)


def _refuse_unknown(what: str, value: Any, known: Iterable[Any]) -> None:
    names = [str(name) for name in known]
    if value not in names:
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {names}."
        raise ValueError(f"load_task: unknown {what} {value!r}; {hint}")


def _ranges(num_examples: int) -> list[tuple[int, int]]:
    """Equal parts of the examples, in order."""
    shards = min(_SHARDS, num_examples)
    bounds = [num_examples * i // shards for i in range(shards + 1)]
    return list(itertools.pairwise(bounds))


def _streamed(task: Task, seed: int, split: Split, ranges: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for start, stop in ranges:
        for index in range(start, stop):
            yield _as_columns(next(task.candidates(seed, split, index)))


def _unchanged(table: Any) -> Any:
    return table


def _as_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A row with arrays of one dimension as lists of Python's numbers, which 🤗 Datasets writes without unpacking."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
        for name, value in row.items()
    }


def _rows_at_once(features: datasets.Features) -> int:
    """Rows to be written together: at least one, however long it is."""
    numbers = sum(
        math.prod(column.shape)
        if isinstance(column, datasets.Array2D)
        else (column.length if isinstance(column, datasets.List) else 1)
        for column in features.values()
    )
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (8 * numbers)))


def _cached(task: Task, seed: int, split: Split, num_examples: int, num_proc: int) -> Iterator[dict[str, Any]]:
    """Every row in order, drawn in parallel; a row that is taken gives way to the next candidate for its place."""
    taken = set()
    for index, first in enumerate(_in_parallel(partial(_first, task, seed, split), num_examples, num_proc)):
        row, identity, draws = first, task.identity(first), 1
        again = None
        while identity is not None and identity in taken:
            again = again or task.candidates(seed, split, index)
            row = next(again)
            identity, draws = task.identity(row), draws + 1
            if draws > _MAX_DRAWS:
                raise ValueError(
                    f"No example was found in {_MAX_DRAWS} draws that differs from the {index:,} before it, but "
                    f"num_examples={num_examples:,}: ask for fewer, or allow longer ones."
                )
        taken.add(identity)
        yield _as_columns(row)


def _first(task: Task, seed: int, split: Split, index: int) -> dict[str, Any]:
    return next(task.candidates(seed, split, index))


def _in_parallel(make: Callable[[int], dict[str, Any]], count: int, num_proc: int) -> Iterator[dict[str, Any]]:
    """``make(0)``, ``make(1)``, … in order."""
    if num_proc == 1:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(num_proc, initializer=_begin_worker) as pool:
        yield from pool.map(make, range(count), chunksize=max(1, min(64, count // (4 * num_proc))))


def _begin_worker() -> None:
    """One thread draws, and another ends the process when its parent is gone, which a killed one cannot do."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
