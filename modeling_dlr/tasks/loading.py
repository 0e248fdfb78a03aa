"""`load_task`: load the rows of a task as a 🤗 Datasets data set, cached or streamed."""

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

from modeling_dlr.kernel_parameters_dlr import did_you_mean

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

# Part of the cache's fingerprint. Increase it whenever a task draws other rows than before.
_EDITION = 1
# Number of shards of a stream: at most this many workers or processes can share it.
_SHARDS = 64
# Limits on what the writer of 🤗 Datasets collects before it writes: rows, and bytes (it needs three times as many).
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 2**26
# Draws for one place that may repeat earlier rows before an error is raised.
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
    """Load a task's examples as torch tensors: ``input_values`` or ``input_ids``, and ``labels``.

    Ignored labels are NaN (real values) or -100 (classes). Example i depends only on the seed, the split and i, so a
    larger ``num_examples`` keeps the earlier examples. No two examples of a split are the same, and no example is in
    two splits. A stream sees one example at a time, so it guarantees only that no example is in two splits.

    Args:
        name: a key of `TASKS`.
        split: "train", "validation" or "test".
        num_examples: number of examples.
        seed: random seed of the whole data set.
        streaming: draw examples when they are read, without a cache; workers and processes share the stream.
        num_proc: number of processes that draw the examples if they are not cached yet.
        cache_dir: cache folder; None uses the default of 🤗 Datasets.
        options: the fields of ``TASKS[name]``, such as ``length=4096``.

    Raises:
        ValueError: for an unknown task, split or option (the message suggests the nearest), for options that no example
            can meet, or if there are fewer different examples than ``num_examples``.
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
            # Without Arrow tables, lists become tensors one number at a time, which is slow.
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
    """Build a task from its name and options.

    Raises:
        ValueError: for an unknown name or option (the message suggests the nearest), or a value of the wrong type.
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
        hint = did_you_mean(value, names) or f"known are {names}."
        raise ValueError(f"load_task: unknown {what} {value!r}; {hint}")


def _ranges(num_examples: int) -> list[tuple[int, int]]:
    """Split the examples into shards of equal size, in order."""
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
    """Turn one-dimensional arrays into lists of Python numbers, which 🤗 Datasets writes faster."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
        for name, value in row.items()
    }


def _rows_at_once(features: datasets.Features) -> int:
    """How many rows to write together; at least one, however long a row is."""
    numbers = sum(
        math.prod(column.shape)
        if isinstance(column, datasets.Array2D)
        else (column.length if isinstance(column, datasets.List) else 1)
        for column in features.values()
    )
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (8 * numbers)))


def _cached(task: Task, seed: int, split: Split, num_examples: int, num_proc: int) -> Iterator[dict[str, Any]]:
    """Yield every row in order, drawn in parallel; a row that repeats is replaced by the next candidate."""
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
                    f"{_MAX_DRAWS} draws gave no example that differs from the {index:,} before it, but "
                    f"num_examples={num_examples:,}: ask for fewer examples, or allow longer ones."
                )
        taken.add(identity)
        yield _as_columns(row)


def _first(task: Task, seed: int, split: Split, index: int) -> dict[str, Any]:
    return next(task.candidates(seed, split, index))


def _in_parallel(make: Callable[[int], dict[str, Any]], count: int, num_proc: int) -> Iterator[dict[str, Any]]:
    """Yield ``make(0)``, ``make(1)``, … in order, computed by ``num_proc`` processes."""
    if num_proc == 1:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(num_proc, initializer=_begin_worker) as pool:
        yield from pool.map(make, range(count), chunksize=max(1, min(64, count // (4 * num_proc))))


def _begin_worker() -> None:
    """Use one thread for torch, and start one that ends this process if its parent dies: a killed parent cannot."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
