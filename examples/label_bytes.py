"""Label every byte of a file: which bytes of Python code are comments, and which are strings."""

import io
import random
import tokenize
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate
from transformers import Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForTokenClassification
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
labels, length = ["code", "comment", "string"], 256
kinds = {tokenize.COMMENT: 1, tokenize.STRING: 2}


def labelled(source: str) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of an ASCII source, and the class of each, by Python's own tokenizer."""
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    classes = np.zeros(len(source), dtype=np.int64)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            (first, left), (last, right) = token.start, token.end
            classes[starts[first - 1] + left : starts[last - 1] + right] = kinds[token.type]
    return np.frombuffer(source.encode(), dtype=np.uint8).astype(np.int64), classes


def windows(files: list[Path], count: int) -> list[dict[str, np.ndarray]]:
    """Pieces of files; the byte b is token b + 1, and 0 is padding."""
    sources = [labelled(text) for text in map(Path.read_text, files) if text.isascii() and len(text) > length]
    chosen = random.choices(sources, k=count)  # noqa: S311
    cuts = [(source, random.randrange(len(source[0]) - length)) for source in chosen]  # noqa: S311
    return [{"input_ids": b[i : i + length] + 1, "labels": c[i : i + length]} for (b, c), i in cuts]


library = sorted(Path(random.__file__).parent.glob("*.py"))
random.shuffle(library)
train, test = windows(library[20:80], 960), windows(library[:20], 100)  # no file is on both sides

config = DLRConfig(
    bidirectional=True, hidden_size=48, num_hidden_layers=2, vocab_size=257, pad_token_id=0,
    id2label=dict(enumerate(labels)),
)  # fmt: skip
args = TrainingArguments(
    "outputs/label_bytes", learning_rate=4e-3, warmup_steps=10, lr_scheduler_type="cosine", num_train_epochs=4,
    per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip
model = DLRForTokenClassification(config)
trainer = Trainer(
    model,
    args,
    train_dataset=train,
    data_collator=default_collate,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()
found = trainer.predict(test)
accuracy = (found.predictions.argmax(-1) == found.label_ids).mean()
baseline = (found.label_ids == 0).mean()
print(f"accuracy per byte {accuracy:.3f}; all of them code: {baseline:.3f}")

code = b'x = "text"  # and a comment'
with torch.inference_mode():
    classes = model.eval()(input_ids=torch.tensor([list(code)]) + 1).logits[0].argmax(-1)
print(code.decode(), "".join(labels[i][0] for i in classes), sep="\n")
