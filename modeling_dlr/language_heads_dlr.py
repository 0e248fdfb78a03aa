"""Language models: the next token (causal) and the hidden token (masked)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from .checks_dlr import check_tokens_to_predict
from .configuration_dlr import DLRConfig
from .family_dlr import refuse_unknown_arguments
from .generation_dlr import Generates
from .layout_dlr import Layout, first_steps
from .losses_dlr import next_token_loss, token_loss, within_documents
from .modeling_dlr import DOCUMENTS_ARGS, DLRModel, DLRPreTrainedModel
from .outputs_dlr import MaskedLMOutputWithPast

logger = logging.get_logger(__name__)

# By this name the Trainer knows that labels are of the next token when it smooths them, and `transformers serve` that
# this model generates; registering an Auto class does not enter it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["dlr"] = "DLRForCausalLM"

TOKENS_ARGS = r"""
    labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
        Tokens to predict at each step (a causal model shifts them by itself); -100 is ignored.
"""


class DLRLanguageHead(DLRPreTrainedModel):
    """The recipe: the backbone, and a projection onto the vocabulary that may share the embedding's weights."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    output_class: type[CausalLMOutputWithPast] | type[MaskedLMOutputWithPast]

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        if config.vocab_size is None:
            raise ValueError(
                f"{type(self).__name__} predicts tokens, but input_size={config.input_size} says the input is "
                "real-valued: set vocab_size instead."
            )
        self.model = DLRModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @auto_docstring(custom_args=DOCUMENTS_ARGS + TOKENS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            "cu_seq_lens_q": cu_seq_lens_q,
        }
        refuse_unknown_arguments(type(self), kwargs)
        reading = self.model.read(**inputs)
        all_logits = isinstance(logits_to_keep, int) and logits_to_keep == 0
        for tokens in (labels, kwargs.get("shift_labels")):
            if tokens is not None:
                # pyrefly: ignore[bad-argument-type] - __init__ refuses None
                check_tokens_to_predict(tokens, reading.batch_size, reading.length, self.config.vocab_size, all_logits)
        outputs = self.model(**inputs, reading=reading, return_dict=True, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.compute_loss(logits, labels, reading.layout, **kwargs)
        return self.output_class(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def compute_loss(self, logits: Tensor, labels: Tensor, layout: Layout, **kwargs: Any) -> Tensor:
        """The `loss_function`, as everywhere in transformers, of logits [B, L, vocab_size] and labels [B, L]."""
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)


@auto_docstring(custom_intro="DLR that predicts the next token, and generates with a state of constant size.")
class DLRForCausalLM(DLRLanguageHead, Generates, GenerationMixin):
    output_class = CausalLMOutputWithPast

    def __init__(self, config: DLRConfig):
        if config.bidirectional:
            raise ValueError(
                "DLRForCausalLM predicts the next token and generates, but bidirectional=True reads it: use "
                "DLRForMaskedLM, or train with bidirectional=False."
            )
        super().__init__(config)
        self.loss_function = next_token_loss
        # Generation carries a state wherever there is one, whatever config.use_cache says of other forward passes.
        self.generation_config.use_cache = self.model.no_cache_because is None

    def compute_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        layout: Layout,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The same without the first token of each document; see `within_documents`."""
        if layout.documents is not None:
            first = first_steps(layout.documents, labels)
            labels, num_items_in_batch = within_documents(labels, first, num_items_in_batch)
        return super().compute_loss(logits, labels, layout, num_items_in_batch=num_items_in_batch, **kwargs)

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args, **kwargs
    ) -> Any:
        """As in transformers; see `Generates`.

        Raises:
            ValueError: as there, and for embeddings as a prompt where there is no cache.
        """
        if kwargs.get("inputs_embeds") is not None and self.model.no_cache_because is not None:
            raise ValueError(
                f"A prompt of inputs_embeds needs a cache to go on from, but {self.model.no_cache_because}: pass "
                "input_ids."
            )
        return super().generate(inputs, generation_config, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs,
    ) -> dict[str, Any]:
        """As in transformers. The mask of a generated token counts it, which a state need not be told."""
        if cache is not None and not is_first_iteration and not self.model.attends:
            attention_mask = None
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, cache, attention_mask, inputs_embeds, is_first_iteration, **kwargs
        )


@auto_docstring(custom_intro="DLR that predicts hidden tokens from both sides.")
class DLRForMaskedLM(DLRLanguageHead):
    output_class = MaskedLMOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.loss_function = token_loss
        if not config.bidirectional:
            logger.warning_once(
                "DLRForMaskedLM sees only what is left of a hidden token, because bidirectional=False: set "
                "bidirectional=True in DLRConfig and train anew, or use DLRForCausalLM."
            )


__all__ = ["DLRForCausalLM", "DLRForMaskedLM"]
