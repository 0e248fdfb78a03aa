"""Load saved folders without this package: run by test_auto.py with `python -S`.

    python -S remote_worker.py MODELS EXPECTED SECOND_GENERATION

MODELS has one folder per Auto class, some with a tokenizer or processor. EXPECTED is a file of inputs and outputs for
each; questions.json has the inputs of pipelines, and their outputs where the package is installed.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline


def ask(task: str, folder: Path, question: Any, **options: Any) -> Any:
    """What a pipeline answers, question and answer as JSON has them: lists for sound and pixels, bytes for masks."""
    prepare = {
        "audio-classification": lambda samples: np.array(samples, dtype=np.float32),
        "image-segmentation": lambda pixels: Image.fromarray(np.array(pixels, dtype=np.uint8)),
    }
    answer = pipeline(task, model=str(folder), **options)(prepare.get(task, lambda text: text)(question))
    if task == "image-segmentation":
        return [[row["label"], row["mask"].size, row["mask"].tobytes().hex()] for row in answer]
    return answer


def answers(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


# What begins like this was saved beside a model, not by it.
PROCESSORS = ("tokenizer", "preprocessor")

# Where they are, and the Auto class that loads them as classes of transformers, without running code of the folder.
LOADED_WITHOUT_TRUST = {
    "AutoModelForCausalLM": "AutoTokenizer",
    "hybrid": "AutoTokenizer",
    "AutoModelForAudioClassification": "AutoFeatureExtractor",
    "AutoModelForSemanticSegmentation": "AutoImageProcessor",
}

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
            file.name for file in (folder / auto_class).iterdir() if not file.name.startswith(PROCESSORS)
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

    for name, auto_class in LOADED_WITHOUT_TRUST.items():
        processor = getattr(transformers, auto_class).from_pretrained(folder / name, trust_remote_code=False)
        assert type(processor).__module__.startswith("transformers.")

    for task, name, question, options, answer in json.loads((expectations.parent / "questions.json").read_text()):
        assert json.loads(json.dumps(ask(task, folder / name, question, **options, trust_remote_code=True))) == answer


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
