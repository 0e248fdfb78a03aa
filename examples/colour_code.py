"""Classify every byte of source code by its token class, and print held-out code in the predicted colours.

    python examples/colour_code.py                                       # the standard library of this Python
    python examples/colour_code.py --dataset conll.json --words-column tokens --tags-column ner_tags

Strings can be hundreds of bytes long, and their content can look like code. To classify them, a model must remember the
opening quote.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    Options,
    build_config,
    load_columns,
    output_folder,
    parse,
    seeded,
    shrink,
    train,
    write_results,
)
from datasets import ClassLabel, Dataset, DatasetDict
from python_source import LABELS, load_python_source
from rich.console import Console
from rich.text import Text
from transformers import DataCollatorForTokenClassification, EvalPrediction, PreTrainedTokenizerFast, pipeline

from modeling_dlr import DLRForTokenClassification
from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.metrics import MaskedAccuracy
from modeling_dlr.recipes.folders import load_recipe
from modeling_dlr.tokenization import byte_tokenizer

IGNORED = -100
PALETTE = ["default", "bold magenta", "cyan", "yellow", "green", "bright_black italic", "red", "blue", "bold cyan"]


@dataclass
class ColourOptions(Options):
    """Options of this example."""

    output_dir: str = field(
        default="outputs/python-colours", metadata=Options.__dataclass_fields__["output_dir"].metadata
    )
    words_column: str = field(default="tokens", metadata={"help": "column of --dataset with lists of words"})
    tags_column: str = field(
        default="tags", metadata={"help": "column of --dataset with lists of tags, one tag per word"}
    )


def load_data(options: ColourOptions) -> tuple[DatasetDict, list[str]]:
    """Load columns ``text`` and ``labels`` (one class per UTF-8 byte) in train and test splits, and the class names."""
    if options.dataset is None:
        return load_python_source(max_files=20 if options.smoke else None), LABELS
    columns = {options.words_column: "words", options.tags_column: "tags"}
    data = load_columns(options.dataset, list(columns)).rename_columns(columns)
    tag = getattr(data["train"].features["tags"], "feature", None)
    if isinstance(tag, ClassLabel):
        names, index = tag.names, {i: i for i in range(tag.num_classes)}
    else:
        distinct = sorted({tag for part in data.values() for tags in part["tags"] for tag in tags})
        names, index = [str(tag) for tag in distinct], {tag: i for i, tag in enumerate(distinct)}
    data = data.map(
        lambda row: label_bytes(row["words"], [index[tag] for tag in row["tags"]]), remove_columns=["words", "tags"]
    )
    return DatasetDict({part: shrink(rows, 64) for part, rows in data.items()}) if options.smoke else data, names


def label_bytes(words: list[str], classes: list[int]) -> dict[str, Any]:
    """Join words by spaces and give each byte the class of its word; the spaces between words are ignored.

    Raises:
        ValueError: if the numbers of words and tags differ, or if a word is not a string.
    """
    if len(words) != len(classes):
        raise ValueError(f"There must be one tag per word, got {len(words)} words and {len(classes)} tags.")
    other = [word for word in words if not isinstance(word, str)]
    if other:
        raise ValueError(f"Words must be strings, got {other[0]!r}: drop such rows.")
    labels: list[int] = []
    for word, label in zip(words, classes, strict=True):
        labels += [IGNORED] * bool(labels) + [label] * len(word.encode())
    return {"text": " ".join(words), "labels": labels}


def windows(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, length: int) -> DatasetDict:
    """Cut texts into windows of at most ``length`` bytes: columns ``input_ids``, ``attention_mask``, ``labels``."""

    def cut(rows: dict[str, list]) -> dict[str, list]:
        ids, labels = [], []
        for text, classes in zip(rows["text"], rows["labels"], strict=True):
            tokens = tokenizer(text).input_ids
            ids += [tokens[start : start + length] for start in range(0, len(tokens), length)]
            labels += [classes[start : start + length] for start in range(0, len(tokens), length)]
        return {"input_ids": ids, "attention_mask": [[1] * len(window) for window in ids], "labels": labels}

    return data.map(cut, batched=True, batch_size=32, remove_columns=data["train"].column_names, desc="cutting windows")


def most_frequent_class(train_rows: Dataset, test_rows: Dataset, vocab_size: int, num_labels: int) -> float:
    """A baseline: accuracy on ``test_rows`` of predicting each byte's most frequent class in ``train_rows``."""
    counts = np.zeros((vocab_size, num_labels), dtype=np.int64)
    for window in train_rows:
        ids, labels = np.array(window["input_ids"]), np.array(window["labels"])
        np.add.at(counts, (ids[labels != IGNORED], labels[labels != IGNORED]), 1)
    answers = counts.argmax(1)
    right = total = 0
    for window in test_rows:
        ids, labels = np.array(window["input_ids"]), np.array(window["labels"])
        right += int((answers[ids] == labels)[labels != IGNORED].sum())
        total += int((labels != IGNORED).sum())
    return right / total


def byte_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy over all bytes that have a class."""
    scores = MaskedAccuracy().compute(
        predictions=np.asarray(prediction.predictions).ravel(), references=np.asarray(prediction.label_ids).ravel()
    )
    assert scores is not None  # noqa: S101 - None comes only in other processes of a distributed evaluation
    return scores


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the example and return the metrics of results.json; end the program with one line if there is an error."""
    with command_line("colour_code.py"):
        return run(parse(ColourOptions, arguments))


def run(options: ColourOptions) -> dict[str, Any]:
    """Run the example with these options."""
    fields, recipe = load_recipe("python-colours")
    with output_folder(options) as folder:
        data, names = load_data(options)
        tokenizer = byte_tokenizer(add_prefix_space=False, split_special_tokens=True)
        length = options.max_length or recipe["max_length"]
        cut = windows(data, tokenizer, length)
        cut["test"] = shrink(cut["test"], 8 if options.smoke else recipe["test_windows"])

        seeded(options)
        config = build_config(fields, tokenizer, names)
        trained = train(
            DLRForTokenClassification(config),
            cut,
            recipe,
            options,
            folder,
            data_collator=DataCollatorForTokenClassification(tokenizer),
            compute_metrics=byte_accuracy,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        )
        tokenizer.save_pretrained(folder)

        total = sum(int((np.array(labels) != IGNORED).sum()) for labels in cut["test"]["labels"])
        metrics = {
            "accuracy": trained.metrics["eval_accuracy"],
            "accuracy_most_frequent_class": most_frequent_class(cut["train"], cut["test"], len(tokenizer), len(names)),
            "test_bytes": total,
        }
        write_results(folder, options, data, trained.seconds, metrics, recipe)
    show(Path(options.output_dir), data["test"][0]["text"][:1500], names)
    print(f"held-out byte accuracy {metrics['accuracy']:.4f} over {total} bytes")
    print(f"most frequent class of each byte: {metrics['accuracy_most_frequent_class']:.4f}")
    print(f"trained in {trained.seconds:.0f} s; the model is in {options.output_dir}")
    return metrics


def show(folder: Path, text: str, names: list[str]) -> None:
    """Print ``text`` in the colours that a pipeline loaded from ``folder`` predicts."""
    colour: Any = pipeline("token-classification", model=str(folder), aggregation_strategy="simple")
    styled = Text(text)
    groups = list(dict.fromkeys(name.removeprefix("B-").removeprefix("I-") for name in names))  # as the pipeline does
    for span in colour(text):
        styled.stylize(PALETTE[groups.index(span["entity_group"]) % len(PALETTE)], span["start"], span["end"])
    console = Console()
    console.rule("a held-out file, coloured by the model")
    console.print(styled)
    console.rule()


if __name__ == "__main__":
    main(sys.argv[1:])
