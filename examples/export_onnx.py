"""Export a classifier to ONNX, for any number and length of texts, and run it without torch."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.export import Dim
from transformers import AutoTokenizer, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer

set_seed(0)
folder = Path("outputs/export_onnx")

# Your trained folder takes the place of this one.
tokenizer = byte_tokenizer()
config = DLRConfig(
    bidirectional=True, hidden_size=32, num_hidden_layers=2, id2label={0: "good", 1: "bad"},
    vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
DLRForSequenceClassification(config).save_pretrained(folder)
tokenizer.save_pretrained(folder)

# Export. The example has two texts of different lengths; Dim.DYNAMIC leaves both axes open.
model = DLRForSequenceClassification.from_pretrained(folder).eval()
example = dict(tokenizer(["an example", "a longer example"], padding=True, return_tensors="pt"))
axes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in example}
torch.onnx.export(
    model,
    kwargs=example,
    f=str(folder / "model.onnx"),
    dynamo=True,
    dynamic_shapes=axes,
    output_names=["logits"],
    verbose=False,
)

# Run it, with NumPy and the tokenizer alone.
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
texts = ["What a gripping film!", "Clumsy.", "A long text, " * 40]
batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
[logits] = session.run(["logits"], dict(batch))
for text, row in zip(texts, logits, strict=True):
    print(names[str(row.argmax())], text[:30])

# The same numbers as those of torch.
with torch.inference_mode():
    expected = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
difference = float(np.abs(logits - expected).max())
print(f"largest difference from torch: {difference:.1e}")
