"""Answers that are chosen: a span of a text for a question, or one text of several."""

import os
from typing import Any

import torch
import transformers

from modeling_dlr.inference import load_text_model

from .answers import Answer, Answerer, Field, coloured, percent, require


class QuestionAnswerer(Answerer):
    """Marks the span of a text that answers a question."""

    asks = (Field("text", "question"), Field("text", "text"))
    shows = ("pieces",)
    instruction = "Type a question and a text: the model marks the answer in the text."

    def __init__(self, folder: str | os.PathLike[str], device: str):
        self.model, self.tokenizer = load_text_model(
            transformers.AutoModelForQuestionAnswering, str(folder), device=device
        )

    def __call__(self, *values: Any) -> Answer:
        """Mark the likeliest span of the text whose end is not before its start."""
        question, text = ((value or "") for value in values)
        require(question.strip() and text.strip(), "Type a question and a text first.")
        inputs = self.tokenizer(question, text, return_tensors="pt", return_offsets_mapping=True)
        places = inputs.pop("offset_mapping")[0].tolist()
        inside = torch.tensor([side == 1 for side in inputs.sequence_ids(0)])
        with torch.inference_mode():
            output = self.model(**inputs.to(self.model.device))
        first, last = (
            one[0].float().cpu().masked_fill(~inside, -torch.inf).log_softmax(-1)
            for one in (output.start_logits, output.end_logits)
        )
        # For every end the likeliest start up to it: O(L) instead of a table of all pairs.
        before, starts = first.cummax(0)
        end = int((before + last).argmax())
        start, score = int(starts[end]), float((before + last)[end].exp())
        span = places[start][0], places[end][1]
        said = f"The answer: {text[span[0] : span[1]]!r}, {percent(score)}."
        return Answer(said, pieces=coloured(text, [(*span, "answer")]))


class ChoiceAnswerer(Answerer):
    """Chooses one of several texts."""

    asks = (Field("text", "texts, one on each line"),)
    shows = ("scores",)
    instruction = "Type two texts or more, one on each line: the model chooses one."

    def __init__(self, folder: str | os.PathLike[str], device: str):
        self.model, self.tokenizer = load_text_model(
            transformers.AutoModelForMultipleChoice, str(folder), device=device
        )

    def __call__(self, *values: Any) -> Answer:
        """Score every line."""
        lines = [line.strip() for line in (values[0] or "").splitlines() if line.strip()]
        require(len(lines) > 1, "Type two lines or more first.")
        inputs = self.tokenizer(lines, padding=True, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            output = self.model(**{name: value.unsqueeze(0) for name, value in inputs.items()})
        scores = output.logits[0].float().softmax(-1).tolist()
        named = {f"{place}. {line}": score for place, (line, score) in enumerate(zip(lines, scores, strict=True), 1)}
        best = max(named, key=lambda name: named[name])
        return Answer(f"The model chooses {best}", named)
