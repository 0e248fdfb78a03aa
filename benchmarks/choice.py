"""The table of docs/train.md that says where another model is the better choice; `benchmarks/render.py` writes it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import BOTH, load
from tasks_page import NOTABLE, cell, runs_of

from modeling_dlr.markdown import markdown_table

# What the data sets of benchmarks/own_data.py ask for.
OWN_DATA = {
    "bbc": "the topic of news",
    "debian": "the kind of a document",
    "several": "what occurs in a text: a URL, a year, code",
    "number": "a sum of what words stand for",
    "splice": "exons and introns of simulated genes, a label for every base",
    "tones": "one of eight tones in noise",
}
# What some of the atomic tasks ask for.
ATOMIC = {
    "shift": "the inputs of eight fixed numbers of steps ago",
    "cumsum": "the sum of all inputs so far",
    "cummax": "the largest input so far",
    "masked_select_fixed": "the inputs at the same marks in every example, in order",
    "mips": "the value whose key fits best",
}
LENGTHS = (1024, 16384)


def table(results: Path) -> str:
    """The table, from the results of own_data.py, table.py and peers.py."""
    rows = [*_own_data(load(results / "own_data.json")), *_atomic(load(results / "atomic_tasks.json"))]
    rows += _times(load(results / "peers.json"))
    return f"\n{markdown_table(['what is asked', 'this library', 'another model', 'better'], rows)}\n\n"


def _own_data(lines: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for line in sorted(lines, key=lambda line: list(OWN_DATA).index(line["data"])):
        ours, theirs, score = line["mean"], line["baseline"], line["score"].replace("_", " ").replace("r2", "R²")
        better = "as good" if abs(ours - theirs) < 0.01 else "this library" if ours > theirs else "the simpler one"
        yield [f"{OWN_DATA[line['data']]} ({score})", f"{ours:.3f}", f"simpler model {theirs:.3f}", better]


def _atomic(lines: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for task, words in ATOMIC.items():
        ours, theirs = (runs_of(lines, task, model) for model in ("dlr", "attention"))
        if not (ours and theirs):
            continue
        first, second = (min(run["score"] for run in runs) for runs in (ours, theirs))
        better = "as good" if abs(first - second) < NOTABLE else "this library" if first > second else "attention"
        yield [f"{words} (`{task}`, R²)", cell(ours), f"attention {cell(theirs)}", better]


def _times(lines: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for line in sorted(lines, key=lambda line: line["L"]):
        if line["mode"] == BOTH and line["L"] in LENGTHS:
            ours, theirs = line["dlr_ms"], line["attention_ms"]
            better = "this library" if ours < theirs else "attention"
            words = f"the time of a layer, {line['L']:,} steps, forward and backward"
            yield [words, f"{ours:,.0f} ms", f"attention {theirs:,.0f} ms", better]
