"""Parts of a table by Ray Data: one task reads, actors that hold the model compute, and this process writes.

A part is one row of the data set. It is computed from the same rows, in the same batches, as without Ray. The reading
task is a generator that Ray stops while enough parts wait. Reader and actors may be started again at any time: what
they yield depends on the part's number only, and a part is on disk as a whole or not at all.
"""

import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_dlr.launch import keep_memory

from .inputs import Row
from .jobs import Job
from .parts import Parts, Written, encoded, in_chunks

# Of Ray, unless the environment says otherwise: it reports to nobody, says only what ends it, and does not give way to
# other programs more than this process does.
SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will do; it warns of what it does now
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# Bytes of parts that wait, for each actor; Ray counts those that are computed, too.
WAITING = 2**26
# So often a part is tried again whose actor died, and an actor is started again.
TRIES = 5
# What a person can mend: it is told in one line, wherever it happened.
MENDABLE = (ImportError, OSError, ValueError, torch.OutOfMemoryError)

Batch = Mapping[str, Any]


def import_ray() -> Any:
    """Ray, which reports nothing to anybody, with its data sets.

    Raises:
        ImportError: with the line that installs it.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import ray
            import ray.data
    except ImportError:
        raise ImportError("The engine 'ray' needs Ray: pip install 'modeling-dlr[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def write_with_ray(
    job: Job,
    output: Path,
    request: dict[str, Any],
    *,
    workers: int | None,
    device: str,
    progress: bool,
) -> Written:
    """Do a job in actors: of the cluster that ``RAY_ADDRESS`` names, or of one on this machine.

    Raises:
        ValueError: as `run`, for rows that cannot be read twice, and for more workers than the cluster holds.
    """
    if iter(job.rows) is job.rows:
        raise ValueError("Ray reads rows in another process: give a list or a file, not an iterator.")
    parts = Parts(output, request)
    ray = import_ray()
    with _quiet(), cluster(ray, workers, device) as count:
        try:
            rows = _data_set(ray, job, parts, count, device).iter_rows()
            return collect(rows, parts, progress=progress)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(f"Ray gave up: {last} The same command goes on from here.") from error


def read(
    rows: Iterable[Row], letters: Callable[[Row], int], is_empty: Callable[[Row], bool], finished: frozenset[int]
) -> Iterator[dict[str, Any]]:
    """Yield one row for every part, and a last one with their number.

    Args:
        rows: see `Job`, also for the next two.
        letters: how much work a row is.
        is_empty: whether a row has nothing to read.
        finished: parts that need no computing, as they were when the run began: if Ray starts the reader again, it
            must yield the same.
    """
    number, message = 0, ""
    try:
        for number, chunk in enumerate(in_chunks(rows, letters), 1):
            data = b"" if number - 1 in finished else pickle.dumps(chunk)
            empty = sum(map(is_empty, chunk))
            yield {"number": number - 1, "count": len(chunk), "empty": empty, "data": data, "message": ""}
    except MENDABLE as error:
        message = _message(error)
    yield {"number": number, "count": 0, "empty": 0, "data": b"", "message": message}


class Actor:
    """Holds the model, and turns the rows of parts into parts.

    Args:
        compute: pickled; a model is loaded when it is unpickled.
        suffix: of parts.
        folder: where the process that began is; relative paths are looked for there, if this machine has it.
    """

    def __init__(self, compute: bytes, suffix: str, folder: Path):
        torch.set_num_threads(1)
        keep_memory()
        self.suffix, self.message = suffix, ""
        if folder.is_dir():
            os.chdir(folder)
        try:
            self.compute: Callable[..., Any] = pickle.loads(compute)
        except MENDABLE as error:  # told with the first part: Ray would start a failed actor again
            self.message = _message(error)

    def __call__(self, row: Batch) -> dict[str, Any]:
        """The row with the part as a file's contents, and with a message where that cannot be made."""
        part, message = b"", row["message"] or (row["data"] and self.message)
        if row["data"] and not message:
            try:
                part = encoded(self.compute(pickle.loads(row["data"])), self.suffix)
            except MENDABLE as error:
                message = _message(error)
        return {**row, "data": part, "message": message}


def _data_set(ray: Any, job: Job, parts: Parts, workers: int, device: str) -> Any:
    """The parts as a data set that nothing has computed yet."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # one part a block: long documents are parts of their own
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=workers * WAITING)
    folder = Path.cwd()
    reading = partial(read, job.rows, job.letters, job.is_empty, parts.finished())

    def read_parts(_: Batch) -> Iterator[pa.Table]:
        with contextlib.chdir(folder):
            for row in reading():
                yield pa.Table.from_pylist([row])

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    of_gpu = {} if torch.device(device).type == "cpu" else {"num_gpus": 1}
    with ray.data.DataContext.current(context):
        one = ray.data.from_items([{"source": ""}])
        read_rows = one.map_batches(read_parts, batch_size=1, num_cpus=0, scheduling_strategy=here)
        return read_rows.map(
            Actor,
            fn_constructor_args=(ray.cloudpickle.dumps(job.compute), parts.suffix, folder),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            max_restarts=TRIES,
            max_task_retries=TRIES,
            **of_gpu,
        )


def collect(rows: Iterator[Batch], parts: Parts, *, progress: bool) -> Written:
    """Write parts as they come, in any order, and the table when all are there."""
    finished, seen, total = parts.finished(), set(), None
    kept = empty = 0
    with tqdm(unit="row", disable=None if progress else True, leave=False) as bar:
        for row in rows:
            if row["message"]:
                raise ValueError(row["message"])
            if not row["count"]:
                total = int(row["number"])
                continue
            number, count = int(row["number"]), int(row["count"])
            if number not in finished:
                parts.add(number, row["data"])
            seen.add(number)
            kept += count * (number in finished)
            empty += int(row["empty"])
            bar.update(count)
    if total is None or seen != set(range(total)):
        raise RuntimeError(
            f"Ray returned {len(seen)} parts of {total}: the same command computes those that are missing."
        )
    return Written(parts.output, parts.merge(total), kept, empty)


@contextlib.contextmanager
def cluster(ray: Any, workers: int | None, device: str) -> Generator[int]:
    """A cluster, and how many actors there will be: one that is there, or one that ends with this context.

    Raises:
        ValueError: if it does not start, or has fewer CPUs or GPUs than there are workers.
    """
    kind = "CPU" if torch.device(device).type == "cpu" else "GPU"
    ours = not ray.is_initialized()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        if ours and os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level="ERROR")
        elif ours:
            ray.init("local", num_cpus=workers or torch.get_num_threads(), **quiet)
    except Exception as error:  # of no class of its own, such as that of a node that starts for more than 30 seconds
        ray.shutdown()
        raise ValueError(f"Ray did not start: {_message(error)} The same command tries again.") from error
    try:
        there = int(ray.cluster_resources().get(kind, 0))
        if (workers or 1) > there:
            raise ValueError(f"There are {there} {kind}s for {workers or 1} workers: each needs one.")
        yield workers or there
    finally:
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """In this context nothing warns: Ray does of names that it uses itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _message(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
