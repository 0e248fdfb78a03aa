"""Write the tables of `DOCUMENTS` from benchmarks/results/*.json, and nothing around them.

    python benchmarks/render.py

A table is written between `<!-- table: layer -->` and `<!-- end -->`, where "layer" is the name of a benchmark. Without
a results file, the place stays empty. Results of different machines, numbers of threads or versions of torch are
written into separate tables.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import choice
import few_labels
import gates
import real_data
import self_pretraining
from measure import BOTH, FORWARD, RESULTS, load

from modeling_dlr.markdown import markdown_table

DOCS = Path(__file__).resolve().parent.parent / "docs"
DOCUMENTS = tuple(DOCS / name for name in ("performance.md", "train.md", "real.md", "tasks.md"))
NONE = "–"
# Tables that are more than a line for each line of results.
PAGES = {
    "choice": choice.table,
    "few_labels": few_labels.table,
    "gates": gates.table,
    "real_data": real_data.table,
    "self_pretraining": self_pretraining.table,
}

Line = Mapping[str, Any]
Cell = Callable[[Line], str]


class Goals(NamedTuple):
    """Goals of a layer: how many times faster than the plain formulation, and how many times less memory."""

    forward: float
    both: float
    memory: float


# By kind, B, H, N and L.
LAYER_GOALS = {
    ("dlr", 16, 128, 1024, 4096): Goals(5, 6, 1.5),
    ("dlr", 4, 128, 4096, 4096): Goals(8, 9, 3.5),
    ("dlr", 4, 128, 1024, 16384): Goals(5, 4.5, 2),
    ("dlr", 1, 128, 1024, 65536): Goals(13, 10, 4.5),
    ("dlr", 1, 64, 2048, 262144): Goals(25, 12, 17),
    ("dss", 8, 256, 64, 16384): Goals(15, 14, 8),
}
# Of training on own data; None is the score of the simpler model, of which documents may lose 0.01.
OWN_DATA_GOALS = {"bbc": 0.97, "debian": None, "several": 0.9, "number": None, "splice": 0.85, "tones": 0.95}
# The models of step.py.
MODELS = {
    "dlr_256": "DLR, 256 poles",
    "dlr_1024": "DLR, 1024",
    "dss_64": "DSS, 64",
    "modernbert": "ModernBERT",
    "lstm": "LSTM",
    "cnn": "CNN",
    "mamba2": "Mamba-2, plain",
}
# The goals of a training step: the time of DLR with 256 poles, relative to the CNN's, by L.
STEP_GOALS = {1024: 0.75, 4096: 0.85, 16384: 1.5}
_BLOCKS_OF_EVO = 32
LIMIT_GOALS = {FORWARD: 0.6, BOTH: 0.5}


def layer_goal(line: Line) -> Goals | None:
    """The goals of a layer size, or None."""
    return LAYER_GOALS.get((line["kind"], line["B"], line["H"], line["N"], line["L"]))


def speed_goal(line: Line) -> str:
    """The speed goal of this size and pass."""
    goal = layer_goal(line)
    return NONE if goal is None else times(goal.forward if line["mode"] == FORWARD else goal.both)


def memory_goal(line: Line) -> str:
    """The memory goal of this size; only forward and backward together have one."""
    goal = layer_goal(line)
    return NONE if goal is None or line["mode"] == FORWARD else times(goal.memory)


def kernel_goal(line: Line) -> str:
    """The kernel's speed goal: ×16 forward, for 1024 poles and at least 4096 steps."""
    return times(16) if line["mode"] == FORWARD and line["N"] == 1024 and line["L"] >= 4096 else NONE


def peer_goal(first: int) -> Callable[[Line], str]:
    """The goal against a peer: faster, from ``first`` steps on."""
    return lambda line: "> ×1" if line["L"] >= first else NONE


def decoding_goal(line: Line) -> str:
    """The decoding goal: ×7 for one sequence and 4096 poles."""
    return times(7) if (line["B"], line["N"], line["block"]) == (1, 4096, 128) else NONE


def step_goal(line: Line) -> str:
    """The goal of a training step of DLR with 256 poles: its time relative to the CNN's."""
    return f"≤ {STEP_GOALS[line['L']]}" if line["mode"] == "training" else NONE


def growth_goal(line: Line) -> str:
    """The goal of a million bytes through six layers."""
    return "< 25 s, < 4,096 MB" if line["layers"] == 6 else NONE


def striped_goal(line: Line) -> str:
    """The memory goal of a block of Evo-1 at 131,072 steps."""
    goals = {"bfloat16": 4096, "float32": 9216}
    return f"< {goals[line['dtype']]:,}" if (line["what"], line["L"]) == ("block", 131072) else NONE


def own_data_goal(line: Line) -> str:
    """The goal of training on own data: a score, or that of the simpler model."""
    goal = OWN_DATA_GOALS[line["data"]]
    margin = 0.01 if line["data"] == "debian" else 0
    return f"≥ {line['baseline'] - margin if goal is None else goal:.3f}"


def computed(line: Line, cell: str) -> str:
    """A cell of a plain formulation, which was computed where that was not run."""
    return cell if "plain_seconds" in line else f"{cell} (computed)"


def times(ratio: float) -> str:
    """Format a ratio, such as ×3.5."""
    return f"×{digits(ratio)}"


def digits(value: float) -> str:
    """Format a number with three significant digits, or as an integer if it is larger."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def number(name: str) -> Cell:
    """A column with a count or a size."""
    return lambda line: f"{line[name]:,}"


def rounded(name: str) -> Cell:
    """A column with a measured number, to three digits."""
    return lambda line: digits(line[name])


def ratio(name: str) -> Cell:
    """A column with a ratio."""
    return lambda line: times(line[name])


def percent(name: str) -> Cell:
    """A column with a percentage."""
    return lambda line: f"{line[name]:.0%}"


def error(name: str) -> Cell:
    """A column with a relative error, to two digits."""
    return lambda line: f"{line[name]:.1e}"


def text(name: str) -> Cell:
    """A column with a text."""
    return lambda line: str(line[name])


def time_and_memory(name: str) -> Cell:
    """A column with milliseconds, and megabytes in brackets, of a model that may not have run."""
    return lambda line: f"{digits(line[f'{name}_ms'])} ({digits(line[f'{name}_mb'])})" if f"{name}_ms" in line else NONE


class Table(NamedTuple):
    """The columns by their headings, and the fields by which rows are sorted."""

    columns: dict[str, Cell]
    order: tuple[str, ...]


TABLES = {
    "layer": Table(
        {
            "kind": text("kind"),
            **{name: number(name) for name in ("B", "H", "N", "L")},
            "pass": text("mode"),
            "plain, ms": rounded("naive_ms"),
            "ours, ms": rounded("ours_ms"),
            "faster": ratio("ratio"),
            "goal": speed_goal,
            "plain, MB": rounded("naive_peak_mb"),
            "ours, MB": rounded("ours_peak_mb"),
            "smaller": lambda line: times(line["naive_peak_mb"] / max(line["ours_peak_mb"], 1)),
            "goal ": memory_goal,
            "of the limit": percent("fraction_of_limit"),
            "goal  ": lambda line: f"{LIMIT_GOALS[line['mode']]:.0%}",
        },
        ("kind", "L", "N", "B", "H", "mode"),
    ),
    "step": Table(
        {
            "B": number("B"),
            "L": number("L"),
            "pass": text("mode"),
            **{heading: time_and_memory(name) for name, heading in MODELS.items()},
            "DLR 256 / CNN": lambda line: f"{line['dlr_256/cnn']:.2f}",
            "goal": step_goal,
        },
        ("L", "mode"),
    ),
    "growth": Table(
        {
            "kind": text("kind"),
            "layers": number("layers"),
            "L": number("L"),
            "pass": text("mode"),
            "ms": rounded("ours_ms"),
            "MB": rounded("ours_mb"),
            "ns per layer, step and log₂ L": lambda line: digits(
                1e6 * line["ours_ms"] / line["layers"] / line["L"] / (line["L"].bit_length() - 1)
            ),
            "bytes per layer and step": lambda line: digits(2**20 * line["ours_mb"] / line["layers"] / line["L"]),
            "goal": growth_goal,
        },
        ("mode", "kind", "L"),
    ),
    "contended": Table(
        {
            "kind": text("kind"),
            **{name: number(name) for name in ("B", "H", "N", "L")},
            "pass": text("mode"),
            "neighbours": number("neighbours"),
            "threads": text("waiting"),
            "plain, ms": lambda line: (
                f"{digits(line['naive_alone_ms'])}, beside them {digits(line['naive_beside_ms'])}"
            ),
            "ours, ms": lambda line: f"{digits(line['ours_alone_ms'])}, beside them {digits(line['ours_beside_ms'])}",
            "plain, slower": ratio("naive_slower"),
            "ours, slower": ratio("ours_slower"),
            "goal": lambda _: "≤ ×3",
        },
        ("kind", "N", "L", "neighbours", "waiting"),
    ),
    "million": Table(
        {
            "kind": text("kind"),
            **{name: number(name) for name in ("B", "H", "N", "L")},
            "pass": text("mode"),
            "powers alone, MB": rounded("powers_mb"),
            "ours, MB": rounded("peak_mb"),
            "goal": lambda _: "< 4,096",
        },
        ("L", "N", "H", "B"),
    ),
    "context": Table(
        {
            **{name: number(name) for name in ("layers", "H", "N", "L")},
            "checkpointing": lambda line: "yes" if line["checkpointing"] else "no",
            "processes": number("processes"),
            "MB per process": rounded("peak_mb"),
            "CPU seconds per process": rounded("cpu_seconds"),
        },
        ("L", "N", "H", "processes"),
    ),
    "plan": Table(
        {
            **{name: number(name) for name in ("layers", "H", "N", "B", "L")},
            "pass": text("mode"),
            "weights": text("dtype"),
            "logits": text("head"),
            "else": lambda line: line["fields"].strip("{}").replace('"', "") or NONE,
            "measured, MB": rounded("peak_mb"),
            "computed, MB": rounded("computed_mb"),
            "of it": percent("ratio"),
        },
        ("L", "B", "H", "layers", "mode"),
    ),
    "documents": Table(
        {
            "engine": text("engine"),
            "threads or actors": number("workers"),
            "short": number("short"),
            "long": number("long"),
            "letters of a long one": number("letters"),
            "start, s": rounded("start_seconds"),
            "rows per second": rounded("rows_per_second"),
            "per second of the processor": rounded("rows_per_cpu_second"),
            "MB, first half": rounded("peak_mb_of_first_half"),
            "MB": rounded("peak_mb"),
            "answers": text("answers"),
        },
        ("short", "workers", "engine"),
    ),
    "equality": Table(
        {
            "processes": number("processes"),
            "cases of split sequences": number("context_cases"),
            "largest error": lambda line: f"{line['context_error']:.0e}",
            "cases of shards": number("shards_cases"),
            "their largest error": lambda line: f"{line['shards_error']:.0e}",
        },
        ("processes",),
    ),
    "kernel": Table(
        {
            **{name: number(name) for name in ("H", "N", "L")},
            "pass": text("mode"),
            "plain, ms": rounded("naive_ms"),
            "ours, ms": rounded("ours_ms"),
            "faster": ratio("ratio"),
            "goal": kernel_goal,
            "GFLOP/s": rounded("gflops"),
            "of the matrix product's": percent("fraction_of_matmul"),
        },
        ("L", "N", "H", "mode"),
    ),
    "peers": Table(
        {
            "L": number("L"),
            "pass": text("mode"),
            "DLR, ms": rounded("dlr_ms"),
            "DSS, ms": rounded("dss_ms"),
            "attention, ms": rounded("attention_ms"),
            "LSTM, ms": rounded("lstm_ms"),
            "attention / DLR": ratio("attention/dlr"),
            "attention / DSS": ratio("attention/dss"),
            "goal": peer_goal(2048),
            "LSTM / DLR": ratio("lstm/dlr"),
            "LSTM / DSS": ratio("lstm/dss"),
            "goal ": peer_goal(8192),
        },
        ("L", "mode"),
    ),
    "decoding": Table(
        {
            **{name: number(name) for name in ("B", "H", "N", "block")},
            "plain, µs": rounded("naive_us"),
            "step, µs": rounded("step_us"),
            "lookahead, µs": rounded("lookahead_us"),
            "step, faster": ratio("naive/step"),
            "lookahead, faster": ratio("naive/lookahead"),
            "goal": decoding_goal,
            "slowest token of a block, µs": rounded("slowest_token_of_a_block_us"),
        },
        ("B", "H", "N", "block"),
    ),
    "accuracy": Table(
        {
            "kernel of": text("kernel"),
            "L": number("L"),
            "kernel": error("kernel_error"),
            "convolution": error("convolution_error"),
            "scan": error("scan_error"),
            "prefill": error("prefill_error"),
            "stepping": error("stepping_error"),
            "lookahead": error("lookahead_error"),
            "plain kernel": error("naive_kernel_error"),
            "plain convolution": error("naive_convolution_error"),
            "plain stepping": error("naive_stepping_error"),
        },
        ("kernel", "L"),
    ),
    "striped_hyena": Table(
        {
            "what": text("what"),
            "weights": text("dtype"),
            "L": number("L"),
            "plain, MB": lambda line: computed(line, digits(line["plain_mb"])),
            "ours, MB": rounded("peak_mb"),
            "smaller": lambda line: computed(line, times(line["plain_mb"] / line["peak_mb"])),
            "goal, MB": striped_goal,
            "plain, s": lambda line: digits(line["plain_seconds"]) if "plain_seconds" in line else NONE,
            "ours, s": rounded("seconds"),
        },
        ("what", "L", "dtype"),
    ),
    "own_data": Table(
        {
            "data": text("data"),
            "score": lambda line: line["score"].replace("_", " "),
            "processor, s": number("cpu_seconds"),
            "runs": number("seeds"),
            "mean": lambda line: f"{line['mean']:.3f}",
            "least": lambda line: f"{min(line['values']):.3f}",
            "goal": own_data_goal,
            "simpler model": lambda line: f"{line['baseline']:.3f}",
            "steps": lambda line: f"{max(line['steps']):,}",
        },
        ("data", "cpu_seconds"),
    ),
    "striped_decoding": Table(
        {
            "weights": text("dtype"),
            "weights, MB": rounded("weights_mb"),
            "reading them once, ms": rounded("reading_ms"),
            "one token, ms": rounded("token_ms"),
            "token/reading": ratio("token/reading"),
            "Evo-1, s per token (computed)": lambda line: digits(_BLOCKS_OF_EVO * line["token_ms"] / 1000),
            "at least (computed)": lambda line: digits(_BLOCKS_OF_EVO * line["reading_ms"] / 1000),
        },
        ("dtype",),
    ),
}


def machine_line(name: str, line: Line) -> str:
    """Describe the command and the machine."""
    threads = f"{line['threads']} thread{'s' if line['threads'] > 1 else ''}"
    machine = line.get("machine", "an unnamed processor")
    return f"`python benchmarks/{name}.py --save` on {machine}, {threads}, torch {line['torch']}:"


def render_table(name: str, lines: Sequence[Line]) -> str:
    """Render the table of a benchmark, one for each machine, with its command; empty if there are no lines."""
    columns, order = TABLES[name]
    groups: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: [line[field] for field in order]):
        groups.setdefault(machine_line(name, line), []).append(line)
    parts = []
    for caption, group in groups.items():
        rows = [[cell(line) for cell in columns.values()] for line in group]
        parts.append(f"{caption}\n\n{markdown_table([heading.strip() for heading in columns], rows)}\n")
    return "\n".join(["", *parts, ""]) if parts else ""


def _table(name: str, results: Path) -> str:
    if name in PAGES:
        return PAGES[name](results)
    return render_table(name, load(results / f"{name}.json"))


def render(document: str, results: Path = RESULTS) -> str:
    """Replace every table of the document by that of the results files.

    Raises:
        KeyError: for a marker of an unknown table.
    """
    return re.sub(
        r"(?<=^<!-- table: )(\w+)( -->\n).*?(?=^<!-- end -->$)",
        lambda match: match[1] + match[2] + _table(match[1], results),
        document,
        flags=re.MULTILINE | re.DOTALL,
    )


if __name__ == "__main__":
    for page in DOCUMENTS:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
