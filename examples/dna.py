"""Label every base of DNA: where simulated genes, between a promoter's box and a signal of their end, are."""

import random

import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForTokenClassification
from modeling_dlr.tokenization import symbol_tokenizer
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
box, end = "TATAAA", "AATAAA"


def bases(count: int) -> str:
    """Random bases without a signal in them."""
    text = "".join(random.choices("ACGT", k=count))  # noqa: S311
    return bases(count) if box in text or end in text else text


def row(_: int) -> dict[str, object]:
    """A sequence with a gene in it, or with one signal alone, which means nothing."""
    before, gene, after = (bases(random.randint(15, 50)) for _ in range(3))  # noqa: S311
    if random.random() < 0.5:  # noqa: S311
        return {"sequence": before + box + gene + end + after, "gene": [len(before) + 6, len(before) + 6 + len(gene)]}
    return {"sequence": before + random.choice([box, end]) + gene + after, "gene": [0, 0]}  # noqa: S311


# One token for each base; whatever is no base is <unk>, lower case is read as upper case.
tokenizer = symbol_tokenizer(["<pad>", "<unk>", *"ACGTN"], separated=False, case="upper")


def encode(row: dict[str, object]) -> dict[str, object]:
    """The tokens, and 1 for every base of the gene."""
    first, last = row["gene"]
    return dict(tokenizer(row["sequence"])) | {"labels": [int(first <= i < last) for i in range(len(row["sequence"]))]}


data = Dataset.from_list(list(map(row, range(1000)))).map(encode).train_test_split(100, seed=0)
config = DLRConfig(
    bidirectional=True, hidden_size=64, num_hidden_layers=3, id2label={0: "outside", 1: "gene"},
    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
args = TrainingArguments(
    "outputs/dna", learning_rate=5e-3, warmup_steps=20, lr_scheduler_type="cosine", num_train_epochs=7,
    per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip
model = DLRForTokenClassification(config)
trainer = Trainer(
    model,
    args,
    train_dataset=data["train"],
    data_collator=DataCollatorForTokenClassification(tokenizer),  # pads labels with -100, which the loss ignores
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()
found = trainer.predict(data["test"])
real = found.label_ids >= 0
given, wanted = found.predictions.argmax(-1)[real] == 1, found.label_ids[real] == 1
f1 = 2 * (given & wanted).sum() / (given.sum() + wanted.sum())
print(f"F1 of bases {f1:.3f}")

sequence = bases(30) + box + bases(50) + end + bases(30)
with torch.inference_mode():
    labels = model.eval()(**tokenizer(sequence, return_tensors="pt")).logits[0].argmax(-1)
print(sequence, "".join(" #"[label] for label in labels), sep="\n")
