"""Shared code of the examples: options, recipes, data sets with named columns, output folders and results."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from datasets import Dataset, DatasetDict
from scipy.stats import binomtest
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub_upload.folders import replaced_folder
from modeling_dlr import DLRConfig
from modeling_dlr.finetuning.stopping import StopCallback, Stopped
from modeling_dlr.recipes.files import count_copies, load_rows, split_apart, without_empty_cells
from modeling_dlr.recipes.folders import check_place, last_part
from modeling_dlr.resuming import newest_whole, problem_of
from modeling_dlr.training import optimizer_for_trainer

RESULTS = "results.json"


@dataclass
class Options:
    """Command-line options of every example."""

    output_dir: str = field(metadata={"help": "folder for the model and results.json; replaces that of an earlier run"})
    seed: int = field(default=0, metadata={"help": "random seed of the initialisation and of the data order"})
    max_length: int | None = field(default=None, metadata={"help": "maximum input length in tokens; default: recipe"})
    smoke: bool = field(default=False, metadata={"help": "a few steps on little data, to check that everything runs"})
    dataset: str | None = field(
        default=None, metadata={"help": "a Hub data set, or a local folder, CSV, JSON or parquet file"}
    )
    checkpoint_dir: str | None = field(
        default=None, metadata={"help": "folder for the checkpoint of a stopped run; default: next to output_dir"}
    )

    def __post_init__(self):
        check_place("--output-dir", self.output_dir)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"--max-length must be at least 1, got {self.max_length}.")


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse(kind: type[AnyOptions], arguments: Sequence[str] | None) -> AnyOptions:
    """Parse options from ``arguments``, or from the command line if None."""
    parser = HfArgumentParser([kind])
    parsed: Any = parser.parse_args_into_dataclasses(args=None if arguments is None else list(arguments))
    return parsed[0]


def load_columns(
    name_or_path: str, columns: Sequence[str], split_seed: int = 0, test_share: float = 0.2
) -> DatasetDict:
    """Load a data set as train and test splits, with the named columns and without rows that have empty cells.

    Args:
        name_or_path: a CSV, TSV, JSON, JSON-lines or parquet file, a folder, or the name of a Hub data set.
        columns: the columns to keep. The first is the input: rows with the same input stay on one side of the split.
        split_seed: random seed of the split, if the data set has no test or validation split.
        test_share: share of the rows that is then held out.

    Raises:
        ValueError: if a column is missing; the message lists the existing columns.
    """
    loaded = load_rows(name_or_path)
    train = loaded["train"]
    missing = [column for column in columns if column not in train.column_names]
    if missing:
        cure = "name yours with the --…-column options"
        if Path(name_or_path).suffix in (".csv", ".tsv") and len(train.column_names) == 1:
            cure = "columns are separated by commas in a .csv file, by tabs in a .tsv file"
        raise ValueError(f"The data set has no column {missing[0]!r}; it has {train.column_names}: {cure}.")
    held_out = next((loaded[split] for split in ("test", "validation") if split in loaded), None)
    parts = {"train": train} if held_out is None else {"train": train, "test": held_out}
    data = DatasetDict({part: rows.select_columns(list(columns)) for part, rows in parts.items()})
    data = without_empty_cells(data, columns)
    if "test" in data:
        count_copies(data, columns[0])
        return data
    return split_apart(data["train"], columns[0], split_seed, test_share)


def build_config(fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> DLRConfig:
    """Build the recipe's configuration for this vocabulary and these class names."""
    return DLRConfig(
        **fields,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def fingerprint(data: DatasetDict) -> str:
    """The SHA-256 of every row of every split, in order."""
    digest = hashlib.sha256()
    for part in sorted(data):
        digest.update(part.encode())
        for row in data[part]:
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def output_folder(options: Options) -> Iterator[Path]:
    """Give a temporary folder that replaces ``--output-dir`` when the block ends without an error.

    If training is stopped, its checkpoint is kept next to the output folder, and the same command resumes from it.

    Raises:
        FileExistsError: before any work, if ``--output-dir`` contains files that no example wrote.
        Stopped: if training was stopped; its advice names the checkpoint.
    """
    target, kept = Path(options.output_dir).resolve(), kept_checkpoint(options)
    with replaced_folder(target) as staging:
        foreign = foreign_files(target)
        if foreign:
            raise FileExistsError(
                f"The output folder {target} contains other files ({foreign[0]}): choose another --output-dir."
            )
        try:
            yield staging
        except Stopped as stop:
            checkpoint, _ = newest_whole(staging)
            if checkpoint is not None:
                with replaced_folder(kept) as folder:
                    folder.rmdir()
                    checkpoint.replace(folder)
            if kept.is_dir():
                stop.advice = f"Run the same command again to resume from the checkpoint {kept}."
            raise
        for checkpoint in staging.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)
    shutil.rmtree(kept, ignore_errors=True)


def kept_checkpoint(options: Options) -> Path:
    """The folder of a stopped run's checkpoint."""
    return Path(options.checkpoint_dir or f"{options.output_dir.rstrip('/')}-checkpoint").resolve()


def foreign_files(folder: Path) -> list[str]:
    """The files in ``folder`` that are not listed in the results of an earlier run."""
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
    """The training time in seconds, and the metrics of the evaluation after training."""

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
    """Train with the stock Trainer, evaluate, and save the model in ``folder``.

    Kernel parameters have their own learning rate. If the same run was stopped, training resumes from its checkpoint.
    """
    shortened = {"max_steps": 3, "logging_steps": 1} if options.smoke else {}
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=options.seed,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        **recipe["training_arguments"] | shortened,
    )
    run = digest_of(
        data, {"recipe": recipe} | {name: said for name, said in vars(options).items() if "_dir" not in name}
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        callbacks=[StopCallback(run)],
        optimizer_cls_and_kwargs=optimizer_for_trainer(arguments, recipe["state_learning_rate"]),
        **trainer_arguments,
    )
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint_of(run, kept_checkpoint(options)))
    seconds = time.perf_counter() - started
    metrics = trainer.evaluate()
    model.save_pretrained(folder)
    return Trained(seconds, metrics)


def digest_of(data: DatasetDict, said: dict[str, Any]) -> str:
    """The SHA-256 of a run's options and of its data."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for part in sorted(data):
        for batch in data[part].with_format("arrow").iter(1000):
            for piece in batch.to_batches():
                digest.update(piece.serialize())
    return digest.hexdigest()


def checkpoint_of(run: str, kept: Path) -> str | None:
    """The checkpoint of a stopped run, or None if there is none, it is from another run, or it is incomplete."""
    if not kept.is_dir():
        return None
    problem = problem_of(kept)
    if problem is None and StopCallback.run_of(kept) != run:
        problem = "it is from a run with other options or data"
    if problem is None:
        return str(kept)
    print(f"Training starts from step 0. The checkpoint {kept} is ignored, then deleted: {problem}.", file=sys.stderr)
    return None


def seeded(options: Options) -> None:
    """Seed Python, NumPy and torch before the model is initialised."""
    set_seed(options.seed)


def interval(correct: int, total: int) -> list[float]:
    """The 95 % Wilson interval of a proportion."""
    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return [float(low), float(high)]


def write_results(
    folder: Path, options: Options, data: DatasetDict, seconds: float, metrics: dict[str, Any], recipe: dict[str, Any]
) -> None:
    """Write ``results.json``: options, versions, data and metrics.

    The file is published, so absolute paths are reduced to their last part.
    """
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


def peak_memory() -> int:
    """The peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def shrink(data: Dataset, rows: int) -> Dataset:
    """The first ``rows`` rows, or all rows if there are fewer."""
    return data.select(range(min(rows, len(data))))
