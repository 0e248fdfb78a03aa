"""What a trained folder answers, and how its rows are read: `task.json`, beside the model."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

TaskName = Literal["classes", "several labels", "number", "pairs", "tokens"]
InputName = Literal["text", "dna", "image", "sound"]
TokenUnit = Literal["character", "word"]

FILE = "task.json"


@dataclass
class Task:
    """What the model of a folder answers, and how the rows of a table become its input.

    Args:
        task: "classes" (one label per row), "several labels", "number", "pairs" (of texts, with a class or a number),
            or "tokens" (a label for every character, or for every word of a list).
        input: what is read: "text", "dna", "image" or "sound"; the last two are paths of files.
        text_columns: the columns that are read: two for pairs, else one, or several that are joined by line breaks.
        label_column: the column of the labels.
        labels: their names, in the order of the model's outputs; none for a number.
        thresholds: for several labels, the probability from which each is given, chosen on the validation rows.
        max_length: steps after which a row is cut, or, for tokens, the length of the windows that are read.
        outside: for tokens, the label that means "nothing here" and makes no span; None where every label counts.
        token_unit: for tokens, what has a label of its own.
    """

    task: TaskName
    input: InputName
    text_columns: list[str]
    label_column: str | None = None
    labels: list[str] = field(default_factory=list)
    thresholds: dict[str, float] | None = None
    max_length: int | None = None
    outside: str | None = None
    token_unit: TokenUnit | None = None

    def __post_init__(self):
        for name, kind in {"task": TaskName, "input": InputName}.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {list(get_args(kind))}, got {getattr(self, name)!r}.")
        if not self.text_columns or (self.task == "pairs" and len(self.text_columns) != 2):
            raise ValueError(f"text_columns must be two for pairs, one or more else, got {self.text_columns}.")

    @property
    def is_number(self) -> bool:
        """Whether the answer is a number, of a row or of a pair."""
        return self.task == "number" or (self.task == "pairs" and not self.labels)

    def save(self, folder: str | Path) -> None:
        """Write `task.json`."""
        (Path(folder) / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Task":
        """Read `task.json`.

        Raises:
            ValueError: for a folder that has none, or one that is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{folder} has no {FILE}: give a folder that `modeling-dlr train` has written.")
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            known = {each.name for each in fields(cls)}
            return cls(**{name: value for name, value in found.items() if name in known})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} could not be read: {error}") from None
