"""examples/walkthrough.py runs, and what it prints is true."""

import re
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "walkthrough.py"


def test_walkthrough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Convolution and scan agree with the recurrence in float64, and a picture is drawn."""
    monkeypatch.setattr("sys.argv", ["walkthrough.py", str(tmp_path / "kernels.png")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    differences = [float(number) for number in re.findall(r"\d+e-\d+", printed)]
    assert len(differences) == 3
    assert max(differences) < 1e-10
    assert [f"{number}. " in printed for number in range(1, 6)] == [True] * 5
    assert (tmp_path / "kernels.png").stat().st_size > 10_000
