"""Write the tables, verdicts and learning curves of docs/tasks.md from benchmarks/results/atomic_tasks.json.

    python benchmarks/tasks_page.py

The text around the markers does not change; a test compares it with the results. Curves need matplotlib:
`pip install 'modeling-dlr[figures]'`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NamedTuple

from measure import draw_for_both_pages, load
from rates import best_runs
from table import ATOMIC, LINES

from modeling_dlr.markdown import markdown_table

DOCS = Path(__file__).resolve().parent.parent / "docs"
DOCUMENT, CURVES = DOCS / "tasks.md", DOCS / "tasks_curves.svg"
MODELS = {"dlr": "DLR", "dss": "DSS", "attention": "attention", "hybrid": "DLR + local attention"}
TASKS = [*ATOMIC, "listops_subtrees", "pathfinder_segmentation"]
METRICS = {"r2": "R²", "accuracy": "accuracy", "f1_macro": "macro-F1"}
NOT_RUN = "not run"
# Scores: at least near-perfect; at most struggling; at least this, if a task can be learned in the given steps.
NEAR_PERFECT, STRUGGLING, LEARNED = 0.98, 0.9, 0.5
# Smallest difference of two scores that the page reports.
NOTABLE = 0.05

Line = Mapping[str, Any]


class Claim(NamedTuple):
    """A claim of the abstract about DLR, and the tasks that test it."""

    words: str
    says: Literal["near-perfect", "struggles"]
    tasks: tuple[str, ...]


CLAIMS = (
    Claim("near-perfect where few convolution kernels do", "near-perfect", ("shift", "cumsum")),
    Claim("struggles where many are needed", "struggles", ("reverse", "masked_select_fixed", "solve_fixed")),
    Claim(
        "struggles especially where the manipulation depends on the context",
        "struggles",
        ("cummax", "sort", "masked_select", "solve", "context_shift", "mips"),
    ),
)


def runs_of(lines: Sequence[Line], task: str, model: str) -> list[Line]:
    """The runs of a model on a task that the page shows: one of each seed, with the better rate of the first seed.

    They have the largest number of steps that both DLR and attention have runs of, or else that any model has.
    """
    mine = [line for line in lines if line["task"] == task]
    models = {name: [run for run in mine if run["recipe"].rpartition("-")[2] == name] for name in MODELS}
    steps = {name: {run["steps"] for run in runs} for name, runs in models.items()}
    shown = max(steps["dlr"] & steps["attention"] or set.union(*steps.values()), default=0)
    return best_runs([run for run in models[model] if run["steps"] == shown])


def cell(runs: Sequence[Line]) -> str:
    """Format the score of one seed, or the mean of several seeds with their range."""
    scores = [run["score"] for run in runs]
    if not scores:
        return NOT_RUN
    if len(scores) == 1:
        return f"{scores[0]:.3f}"
    return f"{mean(scores):.3f} ({min(scores):.3f}-{max(scores):.3f}, {len(scores)} seeds)"


def table(lines: Sequence[Line]) -> str:
    """Render a table with a row for each task and a column for each model."""
    rows = []
    for task in TASKS:
        by_model = [runs_of(lines, task, model) for model in MODELS]
        runs = [run for model_runs in by_model for run in model_runs]
        if not runs:
            rows.append([f"`{task}`", "", *[NOT_RUN] * len(MODELS), "", ""])
            continue
        seconds = [run["seconds"] for run in runs]
        span = f"{min(seconds)}-{max(seconds)}" if min(seconds) < max(seconds) else f"{seconds[0]}"
        metric, steps = METRICS[runs[0]["metric"]], str(runs[0]["steps"])
        rows.append([f"`{task}`", metric, *map(cell, by_model), steps, span])
    return markdown_table(["task", "metric", *MODELS.values(), "steps", "seconds a run"], rows)


def scores_of(lines: Sequence[Line], task: str, model: str) -> list[float]:
    """The scores of all seeds, in increasing order."""
    return sorted(run["score"] for run in runs_of(lines, task, model))


def verdict(claim: Claim, ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Compare the scores of DLR with a claim about one task, given attention's scores after equally many steps."""
    if not ours:
        return NOT_RUN
    if ours[0] >= NEAR_PERFECT:
        return "agrees" if claim.says == "near-perfect" else "disagrees"
    if ours[-1] > STRUGGLING:
        return "undecided"
    if claim.says == "near-perfect":
        return "disagrees"
    if not theirs or theirs[0] < LEARNED:
        return "undecided: no layer learned it"
    return "agrees"


def claims(lines: Sequence[Line]) -> str:
    """Render a table with a row for each claim and task: the scores, and whether they agree with the claim."""
    rows = []
    for claim in CLAIMS:
        for task in claim.tasks:
            ours, theirs = (runs_of(lines, task, model) for model in ("dlr", "attention"))
            agreement = verdict(claim, *(scores_of(lines, task, model) for model in ("dlr", "attention")))
            rows.append([claim.words, f"`{task}`", cell(ours), cell(theirs), agreement])
    return markdown_table(["claim", "task", "DLR", "attention", "our result"], rows)


def compared(lines: Sequence[Line]) -> str:
    """List the tasks on which every seed of one model is better than every seed of the other."""
    ahead: dict[str, list[str]] = {"dlr": [], "attention": []}
    for task in TASKS:
        both = {model: scores_of(lines, task, model) for model in ahead}
        for one, other in (("dlr", "attention"), ("attention", "dlr")):
            if both[one] and both[other] and both[one][0] > both[other][-1] + NOTABLE:
                ahead[one].append(f"`{task}`")
    sentences = [
        f"{MODELS[one]} is ahead of {MODELS[other]} by more than {NOTABLE} on {', '.join(ahead[one]) or 'no task'}"
        for one, other in (("dlr", "attention"), ("attention", "dlr"))
    ]
    return f"After equally many steps {sentences[0]}; {sentences[1]}."


def commands(lines: Sequence[Line]) -> str:
    """Render the commands, one for each recipe, and the machine."""
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(line["recipe"], line["command"])
    machines = sorted({f"{line['machine']}, torch {line['torch']}" for line in lines})
    code = "\n".join(["```bash", *(first[recipe] for recipe in sorted(first)), "```"])
    others = "One task of each recipe; the others differ in `--task`, `--seed`, `--max_steps` and `--learning_rate`."
    return f"{others} On {'; '.join(machines)}:\n\n{code}"


def draw_curves(lines: Sequence[Line], path: Path) -> None:
    """Draw a panel for each task: score against steps, a line for each run."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = 5
    figure = Figure(figsize=(3 * columns, 7.5), layout="constrained")
    panels = figure.subplots(3, columns, squeeze=False).flatten()
    for panel, task in zip(panels, TASKS, strict=False):
        for color, (model, label) in enumerate(MODELS.items()):
            for seed, run in enumerate(runs_of(lines, task, model)):
                steps, scores = zip(*run["curve"], strict=True)
                panel.plot(steps, scores, color=f"C{color}", marker=".", label=None if seed else label)
        panel.set_title(task, fontsize=9)
        panel.set_ylim(-0.1, 1.03)
        panel.grid(alpha=0.3)
    for panel in panels[len(TASKS) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=8)
    figure.supxlabel("steps")
    figure.supylabel("score of the validation examples")
    with mpl.rc_context({"svg.hashsalt": "tasks", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def render(document: str, lines: Sequence[Line]) -> str:
    """Replace the tables, verdicts and commands of the document by those of the results."""
    parts = {"atomic_tasks": table, "claims": claims, "compared": compared, "commands": commands}
    for name, text in {name: write(lines) for name, write in parts.items()}.items():
        document = re.sub(
            rf"^(<!-- {name} -->\n).*?^(<!-- end -->)$",
            lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}",
            document,
            flags=re.MULTILINE | re.DOTALL,
        )
    return document


def main() -> None:
    """Write the page, and its figure for light and for dark pages."""
    results = load(LINES)
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw_for_both_pages(lambda path: draw_curves(results, path), CURVES)


if __name__ == "__main__":
    main()
