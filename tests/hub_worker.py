"""Load a repository from the Hub without this package and with an empty cache; test_hub_push.py runs this file.

python -S hub_worker.py REPOSITORY OUTPUTS.json REVISION...
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

TEXTS = ["a", "Grüße, 世界", "long " * 50]


def outputs_of(repository: str, revision: str = "main") -> dict[str, list]:
    """The logits of the model, and the output of its pipeline."""
    options = {"revision": revision, "trust_remote_code": True}
    model = AutoModelForSequenceClassification.from_pretrained(repository, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits.tolist() for text in TEXTS]
    ask = pipeline("text-classification", model=repository, top_k=None, device="cpu", **options)
    return {"logits": logits, "pipeline": [ask(text) for text in TEXTS]}


if __name__ == "__main__":
    assert importlib.util.find_spec("modeling_dlr") is None
    torch.set_num_threads(1)
    found = [outputs_of(sys.argv[1], revision) for revision in sys.argv[3:]]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
