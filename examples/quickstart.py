"""Train DLR to classify texts, save it, load it with the Auto classes, and predict with a pipeline.

On BBC News (five topics), or on your own texts:

    python examples/quickstart.py
    python examples/quickstart.py --dataset mine.csv --text-column review --label-column stars
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bbc_news import load_bbc_news
from common import (
    Options,
    build_config,
    interval,
    load_columns,
    output_folder,
    parse,
    seeded,
    shrink,
    train,
    write_results,
)
from datasets import ClassLabel, DatasetDict, Features, Value
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerFast,
    pipeline,
)

from modeling_dlr import DLRForSequenceClassification
from modeling_dlr.finetuning.stopping import command_line
from modeling_dlr.metrics import MaskedAccuracy
from modeling_dlr.recipes.folders import load_recipe
from modeling_dlr.tokenization import train_bpe_tokenizer

NAMED = Features({"text": Value("string"), "label": Value("string")})


@dataclass
class QuickstartOptions(Options):
    """Options of this example."""

    output_dir: str = field(default="outputs/bbc-news", metadata=Options.__dataclass_fields__["output_dir"].metadata)
    text_column: str = field(default="text", metadata={"help": "column of --dataset with the texts"})
    label_column: str = field(default="label", metadata={"help": "column of --dataset with the labels"})


def load_data(options: QuickstartOptions) -> DatasetDict:
    """Load columns ``text`` and ``label`` (a `ClassLabel`) in train and test splits."""
    if options.dataset is None:
        data = load_bbc_news()
    else:
        columns = {options.text_column: "text", options.label_column: "label"}
        data = load_columns(options.dataset, list(columns)).rename_columns(columns)
        check_rows(data)
        if not isinstance(data["train"].features["label"], ClassLabel):
            data = data.map(lambda row: {"label": name_of(row["label"])}, features=NAMED)
            names = sorted({label for part in data.values() for label in part["label"]})
            data = data.cast_column("label", ClassLabel(names=names))
    return DatasetDict({part: shrink(rows, 64) for part, rows in data.items()}) if options.smoke else data


def check_rows(data: DatasetDict) -> None:
    """Check that texts are strings, labels are classes, and there are at least two classes.

    Raises:
        ValueError: if not.
    """
    for rows in data.values():
        for text, label in zip(rows["text"], rows["label"], strict=True):
            if not isinstance(text, str):
                raise ValueError(f"Every row needs a text, but one with label {label!r} has {text!r}: drop such rows.")
            if isinstance(label, float) and not label.is_integer():
                raise ValueError(f"Labels must be classes, got {label} for {text[:60]!r}: round or bin them.")
    if len(set(data["train"]["label"])) < 2:
        raise ValueError(
            f"There must be at least two classes, got only {data['train']['label'][0]!r}: add rows of other classes."
        )


def name_of(label: Any) -> str:
    """The name of a class. 1.0 becomes "1", because 🤗 Datasets reads integers as floats if some cells are empty."""
    return str(int(label)) if isinstance(label, float) else str(label)


def yardstick(data: DatasetDict) -> float:
    """A baseline: accuracy of TF-IDF and logistic regression on the same split."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    model.fit(list(data["train"]["text"]), list(data["train"]["label"]))
    return float(model.score(list(data["test"]["text"]), list(data["test"]["label"])))


def tokenize(data: DatasetDict, tokenizer: PreTrainedTokenizerFast, max_length: int) -> DatasetDict:
    """Tokenize texts, truncated to ``max_length`` tokens."""
    return data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=max_length),
        batched=True,
        remove_columns=["text"],
        desc="tokenizing",
    )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy on the test split."""
    scores = MaskedAccuracy().compute(predictions=prediction.predictions, references=prediction.label_ids)
    assert scores is not None  # noqa: S101 - None comes only in other processes of a distributed evaluation
    return scores


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the example and return the metrics of results.json; end the program with one line if there is an error."""
    with command_line("quickstart.py"):
        return run(parse(QuickstartOptions, arguments))


def run(options: QuickstartOptions) -> dict[str, Any]:
    """Run the example with these options."""
    fields, recipe = load_recipe("bbc-news")
    with output_folder(options) as folder:
        data = load_data(options)
        names = data["train"].features["label"].names
        tokenizer = train_bpe_tokenizer(data["train"]["text"], recipe["vocab_size"])
        tokenizer.model_max_length = options.max_length or recipe["max_length"]
        tokenized = tokenize(data, tokenizer, tokenizer.model_max_length)
        tfidf = yardstick(data)

        seeded(options)
        config = build_config(fields, tokenizer, names)
        trained = train(
            DLRForSequenceClassification(config),
            tokenized,
            recipe,
            options,
            folder,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        )
        tokenizer.save_pretrained(folder)

        total = len(data["test"])
        metrics = {
            "accuracy": trained.metrics["eval_accuracy"],
            "accuracy_95": interval(round(trained.metrics["eval_accuracy"] * total), total),
            "accuracy_tfidf": tfidf,
        }
        write_results(folder, options, data, trained.seconds, metrics, recipe)
    answer(Path(options.output_dir), data)
    report(metrics, total, trained.seconds, Path(options.output_dir))
    return metrics


def answer(folder: Path, data: DatasetDict) -> None:
    """Load the model with the Auto classes, and print its predictions for three held-out texts."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    test = data["test"]
    for row in test.select(range(0, len(test), max(1, len(test) // 3))).select(range(min(3, len(test)))):
        (reply,) = classify([row["text"]], truncation=True)
        truth = test.features["label"].int2str(row["label"])
        print(f"{reply['label']:>15} ({reply['score']:.2f}, label {truth}): {' '.join(row['text'].split())[:70]}…")


def report(metrics: dict[str, Any], total: int, seconds: float, folder: Path) -> None:
    """Print the results in three lines."""
    low, high = metrics["accuracy_95"]
    print(f"held-out accuracy {metrics['accuracy']:.3f} (95 % interval {low:.3f} … {high:.3f}, {total} texts)")
    print(f"TF-IDF + logistic regression on the same split: {metrics['accuracy_tfidf']:.3f}")
    print(f"trained in {seconds:.0f} s; the model is in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
