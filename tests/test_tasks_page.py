"""The table of the tasks: the results of a run, and docs/tasks.md."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import rates
import table
import tasks_page
from measure import load

LINES = load(tasks_page.LINES)


def line(
    task: str, model: str, score: float, seed: int = 0, steps: int = 4, rate: float | str = "recipe"
) -> dict[str, Any]:
    return {
        "task": task, "recipe": f"twin-atomic-{model}", "seed": seed, "steps": steps, "rate": rate, "metric": "r2",
        "score": score, "curve": [[2, 0.1], [steps, score]], "seconds": 7, "machine": "m", "torch": "2",
        "command": "python x",
    }  # fmt: skip


def test_document_shows_the_results():
    """`python benchmarks/tasks_page.py` would change nothing."""
    document = tasks_page.DOCUMENT.read_text(encoding="utf-8")
    assert tasks_page.render(document, LINES) == document


def test_document_says_what_was_not_run():
    """Every task of the paper has a row with results, or "not run"."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)$", tasks_page.table(LINES), flags=re.MULTILINE)
    assert [name for name, _ in rows] == tasks_page.TASKS
    for name, cells in rows:
        models = [model for model in tasks_page.MODELS if tasks_page.runs_of(LINES, name, model)]
        assert cells.count("not run") == len(tasks_page.MODELS) - len(models)


def test_cells():
    """The score of one seed, or the mean of several with the lowest and highest."""
    lines = [line("shift", "dlr", 0.5), line("shift", "attention", 0.25), line("shift", "attention", 0.75, seed=1)]
    row = tasks_page.table(lines).splitlines()[2]
    assert row == "| `shift` | R² | 0.500 | not run | 0.500 (0.250-0.750, 2 seeds) | not run | 4 | 7 |"


def test_longest_runs_of_both_are_shown():
    """The runs with the most steps that DLR and attention both have, and of the first seed the better rate."""
    lines = [line("shift", "dlr", 0.5), line("shift", "attention", 0.25), line("shift", "dss", 0.1)]
    lines += [line("shift", "attention", score, 0, 8, rate) for score, rate in ((0.7, 1e-3), (0.6, 3e-3))]
    assert [run["score"] for run in tasks_page.runs_of(lines, "shift", "attention")] == [0.25]
    lines += [line("shift", "dlr", 0.9, 0, 8, 1e-3)]
    found = {model: [run["score"] for run in tasks_page.runs_of(lines, "shift", model)] for model in tasks_page.MODELS}
    assert found == {"dlr": [0.9], "dss": [], "attention": [0.7], "hybrid": []}
    lines += [line("shift", "attention", 0.8, seed, 8, "better") for seed in (1, 2)]
    assert len(tasks_page.runs_of(lines, "shift", "attention")) == 3


def test_long_runs():
    """They begin with the claims that the short ones leave undecided; other seeds take the better rate of the first."""
    short = [each for each in LINES if each["rate"] == "recipe"]
    open_tasks = {
        task
        for claim in tasks_page.CLAIMS
        for task in claim.tasks
        if tasks_page.verdict(claim, *(tasks_page.scores_of(short, task, m) for m in ("dlr", "attention"))) != "agrees"
    }
    assert {row.task for row in table.LONG[: 4 * len(open_tasks)]} == open_tasks
    row = next(row for row in table.LONG if row.seed and row.recipe == "twin-atomic-dlr")
    lines = [line(row.task, "dlr", -rate, 0, row.steps, rate) for rate in rates.RATES]
    assert table.options_of(row, lines)[-2:] == ["--learning_rate", str(min(rates.RATES))]
    with pytest.raises(ValueError, match="seed 0"):
        table.options_of(row, lines[1:])
    assert set(table.ROWS) >= {table.Row(*(each[name] for name in table.Row._fields)) for each in LINES}


def test_text_agrees_with_the_results():
    """Tasks that the page calls "not run" have no results, and those that attention did not learn have low scores."""
    document = tasks_page.DOCUMENT.read_text(encoding="utf-8")
    paragraph = re.search(r"^Not run: .*?\n\n", document, flags=re.MULTILINE | re.DOTALL)
    assert paragraph is not None
    recipes = [name for name in re.findall(r"`([\w-]+)`", paragraph.group()) if not name.startswith("-")]
    assert recipes
    assert not {run["recipe"] for run in LINES} & set(recipes)
    for task in ("reverse", "sort", "solve", "context_shift"):
        assert max(tasks_page.scores_of(LINES, task, "attention"), default=0.0) < tasks_page.LEARNED


# DLR's scores, attention's, and the verdicts on "near-perfect" and on "struggles".
VERDICTS: dict[str, tuple[list[float], list[float], str, str]] = {
    "not run": ([], [0.9], "not run", "not run"),
    "perfect": ([0.98, 1.0], [0.0], "agrees", "disagrees"),
    "one seed is worse": ([0.5, 0.99], [0.99], "undecided", "undecided"),
    "between": ([0.95], [0.99], "undecided", "undecided"),
    "attention learned it": ([0.1], [0.5], "disagrees", "agrees"),
    "one seed of attention did not": ([0.1], [0.4, 0.9], "disagrees", "undecided: no layer learned it"),
    "attention not run": ([0.1], [], "disagrees", "undecided: no layer learned it"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts(case: str):
    """A low score agrees with "struggles" only if attention learned the task in as many steps."""
    ours, theirs, *expected = VERDICTS[case]
    claims = [tasks_page.Claim("", says, ()) for says in ("near-perfect", "struggles")]
    assert [tasks_page.verdict(claim, ours, theirs) for claim in claims] == expected


def test_compared():
    """A model is ahead if each of its seeds is, by the notable difference."""
    lines = [
        line("shift", "dlr", 0.9), line("shift", "attention", 0.5), line("sort", "dlr", 0.1),
        line("sort", "attention", 0.14), line("mips", "attention", 0.9), line("mips", "dlr", 0.1),
        line("cumsum", "dlr", 0.9), line("cumsum", "attention", 0.1), line("cumsum", "attention", 0.89, seed=1),
    ]  # fmt: skip
    assert tasks_page.compared(lines) == (
        "After equally many steps DLR is ahead of attention by more than 0.05 on `shift`; attention is ahead of DLR by "
        "more than 0.05 on `mips`."
    )


def test_every_task_of_a_claim_exists():
    """Every task of a claim exists, and no task belongs to two claims."""
    named = [task for claim in tasks_page.CLAIMS for task in claim.tasks]
    assert sorted(named) == sorted(tasks_page.ATOMIC)


def test_curves_are_drawn(tmp_path: Path):
    """The picture is reproducible, and has every task's name."""
    lines = [line("shift", "dlr", 0.5), line("sort", "attention", 0.25)]
    for name in ("a.svg", "b.svg"):
        tasks_page.draw_curves(lines, tmp_path / name)
    picture = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert picture == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert all(task in picture for task in tasks_page.TASKS)


@pytest.mark.slow
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The results of a run are JSON, with a curve that ends in the score, and fill a row."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    row = table.Row("cumsum", "twin-atomic-dlr", 0, 5)
    found = row._asdict() | table.measure(row)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found | {"curve": [list(e) for e in found["curve"]]}))
    assert found["curve"][-1] == (5, found["score"])
    assert len(found["curve"]) == 5
    assert found["metric"] == "r2"
