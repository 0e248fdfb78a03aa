"""The DLR model and its language models, by the conventions of transformers."""

import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_dlr import DLRAttention
from .blocks_dlr import DLRBlock, DLRMixer, MaskedBatchNorm, ScalarLayerNorm, build_norm, normalise
from .cache_dlr import DLRCacheLayer, check_cache
from .checks_dlr import (
    check_attention_weights,
    check_finite,
    check_inputs,
    check_tied_weights,
    check_tokens_to_predict,
    check_whole_sequences,
    input_shape,
    refuse_checkpointing,
    refuse_several_documents,
    refuse_unknown_arguments,
    values_are_cheap,
    warn_of_empty_rows,
)
from .configuration_dlr import DLRConfig
from .generation_dlr import Generates
from .kernels_dlr import Kernel
from .layout_dlr import BackboneOutput, Layout, build_layout, without_padding
from .losses_dlr import next_token_loss, token_loss, within_documents

logger = logging.get_logger(__name__)

# The Trainer (for label smoothing) and `transformers serve` find causal models by this name. Registering an Auto class
# does not enter it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["dlr"] = "DLRForCausalLM"


@auto_docstring
class DLRPreTrainedModel(PreTrainedModel):
    config: DLRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_context_parallel = False
    _no_split_modules = ["DLRBlock"]
    _keep_in_fp32_modules_strict = ["kernel"]
    _can_record_outputs = {"hidden_states": DLRBlock, "attentions": OutputRecorder(DLRAttention, index=1)}
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):  # noqa: PLR0912 - one branch per kind of module
        """Initialise every parameter that was not loaded; as in the official code if initializer_range is None."""
        official = self.config.initializer_range is None
        if isinstance(module, Kernel):
            for name, value in module.initial_values().items():
                init.copy_(module.get_parameter(name), value)
            for name, value in module.initial_buffers().items():
                init.copy_(module.get_buffer(name), value)
        elif isinstance(module, DLRMixer):
            init.normal_(module.D)
        elif isinstance(module, DLRAttention):
            init.constant_(module.query_scale, module.head_size**-0.5)
        elif isinstance(module, ScalarLayerNorm):
            init.ones_(module.scale)
            init.zeros_(module.shift)
        elif isinstance(module, MaskedBatchNorm):
            for ones in (module.weight, module.running_var):
                init.ones_(ones)
            for zeros in (module.bias, module.running_mean, module.num_batches_tracked):
                init.zeros_(zeros)
        elif isinstance(module, nn.Linear) and official:
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding) and official:
            init.normal_(module.weight)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """As in transformers; saves the code of all heads beside the weights, for every Auto class."""
        # Imported here because that file imports this one. transformers finds the import in the text of this file, and
        # so copies the code of every head.
        from .auto_dlr import AUTO_CLASSES

        self.config.set_auto_map(AUTO_CLASSES)
        super().save_pretrained(save_directory, *args, **kwargs)


# Arguments that several forwards have. `auto_docstring` takes each description from here or from a docstring.
VALUES_ARGS = r"""
    input_values (`torch.FloatTensor` of shape `(batch_size, sequence_length, input_size)`, *optional*):
        Real-valued input of a model with `input_size`; `(batch_size, sequence_length)` when `input_size` is 1.
"""
DOCUMENTS_ARGS = r"""
    position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
        A document begins where they restart. Several documents in a row are computed each by itself.
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        The first steps of the documents of a single row, and its end: 0, l₁, l₁ + l₂, …; overrides `attention_mask`.
"""


@auto_docstring
class DLRModel(DLRPreTrainedModel):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        if config.vocab_size is not None:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        elif config.input_size is not None:
            self.input_projection = nn.Linear(config.input_size, config.hidden_size)
            self.main_input_name = "input_values"
        self.layer_types = list(config.layer_types or [])
        self.attends = any(kind != "dlr" for kind in self.layer_types)
        H, heads = config.hidden_size, config.num_attention_heads
        self.state_shape, self.head_shape = (H, config.state_size), (heads, H // heads)
        self.layers = nn.ModuleList([DLRBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        # The processes over which modeling_dlr.parallel splits each sequence.
        self.sequence_parts = 1
        self.no_cache_because = self._why_no_cache()
        # A head that pools rows sets this to the reason.
        self.no_documents_because: str | None = None
        self.post_init()

    def _why_no_cache(self) -> str | None:
        """The reason why this model has no state to carry on, or None if it has one."""
        if self.config.bidirectional:
            return "bidirectional=True reads the future"
        reasons = [module.no_recurrence_because for module in self.modules() if isinstance(module, Kernel)]
        return next((reason for reason in reasons if reason is not None), None)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring(custom_args=VALUES_ARGS + DOCUMENTS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BackboneOutput:
        refuse_unknown_arguments(type(self), kwargs)
        check_whole_sequences(self.sequence_parts)
        sizes = self.config.vocab_size, self.config.input_size, self.config.hidden_size
        inputs = check_inputs(input_ids, inputs_embeds, input_values, *sizes)
        if input_ids is not None and input_ids.shape[1] and values_are_cheap(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        carries_state = self._carries_state(cache, use_cache)
        past = 0
        if cache is not None:
            dtype = torch.promote_types(self.dtype, torch.float32)
            past = check_cache(cache, self.layer_types, inputs.shape[0], self.state_shape, dtype, self.head_shape)
        layout = build_layout(inputs, attention_mask, position_ids, cu_seq_lens_q, past, self.attends, carries_state)
        layout = self._check_layout(layout, inputs, cache, carries_state, kwargs.get("output_attentions"))
        if cache is None and carries_state:
            cache = DynamicCache(config=self.config)
        hidden_states = self._embed(input_ids, inputs_embeds, input_values, layout.current_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, layout, cache=cache)
        if self.config.norm_position == "pre":
            hidden_states = normalise(self.config.norm_type, self.norm, hidden_states, layout.current_mask)
        return BackboneOutput(
            last_hidden_state=hidden_states,
            cache=cache,
            attention_mask=layout.current_mask,
            document_starts=None if layout.documents is None else layout.documents.starts,
        )

    def _carries_state(self, cache: Cache | None, use_cache: bool | None) -> bool:
        """Whether to return a cache: if one is given, or if one is asked for and possible."""
        if cache is None and not (self.config.use_cache if use_cache is None else use_cache):
            return False
        if self.no_cache_because is not None:
            raise ValueError(
                f"This model cannot be used with a cache: {self.no_cache_because}. Pass use_cache=False, which "
                "computes every step anew."
            )
        if self.gradient_checkpointing and self.training:
            if cache is None:
                return False
            refuse_checkpointing()
        return True

    def _check_layout(
        self, layout: Layout, inputs: Tensor, cache: Cache | None, carries_state: bool, output_attentions: bool | None
    ) -> Layout:
        """Refuse documents and parameters that this model cannot compute, before a state changes.

        Returns:
            The layout, which now says whether the next token belongs to the present block.
        """
        if layout.documents is not None:
            refuse_several_documents(self.no_documents_because, carries_state)
        if self.attends and (self.config.output_attentions if output_attentions is None else output_attentions):
            check_attention_weights(self.config._attn_implementation, layout.documents is not None)
        if not carries_state:  # a row of padding may have steps earlier or later
            warn_of_empty_rows(inputs.shape[1], layout.current_mask)
        if cache is not None and inputs.shape[1] == 1 and layout.current_mask is None:
            mixers = [layer.mixer for layer in self.layers]
            states = [cast("DLRCacheLayer", layer) for layer in cache.layers]
            if all(
                isinstance(mixer, DLRMixer) and state.is_in_block_of(mixer.block_tensors())
                for mixer, state, kind in zip(mixers, states, self.layer_types, strict=False)
                if kind == "dlr"
            ):
                return layout._replace(in_block=True)
        self._check_finite()
        return layout

    def _check_finite(self) -> None:
        """Refuse parameters of recurrent layers that are not finite, and name them with their paths."""
        if torch.compiler.is_compiling():
            return
        check_finite(
            named
            for path, module in self.layers.named_modules(prefix=f"{self.base_model_prefix}.layers")
            if isinstance(module, (Kernel, DLRMixer))
            for named in module.named_parameters(path, recurse=isinstance(module, Kernel))
        )

    def _embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, input_values: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The input of the first block, [B, L, H]. Padding becomes zeros: 0 · NaN would reach every gradient."""
        if input_values is not None:
            values = input_values.unsqueeze(-1) if input_values.dim() == 2 else input_values
            return self.input_projection((values if mask is None else without_padding(values, mask)).to(self.dtype))
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return hidden_states if mask is None else without_padding(hidden_states, mask)


TOKENS_ARGS = r"""
    labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
        Tokens to predict at each step (a causal model shifts them by itself); -100 is ignored.
"""


CACHE_ARGS = r"""
cache (`~cache_utils.Cache`, *optional*, returned when `use_cache=True` is passed, or a cache is):
    The state after these steps, from which later steps can go on.
"""
with_cache = auto_docstring(
    custom_intro="The output of transformers that has this name without `WithPast`, and a cache.",
    custom_args=CACHE_ARGS,
)


@with_cache
@dataclass
class MaskedLMOutputWithPast(MaskedLMOutput):
    cache: Cache | None = None


class DLRLanguageHead(DLRPreTrainedModel):
    """A language model: the backbone, and a projection onto the vocabulary that may share the embedding's weights."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    output_class: type[CausalLMOutputWithPast] | type[MaskedLMOutputWithPast]

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        check_tied_weights(config.tie_word_embeddings, getattr(config, "distributed_config", None))
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
        refuse_unknown_arguments(type(self), kwargs)
        if labels is not None or kwargs.get("shift_labels") is not None:
            tokens = labels, kwargs.get("shift_labels")
            shape = input_shape(input_ids, inputs_embeds)
            # pyrefly: ignore[bad-argument-type] - __init__ refuses None
            check_tokens_to_predict(tokens, shape, self.config.vocab_size, logits_to_keep)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cu_seq_lens_q=cu_seq_lens_q,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.compute_loss(logits, labels, outputs.document_starts, **kwargs)
        return self.output_class(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def compute_loss(self, logits: Tensor, labels: Tensor, document_starts: Tensor | None, **kwargs: Any) -> Tensor:
        """The loss of logits [B, L, vocab_size] and labels [B, L], by `loss_function`."""
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
        # config.use_cache is for other forward passes; generation always carries a state if the model has one.
        self.generation_config.use_cache = self.model.no_cache_because is None

    def compute_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        document_starts: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The same without the first token of each document; see `within_documents`."""
        if document_starts is not None:
            labels, num_items_in_batch = within_documents(labels, document_starts, num_items_in_batch)
        return super().compute_loss(logits, labels, document_starts, num_items_in_batch=num_items_in_batch, **kwargs)

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
        """As in transformers. Recurrent layers do not need the mask of a generated token, which is 1."""
        if cache is not None and not is_first_iteration and not self.model.attends:
            attention_mask = None
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length, cache, attention_mask, inputs_embeds, is_first_iteration, **kwargs
        )


@auto_docstring(custom_intro="DLR that predicts masked tokens from both sides.")
class DLRForMaskedLM(DLRLanguageHead):
    output_class = MaskedLMOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.loss_function = token_loss
        if not config.bidirectional:
            logger.warning_once(
                "DLRForMaskedLM reads only what is left of a masked token, because bidirectional=False: set "
                "bidirectional=True in DLRConfig and train anew, or use DLRForCausalLM."
            )


__all__ = ["DLRForCausalLM", "DLRForMaskedLM", "DLRModel", "DLRPreTrainedModel"]
