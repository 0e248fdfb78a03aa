"""What a run ends with: scores with intervals beside their baselines, tables, the card and `results.json`."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modeling_dlr.results import RESULTS, library_versions

from .task import Task

# Of the Hub, by what is predicted.
_PIPELINES = {
    ("classes", "image"): "image-classification",
    ("classes", "sound"): "audio-classification",
    ("tokens", "text"): "token-classification",
    ("tokens", "dna"): "token-classification",
}


@dataclass
class Report:
    """The outcome of training or of an evaluation.

    Attributes:
        folder: of the model.
        task: what it answers.
        main: the name of the score that says most.
        scores: of the test rows, by name.
        intervals: the 95 % interval of each.
        baselines: the scores of simpler models on the same rows.
        rows: how many there are in each split.
        per_class: precision, recall, F1 and number of each label.
        mistakes: the twenty worst, as rows of a table.
        notes: what the reader should know.
        seconds: that everything took.
        training: steps, the score on the validation rows, and the like.
        history: losses and scores on the validation rows.
        stopped: whether it was stopped before its end.
    """

    folder: Path
    task: Task
    main: str
    scores: dict[str, float]
    intervals: dict[str, list[float]]
    baselines: dict[str, dict[str, float]]
    rows: dict[str, int]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False

    def show(self, console: Console) -> None:
        """Print the scores beside their baselines, and the classes."""
        table = Table(title=f"test rows: {self.rows['test']:,}", title_justify="left", box=box.SIMPLE_HEAD)
        names = list(self.scores)
        table.add_column("")
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        cells = [f"{_shown(self.scores[name])} ({_range(self.intervals.get(name))})" for name in names]
        table.add_row("this model", *cells)
        for baseline, scores in self.baselines.items():
            table.add_row(baseline, *(_shown(scores[name]) if name in scores else "" for name in names))
        console.print(table)
        if 0 < len(self.per_class) <= 20:
            columns = list(self.per_class[0])
            classes = Table(box=box.SIMPLE_HEAD)
            for name in columns:
                classes.add_column(name, justify="left" if name == "label" else "right")
            for row in self.per_class:
                classes.add_row(*(Text(_shown(row[name])) for name in columns))
            console.print(classes)

    def results(self, options: dict[str, Any]) -> dict[str, Any]:
        """What `results.json` holds."""
        metrics: dict[str, Any] = dict(self.scores)
        metrics |= {f"{name}_95": bounds for name, bounds in self.intervals.items()}
        for baseline, scores in self.baselines.items():  # by names that the card of the Hub reads
            words = re.sub(r"\W+", "_", baseline.lower()).strip("_")
            metrics |= {f"{name}_{words}": value for name, value in scores.items() if name in self.scores}
        return {
            "options": options,
            "task": self.task.task,
            "versions": library_versions(),
            "data": {"rows": self.rows},
            "metrics": metrics,
            "baselines": self.baselines,
            "per_class": self.per_class,
            "training": self.training,
            "training_seconds": round(self.seconds, 1),
            "log_history": self.history,
            "stopped": self.stopped,
            "notes": self.notes,
        }

    def write(self, folder: Path, options: dict[str, Any]) -> None:
        """Write the tables, the card and `results.json`, which lists all files."""
        if self.mistakes:
            pd.DataFrame(self.mistakes).to_csv(folder / "mistakes.csv", index=False)
        if self.per_class:
            pd.DataFrame(self.per_class).to_csv(folder / "per_class.csv", index=False)
        self._card(folder, options.get("pretrained")).save(folder / "README.md")
        found = self.results(options)
        found["files"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        (folder / RESULTS).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def _card(self, folder: Path, pretrained: str | None) -> ModelCard:
        task = self.task
        tag = _PIPELINES.get((task.task, task.input), "text-classification")
        data = ModelCardData(library_name="transformers", pipeline_tag=tag, tags=["dlr", "state-space-model"])
        names = list(self.scores)
        lines = [
            "| | " + " | ".join(name.replace("_", " ") for name in names) + " |",
            "| --- " * (len(names) + 1) + "|",
        ]
        cells = [f"{_shown(self.scores[name])} ({_range(self.intervals.get(name))})" for name in names]
        lines.append("| this model | " + " | ".join(cells) + " |")
        for baseline, scores in self.baselines.items():
            lines.append(f"| {baseline} | " + " | ".join(_shown(scores.get(name)) for name in names) + " |")
        what = f"It predicts {_what(task)} from {task.input}"
        labels = f": {', '.join(task.labels[:50])}" if task.labels else ""
        rows = ", ".join(f"{count:,} {name}" for name, count in self.rows.items())
        start = f" from the pretrained {pretrained}" if pretrained else ""
        picture = "\n![confusion matrix](confusion.png)\n" if (folder / "confusion.png").is_file() else ""
        text = f"""---
{data.to_yaml()}
---

# {self.folder.name}

A diagonal linear RNN, trained by `modeling-dlr train`{start}. {what}{labels}.

## Scores

On test rows that were not trained on ({rows} rows), with 95 % intervals, beside simpler models on the same rows:

{chr(10).join(lines)}
{picture}
## Use

```sh
modeling-dlr predict {self.folder.name} new.csv --output answers.csv
```

{chr(10).join(["```python", *usage(task, self.folder.name), "```"])}

## Limits

It was trained and tested on rows of one source: on other data it may do worse. {" ".join(self.notes)}
"""
        return ModelCard(text)


def usage(task: Task, folder: str) -> list[str]:
    """Two lines of Python that use the model."""
    row = '"..."' if len(task.text_columns) == 1 else json.dumps(dict.fromkeys(task.text_columns, "..."))
    return ["from modeling_dlr.inference import Predictor", f'print(Predictor("{folder}")([{row}]))']


def _what(task: Task) -> str:
    kinds = {
        "classes": "a class",
        "several labels": "any number of labels",
        "number": "a number",
        "pairs": "a number for a pair" if task.is_number else "a class of a pair",
        "tokens": "a label for every character",
    }
    return kinds[task.task]


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _range(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{_shown(bounds[0])} … {_shown(bounds[1])}"
