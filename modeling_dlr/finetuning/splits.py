"""Training, validation and test rows: duplicates and groups never cross."""

from dataclasses import dataclass

import numpy as np

from .rows import Rows
from .tables import WHOLE

FEWEST_ROWS = 20


@dataclass
class Splits:
    """The places of the rows of each split, and what is to be said about them.

    Attributes:
        train: places in the table; so are ``validation`` and ``test``.
        notes: sentences for the reader.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: list[str]


def split_rows(rows: Rows, strata: np.ndarray | None, *, validation: float, test: float, seed: int) -> Splits:
    """The given splits, completed; or shares of the rows, in each class alike.

    Rows with the same text, and those of one group, stay together. Of given splits, training rows that stand in
    another split, too, are left out.

    Args:
        rows: what was read.
        strata: the class of each row, whose shares are kept; None for other labels.
        validation: share of the rows.
        test: share of the rows.
        seed: of the shuffling.

    Raises:
        ValueError: for fewer than `FEWEST_ROWS` rows, and for splits that cannot be made.
    """
    count = len(rows.keys)
    if count < FEWEST_ROWS:
        raise ValueError(f"There must be at least {FEWEST_ROWS} rows with text and label, got {count}: add rows.")
    texts = _ranks(rows.keys)
    together = texts if rows.groups is None else _merged(texts, _ranks(rows.groups))
    rest, found = _given(rows)
    drawn = "test" not in found or "validation" not in found
    for name, share in (("test", test), ("validation", validation)):
        if name not in found:
            held_out = _drawn(rest, together, strata, share * count / len(rest), seed)
            found[name], rest = rest[held_out], rest[~held_out]
    notes: list[str] = []
    repeated = count - int(texts.max()) - 1
    if repeated and drawn:
        notes.append(f"{repeated} rows repeat the text of another: all of them are in one split.")
    kept = {"train": rest, "validation": found["validation"]}
    for name, others in {"train": ("validation", "test"), "validation": ("test",)}.items():
        elsewhere = np.zeros(int(together.max()) + 1, dtype=bool)
        elsewhere[together[np.concatenate([found[other] for other in others])]] = True
        crossing = elsewhere[together[kept[name]]]
        if crossing.any():
            notes.append(f"{crossing.sum()} {name} rows are left out: their text or group is in another split.")
        kept[name] = kept[name][~crossing]
    parts = {name: np.sort(places) for name, places in (kept | {"test": found["test"]}).items()}
    for name, places in parts.items():
        if not len(places):
            raise ValueError(f"No row is left for the {name} split: there are too few rows, groups or distinct texts.")
    return Splits(**parts, notes=notes)


def _given(rows: Rows) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows to train on and to draw from, and the splits that are given."""
    parts = {name: np.flatnonzero(rows.split == place) for place, name in enumerate(rows.splits)}
    if WHOLE in parts:
        return parts[WHOLE], {}
    if "train" not in parts:
        raise ValueError(f"The data have the splits {list(parts)}, of which none is called 'train'.")
    return parts["train"], {name: parts[name] for name in ("validation", "test") if name in parts}


def _ranks(keys: np.ndarray) -> np.ndarray:
    """The rank of each key among the different ones: few bytes per row, however many rows there are."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int32)


def _merged(key: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The group of each row by its rank, where groups that share a text are one."""
    while True:  # the least number of a group and of its texts spreads until nothing changes
        least = np.full(key.max() + 1, len(key), dtype=group.dtype)
        np.minimum.at(least, key, group)
        spread = np.full(group.max() + 1, len(key), dtype=group.dtype)
        np.minimum.at(spread, group, least[key])
        merged = spread[group]
        if (merged == group).all():
            return group
        group = merged


def _drawn(places: np.ndarray, together: np.ndarray, strata: np.ndarray | None, share: float, seed: int) -> np.ndarray:
    """Which of the places are held out: whole groups, about a share of the rows of each stratum."""
    here = together[places]
    counts = np.bincount(here)
    sizes = counts[counts > 0]
    group = (np.cumsum(counts > 0, dtype=np.int32) - 1)[here]
    stratum = np.zeros(len(sizes), dtype=np.int64)
    if strata is not None:
        stratum[group[::-1]] = strata[places][::-1]  # that of the first row of a group
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = np.zeros(len(sizes), dtype=bool)
    for name in np.unique(stratum):
        mine = order[stratum[order] == name]
        rows = np.cumsum(sizes[mine])
        # At least one group of a stratum is held out, and never the last.
        count = np.clip(np.searchsorted(rows, share * rows[-1], side="right"), 1, max(1, len(mine) - 1))
        chosen[mine[: count if len(mine) > 1 else 0]] = True
    return chosen[group]
