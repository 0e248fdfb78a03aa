"""`--engine ray`: the answers of the plain loop, no part lost or doubled whoever dies, and one line for mistakes."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pyarrow import parquet
from test_inference import ROWS, folder_of
from typer.testing import CliRunner

from modeling_dlr.cli import app
from modeling_dlr.inference import Embedder, Predictor, embed, predict
from modeling_dlr.inference import parts as parts_module
from modeling_dlr.inference.inputs import is_empty, letters_in
from modeling_dlr.inference.jobs import Job, Table
from modeling_dlr.inference.parts import Parts
from modeling_dlr.inference.ray_engine import Actor, cluster, collect, read

SECONDS = 600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("model") / "m", "DLRForSequenceClassification", ["good", "bad", "so"])


def write_table(path: Path, rows: int) -> Path:
    import pyarrow as pa

    texts = [ROWS[i % len(ROWS)]["text"] + "x" * (i % 50) * (i % 6 != 1) for i in range(rows)]
    parquet.write_table(pa.table({"id": list(range(rows)), "text": texts}), path)
    return path


def by_hand(model: Path, source: Path, output: Path, order: int = 1) -> Iterator[dict[str, Any]]:
    """What Ray does, in this process: reader, then actor, the parts in any order."""
    predictor = Predictor(model)
    predictor.look_at(next(iter(Table(str(source)))))
    of_rows = partial(letters_in, medium="text"), partial(is_empty, task=predictor.task)
    rows = list(read(Table(str(source)), *of_rows, Parts(output, {}).finished()))
    actor = Actor(pickle.dumps(predictor), ".parquet", output.parent)
    yield from [actor(row) for row in rows][::order]


@pytest.mark.parametrize("order", [1, -1])
def test_parts_in_any_order(order: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The table is that of the plain loop, to the bit; parts that are there are neither sent nor computed again."""
    monkeypatch.setattr(parts_module, "PART_ROWS", 7)
    source = write_table(tmp_path / "in.parquet", 40)
    written = predict(model, source, tmp_path / "plain.parquet")
    output = tmp_path / "out.parquet"
    rows = list(by_hand(model, source, output, order))
    Parts(output, {}).add(2, next(row["data"] for row in rows if row["number"] == 2))
    again = list(by_hand(model, source, output, order))
    assert [bool(row["data"]) for row in again if row["count"]] == [row["number"] != 2 for row in again if row["count"]]
    found = collect(iter(again), Parts(output, {}), progress=False)
    assert (found.rows, found.kept, found.empty) == (40, 7, written.empty)
    assert parquet.read_table(output).equals(parquet.read_table(tmp_path / "plain.parquet"))


def test_a_lost_part_is_no_table(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is written, and the parts that came stay."""
    monkeypatch.setattr(parts_module, "PART_ROWS", 7)
    output = tmp_path / "out.parquet"
    rows = list(by_hand(model, write_table(tmp_path / "in.parquet", 40), output))
    with pytest.raises(RuntimeError, match="5 parts of 6"):
        collect(iter(rows[1:]), Parts(output, {}), progress=False)
    assert not output.exists()
    assert Parts(output, {}).finished() == {1, 2, 3, 4, 5}


def test_mistakes_come_back(model: Path, tmp_path: Path):
    """A table that breaks off, and a worker without the model: one line, from whichever process."""
    source = tmp_path / "in.csv"
    source.write_text("id,text\n1,a\n2,b,c\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"in\.csv must have 2 cells"):
        collect(by_hand(model, source, tmp_path / "out.parquet"), Parts(tmp_path / "out.parquet", {}), progress=False)
    gone = Predictor(model)
    gone._given = (tmp_path / "elsewhere", None)
    actor = Actor(pickle.dumps(gone), ".parquet", tmp_path)
    row = actor({"number": 0, "count": 1, "empty": 0, "data": pickle.dumps([{"text": "a"}]), "message": ""})
    assert "elsewhere" in row["message"]
    assert row["data"] == b""


def test_another_process_loads_the_model_itself(model: Path):
    """No weights are sent, and the answers are the same."""
    texts = [row["text"] for row in ROWS]
    for made in (Predictor(model), Embedder(model)):
        answers = made(texts)
        sent = pickle.dumps(made)
        assert len(sent) < 5_000
        assert str(pickle.loads(sent)(texts)) == str(answers)  # noqa: S301 - made above


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "ray", "--workers", "0"], "workers"),
        (["--workers", "2"], "local"),
        (["--engine", "spark"], "spark"),
    ],
)
def test_refused(options: list[str], said: str, model: Path, tmp_path: Path):
    source = write_table(tmp_path / "in.parquet", 3)
    command = ["predict", str(model), str(source), "--output", str(tmp_path / "out.parquet")]
    result = CliRunner().invoke(app, command + options, env={"TERM": "dumb"})
    assert result.exit_code != 0
    assert said in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_without_ray(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The line that installs it, before any work."""
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (predict, embed):
        with pytest.raises(ImportError, match=r"pip install 'modeling-dlr\[ray\]'"):
            command(model, tmp_path / "none.csv", tmp_path / "out.parquet", engine="ray")


def test_rows_are_read_in_another_process(model: Path, tmp_path: Path):
    """An iterator cannot be read twice."""
    from modeling_dlr.inference.ray_engine import write_with_ray

    job = Job(iter([{"text": "a"}]), len, bool, list)
    with pytest.raises(ValueError, match="not an iterator"):
        write_with_ray(job, tmp_path / "out.parquet", {}, workers=1, device="cpu", progress=False)


def test_a_cluster_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    """On a busy machine Ray gives up after 30 seconds, by an error of no class: one line, and nothing is left."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ended: list[bool] = []

    def init(*_: object, **__: object) -> None:
        raise Exception("The current node timed out")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: ended.append(True))
    with pytest.raises(ValueError, match="did not start: The current node timed out"), cluster(ray, 1, "cpu"):
        pass
    assert ended == [True]


class Command:
    """A command of its own process, with all that it starts; nothing of it is left when the context ends."""

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        for each in [*self.children(), psutil.Process()]:
            if each.pid != os.getpid():
                with contextlib.suppress(psutil.Error):
                    each.kill()
        self.process.kill()
        self.process.communicate(timeout=SECONDS)

    def __init__(self, folder: Path, *arguments: object):
        line = [sys.executable, "-m", "modeling_dlr.cli", *map(str, arguments), "--engine", "ray", "--workers", "2"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
        self.process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started: set[psutil.Process] = set()

    def children(self, name: str = "") -> list[psutil.Process]:
        """The processes that run, whose title has the name."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.started |= set(psutil.Process(self.process.pid).children(recursive=True))
        return [each for each in self.started if each.is_running() and name in title(each)]

    def wait_for_parts(self, folder: Path, count: int) -> None:
        ends = time.monotonic() + SECONDS
        while len(list(folder.glob("0*.parquet"))) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < ends
            self.children()
            time.sleep(0.02)

    def finish(self) -> str:
        """What the command said; nothing that it started is left."""
        self.children()
        said, errors = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, errors
        self.nothing_is_left()
        return said

    def nothing_is_left(self) -> None:
        _, alive = psutil.wait_procs(self.children(), timeout=240)
        assert [title(each) for each in alive] == []


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["MapWorker", "driver"])
def test_killed(victim: str, model: Path, tmp_path: Path):
    """Whoever is killed, no row is lost or doubled: Ray goes on without a worker, and the same command anew."""
    source = write_table(tmp_path / "in.parquet", 30_000)
    predict(model, source, tmp_path / "plain.parquet", progress=False)
    command = Command(tmp_path, "predict", model, source, "--output", "out.parquet")
    command.wait_for_parts(tmp_path / "out.parquet.parts", 3)
    if victim == "driver":
        command.process.send_signal(signal.SIGKILL)
        command.process.communicate(timeout=SECONDS)
        command.nothing_is_left()
        kept = len(list((tmp_path / "out.parquet.parts").glob("0*.parquet")))
        assert 3 <= kept < 30
        command = Command(tmp_path, "predict", model, source, "--output", "out.parquet")
    else:
        command.children(victim)[0].kill()
    said = command.finish()
    assert ("from an earlier run" in said) == (victim == "driver")
    assert parquet.read_table(tmp_path / "out.parquet").equals(parquet.read_table(tmp_path / "plain.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "plain.parquet"]


@pytest.mark.slow
def test_embed(model: Path, tmp_path: Path):
    """The vectors of the plain loop, to the bit, beside the columns of a CSV file, by relative paths."""
    rows = "".join(f"{i},{'ab ' * (i % 40 + 1)}\n" for i in range(3000))
    (tmp_path / "in.csv").write_text(f"id,text\n{rows}", encoding="utf-8")
    embed(model, tmp_path / "in.csv", tmp_path / "plain.parquet", progress=False)
    command = Command(tmp_path, "embed", model, "in.csv", "--output", "out.parquet")
    assert "3,000 rows" in command.finish()
    assert parquet.read_table(tmp_path / "out.parquet").equals(parquet.read_table(tmp_path / "plain.parquet"))
