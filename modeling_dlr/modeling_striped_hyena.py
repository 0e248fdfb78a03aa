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
    BaseModelOutputWithPast,
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
from .cache_dlr import check_cache, steps_seen
from .checkpoint_striped_hyena import check_shapes, refuse_weights, saved_shapes, warn_of_revision
from .checks_dlr import check_finite, check_inputs, check_tokens_to_predict, values_are_cheap, warn_of_empty_rows
from .configuration_striped_hyena import StripedHyenaConfig
from .family_dlr import (
    auto_map,
    check_attention_weights,
    check_whole_sequences,
    refuse_checkpointing,
    refuse_several_documents,
    refuse_unknown_arguments,
)
from .generation_dlr import Generates
from .layout_dlr import Reading, build_layout, first_steps, without_padding
from .losses_dlr import check_labels, loss_by_problem_type, next_token_loss, within_documents
from .pooling_dlr import pool

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
        self.config.auto_map = auto_map(type(self.config), STRIPED_HYENA_CLASSES)
        super().save_pretrained(save_directory, *args, **kwargs)


READING_ARGS = r"""
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        Where the documents of a single row begin, and its end; wins over `attention_mask`.
    reading (`Reading`, *optional*):
        What `read` says of these inputs, from a head that has already looked at it.
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
        self.post_init()

    def read(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
    ) -> Reading:
        """Refuse, before any work, what this model cannot compute; how it reads what it can. See `forward`.

        Raises:
            ValueError: for inputs, a cache, or boundaries of documents that do not fit the model or each other, and for
                a parameter of a filter that is not finite.
            IndexError: for a token outside the vocabulary.
        """
        config = self.config
        check_whole_sequences()
        inputs = check_inputs(input_ids, inputs_embeds, None, config.vocab_size, None, config.hidden_size)
        batch_size, length = inputs.shape[:2]
        if input_ids is not None and length and values_are_cheap(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        checkpoints = self.gradient_checkpointing and self.training
        if cache is not None:
            self._check_cache(cache, batch_size)
        past = 0 if cache is None else steps_seen(cache)
        attends = "full_attention" in self.layer_types
        layout = build_layout(inputs, attention_mask, position_ids, cu_seq_lens_q, past, attends)
        several = layout.documents is not None
        if several and (cache is not None or use_cache):
            refuse_several_documents()
        if checkpoints and cache is not None:
            refuse_checkpointing()
        if use_cache is None:
            use_cache = config.use_cache and not self.training and not several
        streams = cache is not None or (use_cache and not checkpoints)
        if not streams:  # in a stream a row may begin later
            warn_of_empty_rows(length, layout.here)
        if not torch.compiler.is_compiling():
            self._check_finite()
        return Reading(batch_size, length, layout, streams)

    def _check_cache(self, cache: Cache, batch_size: int) -> None:
        config = self.config
        states, heads = (config.hidden_size, config.state_size), (config.num_key_value_heads, config.head_dim)
        dtype = torch.promote_types(self.dtype, torch.float32)
        check_cache(cache, self.layer_types, batch_size, states, dtype, heads)
        expected = config.short_filter_length - 1
        for layer, kind in zip(cache.layers, self.layer_types, strict=True):
            # pyrefly: ignore[missing-attribute] - check_cache has seen that the layer is one of hyena
            recent = layer.recent if kind == "hyena" else None
            if recent is not None and recent.shape[1] != expected:
                raise ValueError(
                    f"This cache holds {recent.shape[1]} inputs of a short filter, but the model needs {expected}: it "
                    "belongs to another model."
                )

    def _check_finite(self) -> None:
        """Refuse parameters of filters that are not finite, by the names that they have in the model."""
        for path, module in self.blocks.named_modules(prefix=f"{self.base_model_prefix}.blocks"):
            if isinstance(module, StripedHyenaFilter):
                check_finite(module.named_parameters(path))

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @capture_outputs
    @auto_docstring(custom_args=READING_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        reading: Reading | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        refuse_unknown_arguments(type(self), kwargs)
        if reading is None:
            reading = self.read(input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache, cu_seq_lens_q)
        layout = reading.layout
        if "full_attention" in self.layer_types and kwargs.get("output_attentions", self.config.output_attentions):
            check_attention_weights(self.config._attn_implementation, layout.documents is not None)
        if cache is None and reading.streams:
            cache = DynamicCache(config=self.config)
        hidden_states = self.embedding_layer(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = without_padding(hidden_states, layout.here)
        for block in self.blocks:
            hidden_states = block(hidden_states, layout, cache=cache)
        hidden_states = in_pieces(self.norm, hidden_states.shape[2], hidden_states)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, cache=cache)


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
        inputs = (input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache, cu_seq_lens_q)
        reading = self.backbone.read(*inputs)
        if labels is not None:
            every = isinstance(logits_to_keep, int) and logits_to_keep == 0
            check_tokens_to_predict(labels, reading.batch_size, reading.length, self.config.vocab_size, every)
        outputs = self.backbone(*inputs, reading=reading, return_dict=True, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.backbone.unembed(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            targets: Tensor = labels
            if reading.layout.documents is not None:
                first = first_steps(reading.layout.documents, labels)
                targets, num_items_in_batch = within_documents(labels, first, num_items_in_batch)
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
    """The recipe of both classifiers: hidden states, features, dropout, a projection, the loss."""

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

    def answers(self, reading: Reading) -> tuple[int, ...]:
        """The shape of the logits, without the last axis; refuses, before any work, what this head cannot read."""
        return reading.batch_size, reading.length

    def features(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """What is classified, of hidden states [B, L, H] of which ``mask`` [B, L] says which count."""
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
        inputs = (input_ids, attention_mask, position_ids, None, inputs_embeds, False, cu_seq_lens_q)
        reading = self.backbone.read(*inputs)
        shape = (*self.answers(reading), self.config.num_labels)
        if labels is not None and self.loss_function is loss_by_problem_type:
            # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
            check_labels(labels, shape, self.config.problem_type)
        outputs = self.backbone(*inputs, reading=reading, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(self.features(outputs.last_hidden_state, reading.layout.here)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output_class(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@auto_docstring(custom_intro="StripedHyena with a classifier, or a regression, over the pooled sequence.")
class StripedHyenaForSequenceClassification(StripedHyenaClassifier):
    output_class = SequenceClassifierOutput

    def answers(self, reading: Reading) -> tuple[int, ...]:
        if reading.layout.documents is not None:
            raise ValueError(
                f"{type(self).__name__} pools a row into one vector, but several documents share a row: give every "
                "document a row of its own, padded, with an attention_mask."
            )
        return (reading.batch_size,)

    def features(self, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
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
