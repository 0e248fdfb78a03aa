"""Which columns of a table are read, and how new ones are called."""

from collections.abc import Sequence

from modeling_dlr.finetuning import Task
from modeling_dlr.kernel_parameters_dlr import did_you_mean

# How the columns of an input are often called, by what a model reads.
USUAL: dict[str, tuple[str, ...]] = {
    "text": ("text", "sequence", "sentence"),
    "dna": ("sequence", "text"),
    "image": ("image", "file", "path"),
    "sound": ("sound", "audio", "file", "path"),
}


def columns_to_read(columns: Sequence[str], given: Sequence[str] | None, task: Task) -> list[str]:
    """The columns that a model reads.

    Args:
        columns: of the table.
        given: those that a person or the training has named; None where nobody has.
        task: what the model answers.

    Raises:
        ValueError: for a column that the table does not have, and where the columns cannot be told.
    """
    if given is not None:
        for name in given:
            if name not in columns:
                hint = did_you_mean(name, columns) or f"name one of {list(columns)} with --text."
                raise ValueError(f"The table has no column {name!r}: {hint}")
        if (len(given) == 2) < (task.task == "pairs"):
            raise ValueError(f"A model of pairs reads two columns, got {list(given)}.")
        return list(given)
    needed = 2 if task.task == "pairs" else 1
    usual = [name for name in USUAL[task.input] if name in columns][:1]
    found = list(columns) if len(columns) == needed else usual
    if len(found) != needed:
        which = "two columns" if needed == 2 else "column"
        raise ValueError(f"Nothing says which {which} of {list(columns)} the model reads: name them with --text.")
    return found


def free_names(names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """How new columns are called: as they are, or all "predicted_…" if one of them is in the table already.

    Raises:
        ValueError: if those are there, too.
    """
    called = {name: name for name in names}
    if set(called.values()) & set(columns):
        called = {name: f"predicted_{name}" for name in names}
    if taken := sorted(set(called.values()) & set(columns)):
        raise ValueError(f"The table has a column {taken[0]!r} already: rename it, or take it out.")
    return called
