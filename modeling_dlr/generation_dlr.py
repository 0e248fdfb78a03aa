"""Generation: arguments of transformers' `generate` that a model with a state treats differently."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .checks_dlr import check_values


class Generates:
    """Base, beside `GenerationMixin`, of causal language models whose layers read a mask of one number per step."""

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args, **kwargs
    ) -> Any:
        """As in transformers. Accepts everything that a tokenizer returns.

        An empty prompt, of padding or of no token, becomes ``bos_token_id``.

        Raises:
            ValueError: if a row begins with padding, there is no attention_mask, and the token of padding also ends
                texts, so that padding cannot be recognised; or if a prompt is empty and there is no ``bos_token_id``.
        """
        kwargs.pop("token_type_ids", None)
        prompt, mask = kwargs.get("input_ids", inputs), kwargs.get("attention_mask")
        if isinstance(prompt, Tensor) and kwargs.get("inputs_embeds") is None:
            kwargs.pop("input_ids", None)
            # The first value that is set counts, as in transformers.
            # pyrefly: ignore[missing-attribute] - of GenerationMixin
            sources = [kwargs, *(config.to_dict() for config in (generation_config, self.generation_config) if config)]
            pad, end, begin = (
                next((settings[name] for settings in sources if settings.get(name) is not None), None)
                for name in ("pad_token_id", "eos_token_id", "bos_token_id")
            )
            if mask is None and pad is not None:
                ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
                _refuse_padding_without_mask(prompt, int(pad), ends)
                if pad not in ends and kwargs.get("cache", kwargs.get("past_key_values")) is None:
                    mask = prompt.ne(int(pad))  # as transformers does
            inputs, mask = _begin_empty_prompts(prompt, mask, begin)
            kwargs |= {} if mask is None else {"attention_mask": mask}
        # pyrefly: ignore[missing-attribute] - of GenerationMixin, which comes after this class
        return super().generate(inputs, generation_config, *args, **kwargs)

    def init_continuous_batching(self, *args, **kwargs) -> Any:
        """Refuse: the memory of continuous batching holds pages of keys and values, and no state.

        Raises:
            NotImplementedError: with the cure.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no continuous batching (generate_batch, cache_implementation='paged'): "
            "call generate with a padded batch and its attention_mask."
        )

    @staticmethod
    def create_masks_for_generate(*, attention_mask: Tensor | None = None, **_) -> Tensor | None:
        """Return the mask unchanged: every layer reads one number per step."""
        return attention_mask


def _refuse_padding_without_mask(prompt: Tensor, pad: int, ends: list[int]) -> None:
    if pad not in ends or prompt.dim() != 2 or prompt.shape[0] == 1:
        return
    padded = prompt[:, 0] == pad
    if padded.any() and not padded.all():
        raise ValueError(
            f"Row {int(padded.nonzero()[0])} of the prompts begins with pad_token_id={pad}, which also ends texts: "
            "pass the attention_mask that the tokenizer returned."
        )


def _begin_empty_prompts(prompt: Tensor, mask: Tensor | None, begin: int | None) -> tuple[Tensor, Tensor | None]:
    """Prompts [B, L] and their mask, where the last token of each empty prompt is the token ``begin``."""
    if prompt.dim() != 2 or (mask is None and prompt.shape[1]) or (mask is not None and mask.dim() != 2):
        return prompt, mask
    if not prompt.shape[1]:
        prompt, mask = prompt.new_zeros(len(prompt), 1), prompt.new_zeros(len(prompt), 1)
    assert mask is not None  # noqa: S101 - seen to above; this tells the type checker
    counts = (mask != 0).sum(1)
    if begin is None:
        check_values(
            counts,
            lambda tokens: tokens > 0,
            "Without a bos_token_id every prompt must hold at least one token",
            "drop empty texts, or set model.generation_config.bos_token_id",
        )
        return prompt, mask
    prompt, mask = prompt.clone(), mask.clone()
    prompt[:, -1] = prompt[:, -1].where(counts > 0, begin)
    mask[:, -1] = mask[:, -1].where(counts > 0, 1)
    return prompt, mask
