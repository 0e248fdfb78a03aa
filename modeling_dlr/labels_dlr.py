"""The classes that a head predicts: how many there are, their names, and the problem that they pose.

`DLRConfig` completes and checks them here. This file imports no torch.
"""

from collections.abc import Iterable, Mapping
from numbers import Integral
from reprlib import repr as short
from typing import Any, Literal, get_args

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)

DEFAULT_NUM_LABELS = 2

# The label that no loss and no metric counts.
IGNORED_CLASS = -100

# config.json keeps the name of each class twice.
MAX_NUM_LABELS = 1_000_000


def check_num_labels(num_labels: Any) -> None:
    """Raise ValueError unless ``num_labels`` is a number of classes, of Python or of numpy."""
    whole = isinstance(num_labels, Integral) and not isinstance(num_labels, bool)
    if not whole or not 1 <= int(num_labels) <= MAX_NUM_LABELS:
        raise ValueError(
            f"num_labels must be an integer >= 1 and <= {MAX_NUM_LABELS}, got {short(num_labels)}: a head needs "
            "something to predict."
        )


def default_id2label(num_labels: int) -> dict[int, str]:
    """The names that transformers gives to classes without one."""
    return {label: f"LABEL_{label}" for label in range(num_labels)}


def ordered_id2label(id2label: Mapping[Any, Any]) -> dict[int, str]:
    """The names of the classes 0, 1, …, in this order; JSON keeps the ids as texts and sorts them as such.

    Raises:
        ValueError: for ids with a gap or that do not begin at 0, for a name that is no text, and for one given twice.

    >>> ordered_id2label({"1": "yes", "0": "no"})
    {0: 'no', 1: 'yes'}
    """
    names = _by_class(id2label.items())
    if names is None:
        raise ValueError(
            f"id2label must name the classes 0, 1, …, got the ids {short(list(id2label))}: begin at 0 and leave no gap."
        )
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"id2label must name every class by a text, got {short(names)}.")
    if len(set(names.values())) < len(names):
        raise ValueError(f"id2label gives two classes one name, got {short(names)}: give each a name of its own.")
    return names


def _by_class(pairs: Iterable[tuple[Any, Any]]) -> dict[int, Any] | None:
    """What belongs to the classes 0, 1, …, in this order; None where the first of each pair are not these."""
    pairs = list(pairs)
    values = {_class_id(label): value for label, value in pairs}
    if not pairs or len(values) < len(pairs) or values.keys() != set(range(len(pairs))):
        return None
    return {label: values[label] for label in range(len(pairs))}


def _class_id(label: Any) -> int | None:
    if isinstance(label, str) and label.isascii() and label.isdigit() and len(label) < 10:
        return int(label)
    return int(label) if isinstance(label, Integral) and not isinstance(label, bool) else None


def with_numbers(label2id: Mapping[Any, Any]) -> dict[Any, Any]:
    """``label2id`` with the ids of classes as Python's integers, where they are numbers of another kind or texts."""
    return {name: label if _class_id(label) is None else _class_id(label) for name, label in label2id.items()}


def inverted(id2label: Mapping[int, str]) -> dict[str, int]:
    """``label2id`` of ``id2label``."""
    return {name: label for label, name in id2label.items()}


def complete_labels(num_labels: Any, id2label: Any, label2id: Any) -> tuple[dict[int, str], dict[str, int]]:
    """``id2label`` and ``label2id`` of whatever of the three is given; two classes where nothing is.

    Raises:
        ValueError: for what is no number, or no names, of classes, and for a contradiction.

    >>> complete_labels(None, None, {"no": 0, "yes": 1})
    ({0: 'no', 1: 'yes'}, {'no': 0, 'yes': 1})
    """
    if num_labels is not None:
        check_num_labels(num_labels)
    if id2label is None and label2id is None:
        id2label = default_id2label(DEFAULT_NUM_LABELS if num_labels is None else num_labels)
    elif id2label is None:
        id2label = _by_class((label, name) for name, label in label2id.items())
        if id2label is None:
            raise ValueError(f"label2id must give the classes 0, 1, … to names, one to each, got {short(label2id)}.")
    id2label = ordered_id2label(id2label)
    if num_labels not in (None, len(id2label)):
        raise ValueError(
            f"num_labels={num_labels} contradicts the {len(id2label)} names of classes: leave num_labels out."
        )
    if label2id is not None:
        check_label2id(id2label, label2id)
    return id2label, inverted(id2label)


def check_label2id(id2label: Mapping[int, str], label2id: Mapping[Any, Any]) -> None:
    """Raise ValueError unless ``label2id`` says the same as ``id2label``."""
    if {name: _class_id(label) for name, label in label2id.items()} != inverted(id2label):
        raise ValueError(
            f"label2id must be id2label the other way round, got {short(label2id)} and {short(id2label)}: leave "
            "label2id out, it follows from id2label."
        )


def check_problem_type(problem_type: Any, num_labels: int) -> None:
    """Raise ValueError for what is no problem type, or none that a head of so many outputs can have."""
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"problem_type must be None or one of {list(PROBLEM_TYPES)}, got {short(problem_type)}.")
    if problem_type == "single_label_classification" and num_labels == 1:
        raise ValueError(
            "problem_type='single_label_classification' needs num_labels > 1, got 1: one output is a regression, "
            "which problem_type=None means."
        )


def relabelled(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``saved`` configuration that the labels ``given`` while it is loaded leave valid.

    Where the saved fields contradict each other, ``id2label`` is right. Other names replace the saved ones, and so does
    another number of classes, which also ends a saved problem type that follows from the old number: one output is a
    regression, several are single-label.
    """
    kept = dict(saved)
    if isinstance(kept.get("id2label"), dict):
        kept.pop("num_labels", None)
        if isinstance(kept.get("label2id"), dict) and _differ(kept["id2label"], kept["label2id"]):
            del kept["label2id"]
    old, new = _number(kept) or DEFAULT_NUM_LABELS, _number(given)
    resized = new not in (None, old)
    if resized or given.get("id2label") is not None or given.get("label2id") is not None:
        for name in ("num_labels", "id2label", "label2id"):
            kept.pop(name, None)
    usual = "regression" if old == 1 else "single_label_classification"
    if resized and kept.get("problem_type") == usual:
        del kept["problem_type"]
    return kept


def _differ(id2label: dict[Any, Any], label2id: dict[Any, Any]) -> bool:
    try:
        check_label2id(ordered_id2label(id2label), label2id)
    except ValueError:
        return True
    return False


def _number(fields: Mapping[str, Any]) -> Any:
    """How many classes the fields name, or say; None if neither."""
    names = fields.get("id2label") or fields.get("label2id")
    return len(names) if isinstance(names, dict) else fields.get("num_labels")
