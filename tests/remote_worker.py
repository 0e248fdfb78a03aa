"""Load saved folders as somebody who does not have this package: run by test_auto.py with `python -S`.

    python -S remote_worker.py MODELS EXPECTED SECOND_GENERATION

MODELS holds one folder per Auto class, a tokenizer beside the classifier of texts, and EXPECTED a file of inputs and
the answer for each.
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


# A saved folder, and the heads that can be put on what it holds whose code must have come along.
SERVES = {
    "AutoModel": ["AutoModelForCausalLM", "AutoModelForQuestionAnswering", "AutoModelForNextSentencePrediction"],
    "AutoModelForCausalLM": ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForMultipleChoice"],
    "AutoModelForImageClassification": ["AutoModelForSemanticSegmentation", "AutoModelForAudioFrameClassification"],
}


def main(folder: Path, expectations: Path, second_generation: Path) -> None:
    assert importlib.util.find_spec("modeling_dlr") is None
    torch.set_num_threads(1)
    for path in expectations.iterdir():
        auto_class, inputs = path.stem, load_file(path)
        answer, auto = inputs.pop("answer"), getattr(transformers, auto_class)
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

    for saved, heads in SERVES.items():
        for auto_class in heads:
            getattr(transformers, auto_class).from_pretrained(second_generation / saved, trust_remote_code=True)

    prompt = torch.tensor([[5, 6, 7]])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        second_generation / "AutoModelForCausalLM", trust_remote_code=True
    )
    assert model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5).shape == (1, 8)

    name = "AutoModelForSequenceClassification"
    classify = pipeline("text-classification", model=str(folder / name), trust_remote_code=True, top_k=None)
    for text, scores in json.loads((folder / "scores.json").read_text(encoding="utf-8")).items():
        (rows,) = classify([text])
        answer = {row["label"]: row["score"] for row in rows}
        assert answer.keys() == scores.keys()
        assert all(abs(answer[label] - score) < 1e-6 for label, score in scores.items())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
