"""Predict a number from a text: how many points somebody has after a game that is told."""

import random

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
points = {"wins a set": 3.0, "draws": 1.0, "serves an ace": 1.5, "breaks a rule": -2.0}


def row(_: int) -> dict[str, object]:
    """A game of 3 to 8 events, and the sum of their points."""
    events = random.choices(list(points), k=random.randint(3, 8))  # noqa: S311
    return {"text": ", then ".join(events), "labels": sum(points[event] for event in events)}


data = Dataset.from_list(list(map(row, range(900)))).train_test_split(150, seed=0)
mean, std = np.mean(data["train"]["labels"]), np.std(data["train"]["labels"])
tokenizer = byte_tokenizer()


def encode(row: dict[str, object]) -> dict[str, object]:
    """The tokens, and the number with mean 0 and variance 1, at which rates of learning are usual."""
    return dict(tokenizer(row["text"])) | {"labels": (row["labels"] - mean) / std}


encoded = data.map(encode, remove_columns="text")
# One output is a regression. A sum over events is a mean times a length, which `pooling` does not see: a state does.
config = DLRConfig(
    bidirectional=True, hidden_size=48, num_hidden_layers=2, num_labels=1, pooling="last",
    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
args = TrainingArguments(
    "outputs/regression", learning_rate=4e-3, warmup_steps=20, lr_scheduler_type="cosine", num_train_epochs=6,
    per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip
model = DLRForSequenceClassification(config)
trainer = Trainer(
    model,
    args,
    train_dataset=encoded["train"],
    processing_class=tokenizer,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()

# Let the last layer answer in points, so that nobody who loads the model needs mean and std.
with torch.no_grad():
    model.classifier.weight.mul_(std)
    model.classifier.bias.mul_(std).add_(mean)
trainer.save_model()

loaded = DLRForSequenceClassification.from_pretrained("outputs/regression").eval()
batch = AutoTokenizer.from_pretrained("outputs/regression")(data["test"]["text"][:], padding=True, return_tensors="pt")
with torch.inference_mode():
    predicted = loaded(**batch).logits[:, 0].numpy()
wanted = np.array(data["test"]["labels"])
r2 = 1 - ((predicted - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
print(f"R² {r2:.3f}; {data['test']['text'][0]!r}: {predicted[0]:.1f} points of {wanted[0]}")
