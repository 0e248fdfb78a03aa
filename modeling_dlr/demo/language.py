"""Language models: fill the gaps of a text, or write on from its begin."""

import os
from typing import Any

import torch
import transformers

from modeling_dlr.inference import load_text_model

from .answers import Answer, Answerer, Field, Pieces, percent, require

# The candidates that are shown for the first gap.
MOST_CANDIDATES = 8
# What a reader may type for a gap, whatever the tokenizer calls it.
GAP = "___"


class GapAnswerer(Answerer):
    """Fills the gaps of a text with a masked language model.

    Raises:
        ValueError: for a folder whose tokenizer has no mask token.
    """

    asks = (Field("text", "text"),)
    shows = ("pieces", "scores")

    def __init__(self, folder: str | os.PathLike[str], device: str):
        self.model, self.tokenizer = load_text_model(transformers.AutoModelForMaskedLM, str(folder), device=device)
        self.mask = self.tokenizer.mask_token
        require(self.mask is not None, f"{folder} has a tokenizer without a mask token, so that no gap can be filled.")
        self.instruction = (
            f"Type a text with {GAP} (three underscores) or {self.mask} for every missing token: the model fills them."
        )

    def __call__(self, *values: Any) -> Answer:
        """Fill each gap with the likeliest token, all from one pass of the model."""
        (text,) = values
        require((text or "").strip(), "Type a text first.")
        text = text.replace(GAP, self.mask)
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        gaps = (ids[0] == self.tokenizer.mask_token_id).nonzero().flatten()
        require(len(gaps), f"There is no gap: type {GAP} where a token is missing.")
        with torch.inference_mode():
            logits = self.model(input_ids=ids.to(self.model.device)).logits[0, gaps].float().cpu()
        best = logits.argmax(-1)
        candidates, ranked = logits[0].softmax(-1).topk(min(MOST_CANDIDATES, logits.shape[-1]))
        scores = {self._shown(token): score for token, score in zip(ranked.tolist(), candidates.tolist(), strict=True)}
        first = self._shown(int(best[0]))
        said = f"The first gap: {first!r}, {percent(float(candidates[0]))}. Its likeliest tokens are listed."
        return Answer(said, scores, self._filled(text, best.tolist()))

    def _shown(self, token: int) -> str:
        """A token as text; its name where it is no text by itself, such as a byte of a longer character."""
        text = self.tokenizer.decode([token])
        return text if text.strip() and "\ufffd" not in text else self.tokenizer.convert_ids_to_tokens(token)

    def _filled(self, text: str, tokens: list[int]) -> Pieces:
        first, *others = text.split(self.mask)
        pieces: Pieces = [(first, None)]
        for token, between in zip(tokens, others, strict=True):
            pieces += [(self._shown(token), "filled in"), (between, None)]
        return [piece for piece in pieces if piece[0]]


class TextWriter(Answerer):
    """Goes on from the begin of a text with a causal language model."""

    asks = (
        Field("text", "begin"),
        Field("number", "new tokens", 100, (1, 1000, 1)),
        Field("number", "temperature (0 takes the likeliest token each time)", 0.8, (0, 2, 0.1)),
    )
    shows = ("pieces",)
    instruction = "Type the begin of a text: the model goes on."

    def __init__(self, folder: str | os.PathLike[str], device: str):
        self.model, self.tokenizer = load_text_model(transformers.AutoModelForCausalLM, str(folder), device=device)

    def __call__(self, *values: Any) -> Answer:
        """Write so many tokens, or until the model ends its text."""
        text, count, temperature = values
        require((text or "").strip(), "Type the begin of a text first.")
        inputs = self.tokenizer(text, return_tensors="pt", return_token_type_ids=False).to(self.model.device)
        sampling = {"do_sample": True, "temperature": float(temperature)} if temperature > 0 else {"do_sample": False}
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=int(count), **sampling)[0]
        new = ids[inputs["input_ids"].shape[1] :]
        written = self.tokenizer.decode(new, skip_special_tokens=True)
        said = f"The model wrote {len(new)} token{'s' if len(new) != 1 else ''}."
        pieces: Pieces = [(text, None), (written, "written by the model")]
        return Answer(said, pieces=pieces if written else pieces[:1])
