"""Give each text several labels at once, from thresholds that are chosen on rows that are not trained on."""

import random

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
labels = ["link", "mail", "year"]
words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nobody", "watches"]


def row(_: int) -> dict[str, object]:
    """A text and 0.0 or 1.0 for each label: real numbers, which is what makes the loss one of several labels."""
    text = random.choices(words, k=12)  # noqa: S311
    given = [float(random.random() < 0.4) for _ in labels]  # noqa: S311
    marks = ["https://site.org/page", "name@site.org", f"in {random.randint(1900, 2030)}"]  # noqa: S311
    for mark, is_given in zip(marks, given, strict=True):
        if is_given:
            text.insert(random.randrange(len(text)), mark)  # noqa: S311
    return {"text": " ".join(text), "labels": given}


data = Dataset.from_list(list(map(row, range(700)))).train_test_split(200, seed=0)
tokenizer = byte_tokenizer()
data = data.map(lambda row: tokenizer(row["text"]), remove_columns="text")
config = DLRConfig(
    bidirectional=True, hidden_size=48, num_hidden_layers=2, id2label=dict(enumerate(labels)),
    problem_type="multi_label_classification", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
    pooling="max",  # whether something occurs anywhere; "mean" is for what a whole text is about
)  # fmt: skip
args = TrainingArguments(
    "outputs/several_labels", learning_rate=4e-3, warmup_steps=20, lr_scheduler_type="cosine", num_train_epochs=6,
    per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip
trainer = Trainer(
    DLRForSequenceClassification(config),
    args,
    train_dataset=data["train"],
    processing_class=tokenizer,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()

# Half of the rows choose the threshold of each label, the others are scored.
found = trainer.predict(data["test"])
chances, wanted = torch.tensor(found.predictions).sigmoid().numpy(), found.label_ids > 0.5


def f1(given: np.ndarray, wanted: np.ndarray) -> float:
    """2 · true positives / (given + wanted)."""
    return 2 * (given & wanted).sum() / max(1, given.sum() + wanted.sum())


candidates = np.linspace(0.05, 0.95, 19)
thresholds = np.array(
    [
        max(candidates, key=lambda t, i=i: (f1(chances[:100, i] >= t, wanted[:100, i]), -abs(t - 0.5)))
        for i in range(len(labels))
    ]
)
micro_f1 = f1(chances[100:] >= thresholds, wanted[100:])
print(f"micro-F1 {micro_f1:.3f} with the thresholds {dict(zip(labels, thresholds.round(2).tolist(), strict=True))}")
