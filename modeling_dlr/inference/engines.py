"""Where the parts of a table are computed: in this process, or by Ray in many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .jobs import Engine, Job
from .parts import Counted, Written, in_chunks, write_in_parts

# A `Predictor` or an `Embedder`.
Computer = TypeVar("Computer", bound=Any)


def check_engine(engine: Engine, workers: int | None) -> None:
    """Refuse an engine that is not there, and workers that it would not start.

    Raises:
        ValueError: saying so.
        ImportError: without Ray.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"engine must be 'local' or 'ray', got {engine!r}.")
    if engine == "local" and workers is not None:
        raise ValueError(f"Only the engine 'ray' has workers, got workers={workers} with the engine 'local'.")
    if workers is not None and workers < 1:
        raise ValueError(f"There must be at least 1 worker, got {workers}.")
    if engine == "ray":
        from .ray_engine import import_ray

        import_ray()


def made_for(engine: Engine, device: str, make: Callable[..., Computer]) -> Computer:
    """What computes rows on a device: of this process, or of Ray's, and then this process uses its CPU only.

    Args:
        engine: that computes.
        device: of what computes.
        make: takes ``device``, and gives an object that loads its model on the device of that name.
    """
    made = make(device=device if engine == "local" else "cpu")
    made.device = device
    return made


def run(
    job: Job,
    output: Path,
    request: dict[str, Any],
    *,
    engine: Engine,
    workers: int | None,
    device: str,
    progress: bool,
) -> Written:
    """Do a job part by part; parts of an earlier run of the same request, by either engine, are kept.

    Args:
        job: what is done.
        output: the file to write; see `write_in_parts`.
        request: what the rows depend on.
        engine: "local" computes in this process, "ray" in actors.
        workers: how many actors; None is one for each processor, or each GPU.
        device: of each actor's model.
        progress: show a progress bar, on terminals.

    Raises:
        ValueError: as `write_in_parts`, and for what an actor could not read or load.
    """
    if engine == "ray":
        from .ray_engine import write_with_ray

        return write_with_ray(job, output, request, workers=workers, device=device, progress=progress)
    counted = Counted(job.rows, job.is_empty)
    written = write_in_parts(output, request, in_chunks(counted, job.letters), job.compute, progress=progress)
    return written._replace(empty=counted.count)
