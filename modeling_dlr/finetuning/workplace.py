"""Where a run writes: beside its output folder until everything is there, so that nothing is half-written."""

import contextlib
import json
import shutil
from collections.abc import Generator
from pathlib import Path

from modeling_dlr.results import RESULTS

# Free space that a run needs beside what it writes, in bytes.
_SPARE = 50 * 2**20


class Workplace:
    """The folder of a run that is not finished.

    Args:
        output: the folder that is there at the end.

    Attributes:
        folder: holds the data, the checkpoints and the result until then.
    """

    def __init__(self, output: Path):
        self.output = output.absolute()
        self.folder = self.output.with_name(f"{self.output.name}-unfinished")

    @property
    def checkpoints(self) -> Path:
        """Holds a folder of checkpoints for each run that did not end."""
        return self.folder / "checkpoints"

    @property
    def result(self) -> Path:
        """The folder that becomes the output."""
        return self.folder / "result" / self.output.name

    @contextlib.contextmanager
    def open(self) -> Generator[None]:
        """In this context the folder is there; afterwards only if there are checkpoints to resume from.

        Raises:
            ValueError: if the output folder holds files that no run wrote, or cannot be written.
        """
        self._check_output()
        new = [folder for folder in self.output.parents if not folder.exists()]
        try:
            self._put_back()
            for name in ("data", "result"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
                (self.folder / name).mkdir(parents=True)
            self.result.mkdir()
        except OSError as error:
            raise ValueError(
                f"{self.output} could not be written: {error.strerror}: choose another --output."
            ) from None
        try:
            yield
        finally:
            for name in ("data", "result"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                next(self.checkpoints.glob("*/checkpoint-*"), None) or shutil.rmtree(self.folder)
                for folder in new:  # the innermost first, as long as they are empty
                    folder.rmdir()

    def check_space(self, parameters: int) -> None:
        """Refuse to begin where the disk cannot hold the checkpoints of a model of so many parameters.

        Raises:
            ValueError: saying how much is missing.
        """
        needed, free = 4 * 4 * 3 * parameters + _SPARE, shutil.disk_usage(self.folder).free
        if free < needed:
            raise ValueError(
                f"The disk of {self.output} has {free / 2**20:.0f} MB left, and this run needs {needed / 2**20:.0f}: "
                "make room, or choose another --output."
            )

    def finish(self, *, keep_checkpoints: bool) -> None:
        """Put the result in the place of the output folder."""
        if self.output.exists():
            shutil.rmtree(self._earlier, ignore_errors=True)
            self.output.replace(self._earlier)
        self.result.replace(self.output)
        shutil.rmtree(self._earlier, ignore_errors=True)
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def _earlier(self) -> Path:
        return self.folder / "earlier"

    def _put_back(self) -> None:
        """Restore the earlier output, if a killed run has left it without one."""
        if self._earlier.exists() and not self.output.exists():
            self._earlier.replace(self.output)

    def _check_output(self) -> None:
        if not self.output.exists():
            return
        if not self.output.is_dir():
            raise ValueError(f"{self.output} is a file: choose another --output.")
        found = {path.relative_to(self.output).as_posix() for path in self.output.rglob("*") if path.is_file()}
        try:
            own = {*json.loads((self.output / RESULTS).read_text(encoding="utf-8"))["files"], RESULTS}
        except (OSError, ValueError, KeyError, TypeError):
            own = set()
        foreign = sorted(found - own)
        if foreign:
            raise ValueError(f"The folder {self.output} holds other files ({foreign[0]}): choose another --output.")
