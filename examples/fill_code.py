"""Train a masked language model on the bytes of Python code, and fill masked bytes of held-out code.

python examples/fill_code.py                                      # the standard library of this Python
python examples/fill_code.py --dataset mine.csv --text-column code
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    Options,
    load_columns,
    output_folder,
    parse,
    seeded,
    shrink,
    train,
    write_results,
)
from datasets import Dataset, DatasetDict
from python_source import load_python_source
from transformers import DataCollatorForLanguageModeling, EvalPrediction, PreTrainedTokenizerFast, pipeline

from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.metrics import MaskedAccuracy
from modeling_dlr.recipes.folders import load_recipe
from modeling_dlr.tokenization import byte_tokenizer


@dataclass
class FillOptions(Options):
    """Options of this example."""

    output_dir: str = field(
        default="outputs/python-masked-lm", metadata=Options.__dataclass_fields__["output_dir"].metadata
    )
    text_column: str = field(default="text", metadata={"help": "column of --dataset with the texts"})


def load_data(options: FillOptions) -> DatasetDict:
    """Load one column, ``text``, in train and test splits."""
    if options.dataset is None:
        data = load_python_source(max_files=20 if options.smoke else None).select_columns(["text"])
    else:
        columns = {options.text_column: "text"}
        data = load_columns(options.dataset, list(columns)).rename_columns(columns)
        other = [text for rows in data.values() for text in rows["text"] if not isinstance(text, str)]
        if other:
            raise ValueError(f"Every row needs a text, got {other[0]!r}: name the column with --text-column.")
    return DatasetDict({part: shrink(rows, 64) for part, rows in data.items()}) if options.smoke else data


def windows(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, length: int) -> DatasetDict:
    """Cut texts into windows of at most ``length`` bytes: column ``input_ids``."""

    def cut(rows: dict[str, list]) -> dict[str, list]:
        texts = [tokenizer(text).input_ids for text in rows["text"]]
        return {"input_ids": [ids[at : at + length] for ids in texts for at in range(0, len(ids), length)]}

    return data.map(cut, batched=True, batch_size=32, remove_columns=["text"], desc="cutting windows")


def after_the_byte_before(train_rows: Dataset, test_rows: Dataset, vocab_size: int) -> float:
    """A baseline: accuracy on ``test_rows`` of predicting the most frequent successor of the previous byte."""
    counts = np.zeros((vocab_size, vocab_size), dtype=np.int64)
    for window in train_rows:
        ids = np.array(window["input_ids"])
        np.add.at(counts, (ids[:-1], ids[1:]), 1)
    answers = counts.argmax(1)
    right = total = 0
    for window in test_rows:
        ids = np.array(window["input_ids"])
        right += int((answers[ids[:-1]] == ids[1:]).sum())
        total += len(ids) - 1
    return right / total


def hidden_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy over the masked bytes."""
    scores = MaskedAccuracy().compute(
        predictions=np.asarray(prediction.predictions).ravel(), references=np.asarray(prediction.label_ids).ravel()
    )
    assert scores is not None  # noqa: S101 - None comes only in other processes of a distributed evaluation
    return scores


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the example and return the metrics of results.json; end the program with one line if there is an error."""
    with command_line("fill_code.py"):
        return run(parse(FillOptions, arguments))


def run(options: FillOptions) -> dict[str, Any]:
    """Run the example with these options."""
    fields, recipe = load_recipe("python-masked-lm")
    with output_folder(options) as folder:
        data = load_data(options)
        tokenizer = byte_tokenizer(add_prefix_space=False)
        cut = windows(data, tokenizer, options.max_length or recipe["max_length"])
        cut["test"] = shrink(cut["test"], 8 if options.smoke else recipe["test_windows"])

        seeded(options)
        config = DLRConfig(**fields, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        trained = train(
            DLRForMaskedLM(config),
            cut,
            recipe,
            options,
            folder,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=recipe["hidden_share"]),
            compute_metrics=hidden_accuracy,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        )
        tokenizer.save_pretrained(folder)
        metrics = {
            "accuracy": trained.metrics["eval_accuracy"],
            "accuracy_after_the_byte_before": after_the_byte_before(cut["train"], cut["test"], len(tokenizer)),
            "test_windows": len(cut["test"]),
        }
        write_results(folder, options, data, trained.seconds, metrics, recipe)
    show(Path(options.output_dir))
    print(f"held-out accuracy on masked bytes {metrics['accuracy']:.4f}")
    print(f"baseline, most frequent successor of the previous byte: {metrics['accuracy_after_the_byte_before']:.4f}")
    print(f"trained in {trained.seconds:.0f} s; the model is in {options.output_dir}")
    return metrics


def show(folder: Path) -> None:
    """Fill a masked byte in three lines of code with a pipeline loaded from ``folder``."""
    fill: Any = pipeline("fill-mask", model=str(folder))
    for line in ("for i in r<mask>nge(10):", "def __ini<mask>__(self):", "import nump<mask> as np"):
        best = fill(line)[0]
        print(f"{line:>30}  {best['token_str']!r} ({best['score']:.2f})")


if __name__ == "__main__":
    main(sys.argv[1:])
