"""Classify texts: train on a table, score held-out rows, and use the saved model in a pipeline."""

import itertools

import numpy as np
from datasets import Dataset
from transformers import Trainer, TrainingArguments, pipeline, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)

# Your table takes this place: `load_dataset("csv", data_files="reviews.csv", split="train")`.
things, good, bad = ["plot", "music", "ending", "cast"], ["superb", "lovely", "gripping"], ["dull", "clumsy", "tedious"]
rows = [
    {"text": f"{start} the {thing} {verb} {word}{end}", "label": "good" if word in good else "bad"}
    for start, thing, verb, word, end in itertools.product(
        ["I thought", "We found that"], things, ["is", "was"], good + bad, [".", ", and so did everybody else."]
    )
]
data = Dataset.from_list(rows).class_encode_column("label").train_test_split(0.2, seed=0)
names = dict(enumerate(data["train"].features["label"].names))

# One token for every byte of a text; `train_bpe_tokenizer` fits byte pairs to large tables.
tokenizer = byte_tokenizer()
data = data.map(lambda row: tokenizer(row["text"], truncation=True, max_length=4096))
config = DLRConfig(
    bidirectional=True, hidden_size=64, num_hidden_layers=2, id2label=names,
    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
args = TrainingArguments(
    "outputs/texts", learning_rate=4e-3, warmup_steps=10, lr_scheduler_type="cosine", num_train_epochs=8,
    per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip
trainer = Trainer(
    DLRForSequenceClassification(config),
    args,
    train_dataset=data["train"],
    eval_dataset=data["test"],
    processing_class=tokenizer,
    # Kernels learn at a rate of their own, without weight decay.
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
    compute_metrics=lambda prediction: {"accuracy": np.mean(prediction.predictions.argmax(-1) == prediction.label_ids)},
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
trainer.save_model()
print(f"accuracy on {len(data['test'])} held-out texts: {accuracy:.3f}")

classify = pipeline("text-classification", model="outputs/texts")
for text in ("What a gripping film!", "The cast was clumsy."):
    print(text, classify(text))
