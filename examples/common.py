"""What the examples share: options, recipes, data sets with named columns, output folders and results."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from datasets import Dataset, DatasetDict, load_dataset
from scipy.stats import binomtest
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from modeling_dlr import DLRConfig
from modeling_dlr.training import optimizer_for_trainer

RECIPES = Path(__file__).resolve().parent.parent / "configuration" / "recipes"
RESULTS = "results.json"
_FILE_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class Options:
    """Command-line options of every example."""

    output_dir: str = field(metadata={"help": "folder for the model and results.json; an earlier run's is replaced"})
    seed: int = field(default=0, metadata={"help": "of the initialisation and the order of the training data"})
    max_length: int | None = field(default=None, metadata={"help": "longest input in tokens; default: the recipe's"})
    smoke: bool = field(default=False, metadata={"help": "a few steps on little data, to see that everything runs"})
    dataset: str | None = field(
        default=None, metadata={"help": "a Hub data set, or a local folder, CSV, JSON or parquet file"}
    )

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"--max-length must be at least 1, got {self.max_length}.")


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse(kind: type[AnyOptions], arguments: Sequence[str] | None) -> AnyOptions:
    """Options from the command line, or from ``arguments``."""
    parser = HfArgumentParser([kind])
    parsed: Any = parser.parse_args_into_dataclasses(args=None if arguments is None else list(arguments))
    return parsed[0]


def load_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model fields and the training part of ``configuration/recipes/NAME``."""
    config, training = (
        json.loads((RECIPES / name / file).read_text(encoding="utf-8")) for file in ("config.json", "training.json")
    )
    config.pop("model_type")
    return config, training


def load_columns(
    name_or_path: str, columns: Sequence[str], split_seed: int = 0, test_share: float = 0.2
) -> DatasetDict:
    """Any data set as train and test splits, cut down to the named columns.

    Args:
        name_or_path: a CSV, TSV, JSON, JSON-lines or parquet file, a folder, or the name of a Hub data set.
        columns: those needed.
        split_seed: of the split, where the data set has no test or validation part of its own.
        test_share: how much is then held out.

    Raises:
        ValueError: if a column is missing; the message lists those there are.
    """
    path = Path(name_or_path)
    if path.suffix in _FILE_KINDS and not path.is_file():
        raise FileNotFoundError(f"--dataset names the file {path}, which does not exist.")
    if path.is_file():
        kind = _FILE_KINDS.get(path.suffix)
        if kind is None:
            raise ValueError(
                f"--dataset must be one of {sorted(_FILE_KINDS)}, a folder or a Hub name, got {path.name}."
            )
        separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
        loaded = load_dataset(kind, data_files=str(path), **separator)
    else:
        loaded = load_dataset(name_or_path)
    train = loaded["train"]
    missing = [column for column in columns if column not in train.column_names]
    if missing:
        cure = "name yours with the --…-column options"
        if path.suffix in (".csv", ".tsv") and len(train.column_names) == 1:
            cure = "columns are separated by commas in a .csv file, by tabs in a .tsv file"
        raise ValueError(f"The data set has no column {missing[0]!r}; it has {train.column_names}: {cure}.")
    held_out = next((loaded[split] for split in ("test", "validation") if split in loaded), None)
    if held_out is None:
        return train.select_columns(list(columns)).train_test_split(test_size=test_share, seed=split_seed)
    return DatasetDict(
        {part: data.select_columns(list(columns)) for part, data in (("train", train), ("test", held_out))}
    )


def build_config(fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> DLRConfig:
    """The recipe's model, for this vocabulary and these class names."""
    return DLRConfig(
        **fields,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def fingerprint(data: DatasetDict) -> str:
    """A SHA-256 over every row of every split, in order."""
    digest = hashlib.sha256()
    for part in sorted(data):
        digest.update(part.encode())
        for row in data[part]:
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into that takes the place of ``path`` as a whole, once everything in it is written.

    Raises:
        FileExistsError: before any work, if ``path`` holds anything that no example wrote.
    """
    target = Path(path).resolve()
    foreign = foreign_files(target)
    if foreign:
        raise FileExistsError(
            f"The output folder {target} holds other content ({foreign[0]}): choose another --output-dir."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def foreign_files(folder: Path) -> list[str]:
    """What is in ``folder`` beside the files that an earlier run's results list as its own."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        return [folder.name]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    try:
        own = set(json.loads((folder / RESULTS).read_text(encoding="utf-8"))["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        own = set()
    return sorted(present - own - {RESULTS}) if own else sorted(present)


@dataclass
class Trained:
    """How long training took, and what the evaluation after it found."""

    seconds: float
    metrics: dict[str, float]


def train(
    model: PreTrainedModel,
    data: DatasetDict,
    recipe: dict[str, Any],
    options: Options,
    folder: Path,
    **trainer_arguments: Any,
) -> Trained:
    """Fine-tune with the stock Trainer, kernel parameters at their own rate; evaluate; save the model in ``folder``."""
    shortened = {"max_steps": 3, "logging_steps": 1} if options.smoke else {}
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=options.seed,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        **recipe["training_arguments"] | shortened,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        optimizer_cls_and_kwargs=optimizer_for_trainer(arguments, recipe["state_learning_rate"]),
        **trainer_arguments,
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    metrics = trainer.evaluate()
    model.save_pretrained(folder)
    return Trained(seconds, metrics)


def seeded(options: Options) -> None:
    """Seed Python, NumPy and torch before the model is drawn."""
    set_seed(options.seed)


def interval(correct: int, total: int) -> list[float]:
    """The 95 % Wilson interval of a proportion."""
    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return [float(low), float(high)]


def write_results(
    folder: Path, options: Options, data: DatasetDict, seconds: float, metrics: dict[str, Any], recipe: dict[str, Any]
) -> None:
    """``results.json``: what was run, on what, and what came out; of paths only the last part, for it is published."""
    packages = ("modeling-dlr", "torch", "transformers", "datasets", "accelerate", "tokenizers")
    results = {
        "command": " ".join(["python", *map(last_part, sys.argv)]),
        "options": {name: last_part(value) for name, value in vars(options).items()},
        "recipe": recipe,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "seed": options.seed,
        "data": {"fingerprint": fingerprint(data), "rows": {part: len(data[part]) for part in data}},
        "metrics": metrics,
        "training_seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory() / 2**20),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def last_part(value: Any) -> Any:
    """The name of an absolute path, which says nothing of the machine; everything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def shrink(data: Dataset, rows: int) -> Dataset:
    """The first ``rows`` rows, or all there are."""
    return data.select(range(min(rows, len(data))))
