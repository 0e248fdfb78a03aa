"""Evo-1 and StripedHyena-7B: backbone and heads, by the conventions of transformers and with the published names.

Source: together.ai, "StripedHyena" (2023); Evo (Science 386, eado9336, 2024).
"""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .blocks_striped_hyena import (
    BLOCKS,
    StripedHyenaAttention,
    StripedHyenaBlock,
    StripedHyenaFilter,
    StripedHyenaRMSNorm,
    StripedHyenaRotary,
    in_pieces,
)
from .cache_dlr import check_cache
from .checkpoint_striped_hyena import check_shapes, refuse_weights, saved_shapes, warn_of_revision
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
from .configuration_striped_hyena import StripedHyenaConfig
from .generation_dlr import Generates
from .layout_dlr import BackboneOutput, build_layout, without_padding
from .losses_dlr import check_labels, loss_by_problem_type, next_token_loss, pool, within_documents

# By this name the Trainer knows that labels are of the next token when it smooths them, and `transformers serve` that
# this model generates; registering an Auto class does not enter it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["stripedhyena"] = "StripedHyenaModelForCausalLM"


@auto_docstring
class StripedHyenaPreTrainedModel(PreTrainedModel):
    config: StripedHyenaConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_context_parallel = False
    _no_split_modules = ["StripedHyenaConvolutionBlock", "StripedHyenaAttentionBlock"]
    _keep_in_fp32_modules_strict = ["poles", "residues"]
    _keys_to_ignore_on_load_missing = [r"rotary_emb\.inv_freq$"]
    _keys_to_ignore_on_load_unexpected = [r"unembed\.weight$"]
    _can_record_outputs = {
        "hidden_states": StripedHyenaBlock,
        "attentions": OutputRecorder(StripedHyenaAttention, index=1),
    }
    _is_stateful = True
    _input_embed_layer = "embedding_layer"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Draw fresh values for every parameter that was not loaded."""
        if isinstance(module, StripedHyenaFilter):
            module.initialise()
        elif isinstance(module, StripedHyenaRMSNorm):
            init.ones_(module.scale)
        elif isinstance(module, StripedHyenaRotary):
            init.copy_(module.inv_freq, module.frequencies())
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs) -> Any:
        """As in transformers, with a warning for a revision whose weights are known to be wrong.

        Raises:
            ValueError: for weights of the backbone that are missing, left over, or of another shape.
        """
        name = str(pretrained_model_name_or_path)
        warn_of_revision(name, kwargs.get("revision") or "main")
        asked = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True}
        # pyrefly: ignore[not-iterable] - it returns two, then
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if getattr(model.config, "quantization_config", None) is None:
            refuse_weights(name, info["missing_keys"], info["unexpected_keys"])  # of files without a readable header
        return (model, info) if asked else model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None) -> Any:
        """As in transformers; weights of another model are refused before any is read."""
        shapes = None if load_config.is_quantized else saved_shapes(state_dict, checkpoint_files)
        if shapes is not None:
            for renaming in load_config.weight_mapping or ():
                shapes = {renaming.rename_source_key(key)[0]: shape for key, shape in shapes.items()}
            name = load_config.pretrained_model_name_or_path
            check_shapes(model, shapes, name, load_config.ignore_mismatched_sizes)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """As in transformers, with the code of all heads beside the weights."""
        self.config.set_auto_map(STRIPED_HYENA_CLASSES)
        super().save_pretrained(save_directory, *args, **kwargs)


DOCUMENTS_ARGS = r"""
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        The first steps of the documents of a single row, and its end; overrides `attention_mask`.
"""


@auto_docstring
class StripedHyenaModel(StripedHyenaPreTrainedModel):
    unembed: nn.Linear  # of the language model alone, which the published weights have in here

    def __init__(self, config: StripedHyenaConfig):
        super().__init__(config)
        self.embedding_layer = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layer_types = config.layer_types
        self.blocks = nn.ModuleList([BLOCKS[kind](config, i) for i, kind in enumerate(self.layer_types)])
        self.norm = StripedHyenaRMSNorm(config) if config.final_norm else nn.Identity()
        self.gradient_checkpointing = False
        # A head that pools rows sets this to the reason.
        self.no_documents_because: str | None = None
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @capture_outputs
    @auto_docstring(custom_args=DOCUMENTS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BackboneOutput:
        config = self.config
        refuse_unknown_arguments(type(self), kwargs)
        check_whole_sequences()
        inputs = check_inputs(input_ids, inputs_embeds, None, config.vocab_size, None, config.hidden_size)
        if input_ids is not None and input_ids.shape[1] and values_are_cheap(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        carries_state = self._carries_state(cache, use_cache)
        past = 0 if cache is None else self._check_cache(cache, inputs.shape[0])
        attends = "full_attention" in self.layer_types
        layout = build_layout(inputs, attention_mask, position_ids, cu_seq_lens_q, past, attends, carries_state)
        if layout.documents is not None:
            refuse_several_documents(self.no_documents_because, cache is not None or bool(use_cache))
            carries_state = False
        if attends and kwargs.get("output_attentions", config.output_attentions):
            check_attention_weights(config._attn_implementation, layout.documents is not None)
        if not carries_state:  # a row of padding may have steps earlier or later
            warn_of_empty_rows(inputs.shape[1], layout.current_mask)
        self._check_finite()
        if cache is None and carries_state:
            cache = DynamicCache(config=config)
        hidden_states = self.embedding_layer(input_ids) if inputs_embeds is None else inputs_embeds
        if layout.current_mask is not None:
            hidden_states = without_padding(hidden_states, layout.current_mask)
        for block in self.blocks:
            hidden_states = block(hidden_states, layout, cache=cache)
        return BackboneOutput(
            last_hidden_state=in_pieces(self.norm, hidden_states.shape[2], hidden_states),
            cache=cache,
            attention_mask=layout.current_mask,
            document_starts=None if layout.documents is None else layout.documents.starts,
        )

    def _carries_state(self, cache: Cache | None, use_cache: bool | None) -> bool:
        """Whether to return a cache: if one is given, or if one is asked for and possible."""
        checkpoints = self.gradient_checkpointing and self.training
        if cache is not None:
            if checkpoints:
                refuse_checkpointing()
            return True
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        return wanted and not checkpoints

    def _check_cache(self, cache: Cache, batch_size: int) -> int:
        config = self.config
        states, heads = (config.hidden_size, config.state_size), (config.num_key_value_heads, config.head_dim)
        dtype = torch.promote_types(self.dtype, torch.float32)
        past = check_cache(cache, self.layer_types, batch_size, states, dtype, heads)
        expected = config.short_filter_length - 1
        for layer, kind in zip(cache.layers, self.layer_types, strict=True):
            # pyrefly: ignore[missing-attribute] - check_cache has seen that the layer is one of hyena
            recent = layer.recent if kind == "hyena" else None
            if recent is not None and recent.shape[1] != expected:
                raise ValueError(
                    f"This cache holds {recent.shape[1]} inputs of a short filter, but the model needs {expected}: it "
                    "belongs to another model."
                )
        return past

    def _check_finite(self) -> None:
        """Refuse parameters of filters that are not finite, and name them with their paths."""
        if torch.compiler.is_compiling():
            return
        check_finite(
            named
            for path, module in self.blocks.named_modules(prefix=f"{self.base_model_prefix}.blocks")
            if isinstance(module, StripedHyenaFilter)
            for named in module.named_parameters(path)
        )


TOKENS_ARGS = r"""
    labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
        Tokens to predict, which the model shifts by itself; -100 is ignored.
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        Where the documents of a single row begin, and its end; wins over `attention_mask`.
    num_items_in_batch (`int`, *optional*):
        Labels of the whole batch, when this call sees one part of it.
"""


@auto_docstring(custom_intro="StripedHyena that predicts the next token, and generates.")
class StripedHyenaModelForCausalLM(StripedHyenaPreTrainedModel, Generates, GenerationMixin):
    _tied_weights_keys = {"backbone.unembed.weight": "backbone.embedding_layer.weight"}
    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: StripedHyenaConfig):
        super().__init__(config)
        check_tied_weights(config.tie_word_embeddings, getattr(config, "distributed_config", None))
        self.backbone = StripedHyenaModel(config)
        self.backbone.unembed = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_function = next_token_loss
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.unembed

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.backbone.unembed = new_embeddings

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @auto_docstring(custom_args=TOKENS_ARGS)
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
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        refuse_unknown_arguments(type(self), kwargs)
        if labels is not None or kwargs.get("shift_labels") is not None:
            tokens = labels, kwargs.get("shift_labels")
            shape = input_shape(input_ids, inputs_embeds)
            # pyrefly: ignore[bad-argument-type] - __init__ refuses None
            check_tokens_to_predict(tokens, shape, self.config.vocab_size, logits_to_keep)
        outputs = self.backbone(
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
        logits = self.backbone.unembed(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            targets: Tensor = labels
            if outputs.document_starts is not None:
                targets, num_items_in_batch = within_documents(labels, outputs.document_starts, num_items_in_batch)
            loss = self.loss_function(
                logits=logits,
                labels=targets,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                **kwargs,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


LABELS_ARGS = r"""
    labels (`torch.Tensor`, *optional*):
        One label per sequence, or per step for token classification: integers are classes (-100 is ignored), floats of
        `num_labels` values are regression targets or several classes at once (NaN is ignored).
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        Where the documents of a single row begin, and its end; wins over `attention_mask`.
"""


class StripedHyenaClassifier(StripedHyenaPreTrainedModel):
    """Base of both classifiers: hidden states, features, dropout, a projection and the loss."""

    output_class: type[SequenceClassifierOutput] | type[TokenClassifierOutput]

    def __init__(self, config: StripedHyenaConfig):
        config = config.copy_for(type(self))
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = StripedHyenaModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.loss_function = loss_by_problem_type
        self.post_init()

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        """The shape of the logits of a batch [B, L], without the last axis."""
        return batch_size, length

    def features(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """The features to classify, of hidden states [B, L, H]; ``mask`` [B, L] is False at padding."""
        return hidden_states

    @can_return_tuple
    @auto_docstring(custom_args=LABELS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        refuse_unknown_arguments(type(self), kwargs)
        shape = input_shape(input_ids, inputs_embeds)
        if labels is not None and shape is not None and self.loss_function is loss_by_problem_type:
            # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
            check_labels(labels, (*self.logits_shape(*shape), self.config.num_labels), self.config.problem_type)
        outputs = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            cu_seq_lens_q=cu_seq_lens_q,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.dropout(self.features(outputs.last_hidden_state, outputs.attention_mask)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output_class(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@auto_docstring(custom_intro="StripedHyena with a classifier, or a regression, over the pooled sequence.")
class StripedHyenaForSequenceClassification(StripedHyenaClassifier):
    output_class = SequenceClassifierOutput

    def __init__(self, config: StripedHyenaConfig):
        super().__init__(config)
        self.backbone.no_documents_because = f"{type(self).__name__} pools a row into one vector"

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        return (batch_size,)

    def features(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        return pool(self.config.pooling, hidden_states, mask)[0]


@auto_docstring(custom_intro="StripedHyena with a classifier, or a regression, at every step.")
class StripedHyenaForTokenClassification(StripedHyenaClassifier):
    output_class = TokenClassifierOutput


STRIPED_HYENA_CLASSES: dict[str, type[StripedHyenaPreTrainedModel]] = {
    "AutoModel": StripedHyenaModel,
    "AutoModelForCausalLM": StripedHyenaModelForCausalLM,
    "AutoModelForSequenceClassification": StripedHyenaForSequenceClassification,
    "AutoModelForTokenClassification": StripedHyenaForTokenClassification,
}
for _auto_class, _model_class in STRIPED_HYENA_CLASSES.items():
    _model_class.register_for_auto_class(_auto_class)

__all__ = [
    "StripedHyenaForSequenceClassification",
    "StripedHyenaForTokenClassification",
    "StripedHyenaModel",
    "StripedHyenaModelForCausalLM",
    "StripedHyenaPreTrainedModel",
]
