"""Generation: what a causal model says to transformers' `generate` besides its forward."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .checks_dlr import check_values


class Generates:
    """A causal language model whose layers read one number per step of a mask; a base beside `GenerationMixin`."""

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args, **kwargs
    ) -> Any:
        """As in transformers; what a tokenizer returns besides may stay in.

        An empty prompt, of padding or of no token, begins with ``bos_token_id``.

        Raises:
            ValueError: for a batch that begins with padding and has no attention_mask, where padding is also a token of
                the text, so that nobody could tell them apart; and for an empty prompt where there is no
                ``bos_token_id``.
        """
        kwargs.pop("token_type_ids", None)
        prompt, mask = kwargs.get("input_ids", inputs), kwargs.get("attention_mask")
        if isinstance(prompt, Tensor) and kwargs.get("inputs_embeds") is None:
            kwargs.pop("input_ids", None)
            # The first that says anything, as transformers has it.
            # pyrefly: ignore[missing-attribute] - of GenerationMixin
            said = [kwargs, *(config.to_dict() for config in (generation_config, self.generation_config) if config)]
            pad, end, begin = (
                next((settings[name] for settings in said if settings.get(name) is not None), None)
                for name in ("pad_token_id", "eos_token_id", "bos_token_id")
            )
            if mask is None and pad is not None:
                ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
                _refuse_padding_without_mask(prompt, int(pad), ends)
                if pad not in ends and kwargs.get("cache", kwargs.get("past_key_values")) is None:
                    mask = prompt.ne(int(pad))  # as transformers sees it
            inputs, mask = _begin_empty_prompts(prompt, mask, begin)
            kwargs |= {} if mask is None else {"attention_mask": mask}
        # pyrefly: ignore[missing-attribute] - of GenerationMixin, which comes after this class
        return super().generate(inputs, generation_config, *args, **kwargs)

    def init_continuous_batching(self, *args, **kwargs) -> Any:
        """Refused: its memory holds the keys and values of attention, page by page, and no state.

        Raises:
            NotImplementedError: saying what to call.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not do continuous batching (generate_batch, cache_implementation='paged'): "
            "call generate with a padded batch and its attention_mask."
        )

    @staticmethod
    def create_masks_for_generate(*, attention_mask: Tensor | None = None, **_) -> Tensor | None:
        """The mask as it is: every layer reads one number per step."""
        return attention_mask


def _refuse_padding_without_mask(prompt: Tensor, pad: int, ends: list[int]) -> None:
    if pad not in ends or prompt.dim() != 2 or prompt.shape[0] == 1:
        return
    padded = prompt[:, 0] == pad
    if padded.any() and not padded.all():
        raise ValueError(
            f"Row {int(padded.nonzero()[0])} of the prompts begins with pad_token_id={pad}, which is also the end of a "
            "text: pass the attention_mask that the tokenizer returned."
        )


def _begin_empty_prompts(prompt: Tensor, mask: Tensor | None, begin: int | None) -> tuple[Tensor, Tensor | None]:
    """Prompts [B, L] and their mask, with the token that begins texts as the last one of each that is empty."""
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
