"""The rows that a recipe names: from a local folder or file, or from the Hub, parted into training and scoring."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_files import load_rows, load_tables
from datasets import Audio, Dataset, DatasetDict, Features, Value

SPLITS = ("train", "validation", "test")


def load_splits(
    source: str, files: Mapping[str, str] | None = None, columns: Sequence[str] | None = None
) -> DatasetDict:
    """The splits for training, validation and test of a folder, a file, or a data set of the Hub, as far as there are.

    Recordings stay undecoded. A folder of them has one for each class, perhaps within one for each split.

    Args:
        source: its path, or its name on the Hub.
        files: by split, the names of tab-separated files without a header in the folder; None: what 🤗 Datasets finds.
        columns: the names of the columns of these files.

    Raises:
        FileNotFoundError: if there is nothing of that name, here or on the Hub.
        ValueError: for a file of another kind, or one that cannot be read, or if there are no training rows.
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
    """WAV files with the names of their folders as classes: rows like those of 🤗 Datasets, without its decoder."""
    roots = {split: folder / split for split in SPLITS if (folder / split).is_dir()} or {"train": folder}
    features = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")})
    splits = {}
    for split, root in roots.items():
        files = sorted(root.glob("*/*.wav"))
        audio = [{"bytes": None, "path": str(file)} for file in files]
        splits[split] = Dataset.from_dict({"audio": audio, "label": [file.parent.name for file in files]}, features)
    if not len(splits["train"]):
        raise ValueError(
            f"The data set {str(folder)!r} has no training rows: recordings lie in one folder for each class."
        )
    return DatasetDict(splits)


def parted(data: DatasetDict, validation_share: float, test_share: float, seed: int = 42) -> DatasetDict:
    """With a validation split, and a test split if a share is wanted, parted from the training rows if need be.

    Raises:
        ValueError: if there would be nothing to validate with.
    """
    splits, rows = dict(data), len(data["train"])
    for name, share in (("test", test_share), ("validation", validation_share)):
        if name not in splits and share > 0:
            halves = splits["train"].train_test_split(test_size=max(1, round(share * rows)), seed=seed)
            splits["train"], splits[name] = halves["train"], halves["test"]
    if "validation" not in splits:
        if "test" not in splits:
            raise ValueError(
                f"The data set has only the splits {sorted(data)}: set --data_options validation_share=0.1 to hold "
                "some of its rows out."
            )
        splits["validation"] = splits["test"]
    return DatasetDict(splits)


def some(data: Dataset, count: int | None) -> Dataset:
    """So many rows, from everywhere in the data set, or all there are."""
    if count is None or count >= len(data):
        return data
    return data.select([len(data) * i // count for i in range(count)])
