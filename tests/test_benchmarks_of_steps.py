"""The benchmarks of whole steps, of growth and of neighbours run on tiny sizes and fill their tables."""

import time
from pathlib import Path
from typing import Any

import contended
import growth
import measure
import pytest
import render
import step

pytestmark = pytest.mark.slow


def cells_of(name: str, line: dict[str, Any]) -> dict[str, str]:
    """The cells of the table of one line, by their headings."""
    lines = [line for line in render.render_table(name, [line]).splitlines() if line.startswith("|")]
    header, _, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return dict(zip(header, cells, strict=True))


@pytest.mark.parametrize("mode", step.MODES)
def test_steps_of_every_model(mode: str, monkeypatch: pytest.MonkeyPatch):
    """Every model learns and predicts, and has a cell."""
    monkeypatch.setattr(step, "peak_megabytes", lambda *_: 1.0)
    monkeypatch.setattr(render, "STEP_GOALS", {7: 1.5})
    row = step.Row(1, 7, mode)
    line = row._asdict() | step.measure(row, 8) | measure.machine()
    cells = cells_of("step", line)
    assert all(cells[heading].endswith("(1)") for heading in render.MODELS.values())
    assert list(render.MODELS) == list(step.BUILDERS)


def test_models_have_as_many_parameters():
    """Those that are compared with DLR of 256 poles differ from it by at most a tenth."""
    sizes = {name: step.parameters(build(step.H)) for name, build in step.BUILDERS.items()}
    for name in ("modernbert", "lstm", "cnn", "mamba2"):
        assert sizes[name] == pytest.approx(sizes["dlr_256"], rel=0.1), name


@pytest.mark.parametrize("row", [growth.Row("dlr", 2, 7, step.TRAINING), growth.Row("dss", 6, 7, step.INFERENCE)])
def test_growth(row: growth.Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A row fills the table, memory is that of a process of its own, and the figure is drawn."""
    line = row._asdict() | growth.measure(row, 8) | measure.machine()
    assert all(cells_of("growth", line).values())
    lines = [line | {"kind": kind, "mode": step.TRAINING} for kind in growth.KINDS]
    monkeypatch.setattr(growth, "load", lambda _: lines)
    growth.draw(tmp_path / "growth.svg")
    assert ">DLR<" in (tmp_path / "growth.svg").read_text(encoding="utf-8")


def test_neighbours_work_only_while_they_may():
    """A row fills the table; neighbours are stopped unless they are continued, and end."""
    row = contended.Row("dlr", 1, 3, 5, 7, measure.BOTH, 1, "briefly")
    line = row._asdict() | contended.measure(row) | measure.machine()
    assert all(cells_of("contended", line).values())
    with contended.stopped_neighbours(1) as send:
        time.sleep(0.1)
        send(contended.signal.SIGCONT)
