"""Load the data set of a recipe from a local folder or file, or from the Hub, and split it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Audio, Dataset, DatasetDict, Features, Value

from .files import load_rows, load_tables

SPLITS = ("train", "validation", "test")


def load_splits(
    source: str, files: Mapping[str, str] | None = None, columns: Sequence[str] | None = None
) -> DatasetDict:
    """Load the existing training, validation and test splits of a folder, a file, or a data set of the Hub.

    Recordings are not decoded. A folder of recordings has one subfolder per class, optionally inside one per split.

    Args:
        source: a path, or a name on the Hub.
        files: tab-separated files without a header, by split, relative to the folder; None lets 🤗 Datasets find them.
        columns: names of the columns of these files.

    Raises:
        FileNotFoundError: if the name exists neither on this machine nor on the Hub.
        ValueError: for a file of another type, for one that cannot be read, or if there are no training rows.
    """
    path = Path(source)
    if files is not None:
        loaded = load_tables({split: path / file for split, file in files.items()}, "\t", columns)
    elif any(path.glob("**/*.wav")):
        loaded = recordings(path)
    else:
        loaded = load_rows(source)
    splits = DatasetDict({split: loaded[split] for split in SPLITS if split in loaded})
    audio = [name for name, column in splits["train"].features.items() if isinstance(column, Audio)]
    for name in audio:
        splits = splits.cast_column(name, Audio(decode=False))
    return splits


def recordings(folder: Path) -> DatasetDict:
    """List WAV files with the names of their folders as classes, as 🤗 Datasets does, but without its decoder."""
    roots = {split: folder / split for split in SPLITS if (folder / split).is_dir()} or {"train": folder}
    features = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")})
    splits = {}
    for split, root in roots.items():
        files = sorted(root.glob("*/*.wav"))
        audio = [{"bytes": None, "path": str(file)} for file in files]
        splits[split] = Dataset.from_dict({"audio": audio, "label": [file.parent.name for file in files]}, features)
    if not len(splits["train"]):
        raise ValueError(
            f"The data set {str(folder)!r} has no training rows: put the recordings into one folder per class."
        )
    return DatasetDict(splits)


def parted(data: DatasetDict, validation_share: float, test_share: float, seed: int = 42) -> DatasetDict:
    """Add a validation split, and a test split if ``test_share`` is above 0, taken from the training rows if missing.

    Raises:
        ValueError: if there are no rows for validation.
    """
    splits, rows = dict(data), len(data["train"])
    for name, share in (("test", test_share), ("validation", validation_share)):
        if name not in splits and share > 0:
            halves = splits["train"].train_test_split(test_size=max(1, round(share * rows)), seed=seed)
            splits["train"], splits[name] = halves["train"], halves["test"]
    if "validation" not in splits:
        if "test" not in splits:
            raise ValueError(
                f"The data set must have a validation or test split, got only {sorted(data)}: set --data_options "
                "validation_share=0.1 to hold out some rows."
            )
        splits["validation"] = splits["test"]
    return DatasetDict(splits)


def some(data: Dataset, count: int | None) -> Dataset:
    """Select ``count`` evenly spaced rows, or all rows if there are fewer."""
    if count is None or count >= len(data):
        return data
    return data.select([len(data) * i // count for i in range(count)])
