"""The benchmarks run on tiny sizes, and the document shows their results."""

import itertools
import json
import mmap
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import accuracy
import call_tree
import choice
import context
import decoding
import kernel
import layer
import measure
import memory
import million
import numpy as np
import oracle
import own_data
import peers
import pytest
import render
import speed_figure
import striped_decoding
import striped_hyena
import torch
from rich.console import Console
from tolerances import assert_close

from modeling_dlr import DLRKernel
from modeling_dlr.finetuning import Report, Task, TrainOptions, train


class Row(NamedTuple):
    """A row of the benchmarks in this file."""

    N: int


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the rate of the machine takes seconds and is not needed."""
    monkeypatch.setattr(kernel, "matmul_rate", lambda: 1e9)


TINY: dict[str, Callable[[str], dict[str, Any]]] = {
    "kernel": lambda mode: row_and_findings(kernel.Row(3, 5, 63, mode), kernel.measure),
    "peers": lambda mode: row_and_findings(peers.Row(7, mode), lambda row: peers.measure(row, 8, (5, 5))),
    "decoding": lambda _: row_and_findings(decoding.Row(1, 3, 5, 128), decoding.measure),
    "striped_decoding": lambda mode: row_and_findings(
        striped_decoding.Row("bfloat16" if mode == measure.FORWARD else "float32"),
        lambda row: striped_decoding.measure(row, 64),
    ),
    "accuracy": lambda _: row_and_findings(accuracy.Row("DSS lin", 63), accuracy.measure),
}


def row_and_findings(row: Any, find: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return row._asdict() | find(row) | measure.machine()


@pytest.mark.parametrize("mode", measure.MODES)
@pytest.mark.parametrize("name", TINY)
def test_results_fill_the_table(name: str, mode: str):
    """A line of results is JSON with positive numbers, and fills every column of the table."""
    line = TINY[name](mode)
    assert json.loads(json.dumps(line)) == line
    assert all(value >= 0 and np.isfinite(value) for value in line.values() if not isinstance(value, str))
    header, rule, row = table_of(render.render_table(name, [line]))
    assert len(header) == len(rule) == len(row) == len(render.TABLES[name].columns)
    assert all(row)


@pytest.mark.parametrize("mode", measure.MODES)
@pytest.mark.parametrize("kind", ["dlr", "dss"])
def test_results_of_the_layer_fill_the_table(kind: str, mode: str, monkeypatch: pytest.MonkeyPatch):
    """Every column is filled; memory is not measured in separate processes here."""
    monkeypatch.setattr(memory, "peak_megabytes", lambda *_: 1.0)
    row = layer.Row(kind, 1, 3, 5, 63, mode)
    line = row._asdict() | layer.measure(row) | measure.machine()
    header, _, cells = table_of(render.render_table("layer", [line]))
    assert len(header) == len(cells)
    assert all(cells)


@pytest.mark.parametrize("kind", ["dlr", "dss"])
def test_both_layers_compute_the_same(kind: str):
    """The two implementations that are compared have the same values and gradients."""
    layers = layer.Layers(layer.Row(kind, 2, 3, 5, 63, measure.BOTH))
    ours, theirs = layers.ours(), layers.naive().mT
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    G = torch.randn_like(ours)
    mine, other = torch.autograd.grad(ours, layers.u, G)[0], torch.autograd.grad(theirs, layers.plain_u, G)[0].mT
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_memory_of_a_million_steps(monkeypatch: pytest.MonkeyPatch):
    """The table shows the measured memory beside the size of the array of powers."""
    monkeypatch.setattr(memory, "peak_megabytes", lambda *_: 1234.5)
    (row,) = million.ROWS
    line = row_and_findings(row, million.measure)
    _, _, cells = table_of(render.render_table("million", [line]))
    assert cells[-3:] == ["32,768", "1,234", "< 4,096"]


@pytest.mark.slow
def test_memory_of_split_sequences():
    """Two processes are started, and their memory and time fill the table."""
    line = row_and_findings(context.Row(1, 3, 5, 127, 2), context.measure)
    header, _, cells = table_of(render.render_table("context", [line]))
    found = dict(zip(header, cells, strict=True))
    assert found["processes"] == "2"
    assert all(float(found[name].replace(",", "")) > 0 for name in header if name.endswith("per process"))
    assert line["loss"] > 0


def test_block_of_evo(monkeypatch: pytest.MonkeyPatch):
    """What is compared is the same, filters and blocks, and rows that were measured and computed fill the table."""
    poles, residues = striped_hyena.random_poles(5)
    ours, theirs = striped_hyena.our_filter(poles, residues, 63), striped_hyena.plain_filter(poles, residues, 63)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    for dtype, tolerance in {"float32": 1e-4, "bfloat16": 0.1}.items():
        block, x = striped_hyena.build_model(dtype, 64).blocks[0], torch.randn(1, 33, 64).to(getattr(torch, dtype))
        with torch.inference_mode():
            torch.testing.assert_close(block(x), striped_hyena.plain_block(block, x), rtol=0, atol=tolerance)
    monkeypatch.setattr(striped_hyena, "in_new_process", lambda way, _: {"ours": (20.0, 0.5), "plain": (500.0, 5)}[way])
    expected = {
        0: ["×25", "–", "5", "0.5"],
        1: ["×25", "–", "5", "0.5"],
        5: ["×3,277 (computed)", "< 4,096", "–", "0.5"],
    }
    for place, last in expected.items():
        line = row_and_findings(striped_hyena.ROWS[place], striped_hyena.measure)
        _, _, cells = table_of(render.render_table("striped_hyena", [line]))
        assert cells[-4:] == last


def test_peak_of_memory_sees_an_allocation():
    """64 MB that live for a moment are seen; they come from the system, for torch may still hold some of its own."""

    def hold() -> None:
        fresh = mmap.mmap(-1, 2**26)
        for page in range(0, 2**26, mmap.PAGESIZE):
            fresh[page] = 1
        time.sleep(0.1)
        fresh.close()

    assert 60 < memory.peak_during(hold) < 100


def table_of(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_own_data_fills_the_table():
    """The mean over the seeds, the least of them, and the best simpler model."""
    reports = [
        Report(
            Path("out"),
            Task("classes", "text", ["text"]),
            "accuracy",
            {"accuracy": score},
            {},
            {"mean": {"accuracy": 0.2}, "TF-IDF": {"accuracy": 0.875}},
            {},
            training={"steps": 1000},
        )
        for score in (0.75, 1.0)
    ]
    line = own_data.Row("debian", 300, 2)._asdict() | own_data.summary(reports) | measure.machine()
    _, _, row = table_of(render.render_table("own_data", [line]))
    assert row[4:9] == ["0.875", "0.750", "≥ 0.865", "0.875", "1,000"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [("number", "number"), ("splice", "tokens"), ("several", "several labels")])
def test_own_data_make_their_task(name: str, task: str, tmp_path: Path):
    """What is simulated, and what is read from this machine if it has it, is read as the task that it is about."""
    own_data.MAKERS[name](tmp_path)
    path = tmp_path / f"{name}.csv"
    if name == "several" and len(path.read_text().splitlines()) < 1000:
        pytest.skip("This machine has few documents.")
    small = TrainOptions(output=tmp_path / "out", epochs=0.001, evaluations=1, layers=1, hidden_size=4, pictures=False)
    assert train(path, small, console=Console(quiet=True)).task.task == task


@pytest.mark.parametrize("page", render.DOCUMENTS, ids=lambda page: page.stem)
def test_document_shows_the_results(page: Path):
    """The page is the output of `python benchmarks/render.py`."""
    document = page.read_text(encoding="utf-8")
    assert render.render(document) == document


def test_documents_have_every_table():
    documents = "".join(page.read_text(encoding="utf-8") for page in render.DOCUMENTS)
    assert all(f"<!-- table: {name} -->" in documents for name in (*render.TABLES, *render.PAGES))


@pytest.mark.parametrize(
    ("ours", "theirs", "better"), [(0.9, 0.895, "as good"), (0.9, 0.8, "this library"), (0.8, 0.9, "the simpler one")]
)
def test_choice_says_what_is_better(ours: float, theirs: float, better: str, tmp_path: Path):
    """By the scores of the results; what was not run has no row."""
    line = {"data": "bbc", "score": "accuracy", "mean": ours, "baseline": theirs}
    (tmp_path / "own_data.json").write_text(json.dumps([line]), encoding="utf-8")
    _, _, row = table_of(choice.table(tmp_path))
    assert (row[1], row[-1]) == (f"{ours:.3f}", better)


def made_up_results(**changes: Any) -> dict[str, Any]:
    line = peers.Row(4096, measure.FORWARD)._asdict() | dict.fromkeys(("dlr_ms", "dss_ms", "attention_ms"), 1234.5)
    ratios = dict.fromkeys(("attention/dlr", "attention/dss", "lstm/dlr", "lstm/dss"), 2.345)
    return line | ratios | {"lstm_ms": 0.01234, "threads": 2, "torch": "2.0", "machine": "A processor"} | changes


def test_tables_are_written_between_markers(tmp_path: Path):
    """Other text does not change, rows are sorted, goals are shown, and without results there is no table."""
    text = "before\n<!-- table: peers -->\nold\n<!-- end -->\nafter\n"
    assert render.render(text, tmp_path) == "before\n<!-- table: peers -->\n<!-- end -->\nafter\n"
    lines = [made_up_results(), made_up_results(L=1024), made_up_results(threads=1)]
    (tmp_path / "peers.json").write_text(json.dumps(lines))
    rendered = render.render(text, tmp_path)
    assert rendered.startswith("before\n<!-- table: peers -->\n\n`python benchmarks/peers.py --save` on A processor, 2")
    assert rendered.endswith("<!-- end -->\nafter\n")
    assert render.render(rendered, tmp_path) == rendered
    _, _, short, long, *single_thread = table_of(rendered)
    assert len(single_thread) == 3
    assert (short[0], long[0]) == ("1,024", "4,096")
    assert (long[2], long[5], long[6], long[8]) == ("1,234", "0.0123", "×2.35", "> ×1")
    assert short[8] == long[11] == render.NONE


def test_unknown_table_is_refused():
    with pytest.raises(KeyError, match="pears"):
        render.render("<!-- table: pears -->\n<!-- end -->\n")


def test_goals_of_the_layer():
    """Every goal belongs to a size that is measured."""
    assert set(render.LAYER_GOALS) <= set(layer.SIZES)
    line = layer.ROWS[0]._asdict()
    assert [render.speed_goal(line | {"mode": mode}) for mode in measure.MODES] == ["×5", "×6"]
    assert [render.memory_goal(line | {"mode": mode}) for mode in measure.MODES] == [render.NONE, "×1.5"]
    assert render.speed_goal(line | {"mode": measure.FORWARD, "N": 64}) == render.NONE


def test_saved_rows_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A benchmark resumes, replaces a row on request, and keeps rows of other numbers of threads."""
    measured, clock = [], itertools.count()
    path = tmp_path / "results" / "made_up.json"

    def find(row: Row) -> dict[str, Any]:
        measured.append(row.N)
        return {"found": next(clock)}

    def run(*arguments: str) -> None:
        measure.run_benchmark("", path, [Row(1), Row(2)], find, ["--save", "--json", "--threads", "1", *arguments])

    run("--rows", "1")
    run()
    run()
    assert measured == [2, 1]
    run("--again", "--rows", "1")
    assert measured == [2, 1, 2]
    assert [(line["N"], line["found"]) for line in measure.load(path)] == [(2, 2), (1, 1)]
    assert [json.loads(line)["N"] for line in capsys.readouterr().out.splitlines()] == measured
    measure.save(path, measure.load(path)[0] | {"threads": 3}, key=["N", "threads"])
    assert [line["threads"] for line in measure.load(path)] == [1, 1, 3]


@pytest.mark.parametrize(("seconds", "rounds"), [(1.0, 7), (11.0, 3)])
def test_turns(seconds: float, rounds: int):
    """All runs take turns, the first round is not counted, and slow runs have fewer rounds."""
    order = []

    def run(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or seconds * len(order)

    taken = measure.take_turns({"a": run("a"), "b": run("b")})
    assert order == ["a", "b"] * (rounds + 1)
    assert taken["a"][0] == 3 * seconds
    assert [len(each) for each in taken.values()] == [rounds, rounds]


def test_medians():
    """The ratio is the median of the ratios, not the ratio of the medians."""
    assert measure.milliseconds([1.0, 3.0, 2.0]) == 2000
    assert measure.paired_ratio([10.0, 2.0, 9.0], [1.0, 2.0, 3.0]) == 3


def test_matmul_rate():
    assert measure.matmul_rate(16) > 0


@pytest.mark.parametrize("mode", measure.MODES)
def test_no_pass_uses_a_cached_kernel(mode: str):
    """The parameters change between passes, as in training."""
    ours = DLRKernel(num_channels=1, hidden_size=3, state_size=5)
    kernels: list[torch.Tensor] = []

    def run() -> torch.Tensor:
        kernels.append(ours(63))
        return kernels[-1]

    for _ in range(2):
        assert measure.seconds_of_pass(run, ours.parameters(), mode) > 0
    assert not torch.equal(*kernels)
    assert all((parameter.grad is not None) == (mode == measure.BOTH) for parameter in ours.parameters())


@pytest.mark.parametrize("name", accuracy.KERNELS)
def test_reference_is_the_definition(name: str, monkeypatch: pytest.MonkeyPatch):
    """The float64 reference of the benchmark, computed in chunks, is the oracle's recurrence."""
    monkeypatch.setattr(accuracy, "_CHUNK", 7)
    N, kernel_parameters = accuracy.KERNELS[name]
    mixer = measure.build_mixer(3, N, **kernel_parameters)
    with torch.no_grad():
        modes, u = mixer.kernel.modes(63), torch.randn(3, 63)
        K, state = accuracy.reference(modes, u)
        y = accuracy.convolved(K, mixer.D[0], u)
    log_poles, weights = (
        torch.complex(real.detach().double(), imag.detach().double()).numpy()
        for real, imag in ((modes.decay, modes.angle), (modes.weights_real, modes.weights_imag))
    )
    assert_close(K, oracle.kernel(log_poles, weights, 63)[0], torch.float64)
    skip, inputs = mixer.D.detach().double().numpy(), u.double().T.unsqueeze(0).numpy()
    expected, x = oracle.recurrence(np.exp(log_poles), weights, skip, inputs)
    assert_close(y.T, expected[0, :, 0], torch.float64)
    assert np.abs(state.numpy() - x[0]).max() <= 1e-12 * np.abs(x).max()


def test_picture_of_speed_has_every_line(tmp_path: Path):
    """The picture is reproducible, and has every line."""
    for name in ("a.svg", "b.svg"):
        speed_figure.draw(tmp_path / name)
    picture = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert picture == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert all(f">{length:,}</text>" in picture for length in (1024, 16384))
    assert all(name in picture for name, _ in speed_figure.LINES.values())


def test_call_tree(capsys: pytest.CaptureFixture[str]):
    """Both calls are traced from the model's forward to a mixer, and the tree names every counted function."""
    call_tree.main()
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert len(titles) == len(call_tree.CALLS) == 2
    for title, (prepare, aim) in zip(titles, call_tree.CALLS.values(), strict=True):
        calls = call_tree.trace(prepare())
        files, functions = call_tree.counts(calls)
        assert re.findall(r"\d+", title) == [str(number) for number in (files, aim.files, functions, aim.functions)]
        lines = list(call_tree.tree(calls))
        assert len({line.removesuffix(" (above)").strip() for line in lines}) == functions
        assert lines[0].endswith(".forward")
        assert any("DLRMixer.forward" in line and line.startswith("  ") for line in lines)


@pytest.mark.slow
def test_everything_about_a_device(tmp_path: Path):
    """The script for an accelerator runs to its end on the CPU, with small sizes: each row has numbers and no error."""
    script, results = Path(measure.__file__).with_name("device.py"), tmp_path / "device.json"
    command = [sys.executable, str(script), "--device", "cpu", "--quick", "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    lines = json.loads(results.read_text(encoding="utf-8"))
    assert [line for line in lines if [name for name in line if name.endswith("error")]] == []
    assert list(dict.fromkeys(line["part"] for line in lines)) == [
        *("tests", "limits", "layers", "steps", "decoding", "million")
    ]
    assert lines[0]["passed"] > 0
    assert lines[0]["failures"] == []
    layer_row = next(line for line in lines if line["part"] == "layers")
    assert {"ours_ms", "official/ours", "attention/ours", "lstm/ours", "fraction_transform"} <= layer_row.keys()
