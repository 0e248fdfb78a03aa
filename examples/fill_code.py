"""Train a masked language model on the bytes of Python code, and fill masked bytes of lines that it has not seen.

python examples/fill_code.py        # trains for 300 steps: some minutes on two cores
python examples/fill_code.py 100    # or for fewer
"""

import random
import sys
from pathlib import Path

import numpy as np
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, pipeline, set_seed

from modeling_dlr import DLRConfig, DLRForMaskedLM
from modeling_dlr.tokenization import byte_tokenizer
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
steps, length = int(sys.argv[1]) if len(sys.argv) > 1 else 300, 1024

# Files of Python's standard library, some of them for the test, in windows of bytes.
tokenizer = byte_tokenizer(add_prefix_space=False)
files = sorted(Path(random.__file__).parent.glob("*.py"))
random.shuffle(files)


def windows(paths: list[Path]) -> list[dict]:
    """The tokens of files, cut into windows."""
    texts = [tokenizer(path.read_text(encoding="utf-8")).input_ids for path in paths]
    return [{"input_ids": ids[at : at + length]} for ids in texts for at in range(0, len(ids), length)]


train, test = windows(files[20:]), windows(files[:20])[:64]
config = DLRConfig(
    bidirectional=True, hidden_size=96, num_hidden_layers=3, state_size=64, output_gate="glu", initializer_range=0.02,
    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
args = TrainingArguments(
    "outputs/fill_code", learning_rate=4e-3, warmup_steps=steps // 8, lr_scheduler_type="cosine", weight_decay=0.05,
    max_steps=steps, per_device_train_batch_size=16, save_strategy="no", report_to="none",
)  # fmt: skip


def accuracy(prediction) -> dict[str, float]:
    """Of the masked bytes, which alone have labels."""
    masked = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions == prediction.label_ids)[masked].mean())}


trainer = Trainer(
    DLRForMaskedLM(config),
    args,
    train_dataset=train,
    eval_dataset=test,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    processing_class=tokenizer,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
    compute_metrics=accuracy,
    preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
)
trainer.train()
filled = trainer.evaluate()["eval_accuracy"]
trainer.save_model()

# A simpler model: the byte that most often follows the byte before.
follows = np.zeros((len(tokenizer), len(tokenizer)), dtype=np.int64)
for row in train:
    np.add.at(follows, (row["input_ids"][:-1], row["input_ids"][1:]), 1)
guesses = [follows.argmax(1)[row["input_ids"][:-1]] == row["input_ids"][1:] for row in test]
baseline = float(np.concatenate(guesses).mean())
print(f"masked bytes filled in: {filled:.3f}; by the byte before: {baseline:.3f}")

fill = pipeline("fill-mask", model="outputs/fill_code")
for line in ("for i in r<mask>nge(10):", "def __ini<mask>__(self):", "import nump<mask> as np"):
    best = fill(line)[0]
    print(f"{line:>28}  {best['token_str']!r} ({best['score']:.2f})")
