"""Load saved folders as somebody who does not have this package: run by test_auto.py with `python -S`.

    python -S remote_worker.py FOLDER SECOND_GENERATION

FOLDER holds one folder per model of expected.safetensors, and a tokenizer beside the classifier of texts.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import pipeline


def answers(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def main(folder: Path, second_generation: Path) -> None:
    assert importlib.util.find_spec("modeling_dlr") is None
    torch.set_num_threads(1)
    expected = load_file(folder / "expected.safetensors")
    inputs = {name: expected.pop(name) for name in ("input_ids", "attention_mask")}

    for auto_class, answer in expected.items():
        auto = getattr(transformers, auto_class)
        model = auto.from_pretrained(folder / auto_class, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules.")
        torch.testing.assert_close(answers(model, inputs), answer, rtol=0, atol=0)

        again = second_generation / auto_class
        model.save_pretrained(again)
        assert sorted(file.name for file in again.iterdir()) == sorted(
            file.name for file in (folder / auto_class).iterdir() if "tokenizer" not in file.name
        )
        model = auto.from_pretrained(again, trust_remote_code=True).eval()
        torch.testing.assert_close(answers(model, inputs), answer, rtol=0, atol=0)

    for auto_class in expected:  # whichever head was saved, every head's code came along
        getattr(transformers, auto_class).from_pretrained(second_generation / "AutoModel", trust_remote_code=True)

    name = "AutoModelForSequenceClassification"
    classify = pipeline("text-classification", model=str(folder / name), trust_remote_code=True, top_k=None)
    for text, scores in json.loads((folder / "scores.json").read_text(encoding="utf-8")).items():
        (rows,) = classify([text])
        answer = {row["label"]: row["score"] for row in rows}
        assert answer.keys() == scores.keys()
        assert all(abs(answer[label] - score) < 1e-6 for label, score in scores.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
