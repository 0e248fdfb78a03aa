"""Heads that classify sequences, steps, spans, choices and pairs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import (
    ModelOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from .cache_dlr import PoolingCacheLayer, kind_of, pooling_layer
from .checks_dlr import input_shape, refuse_unknown_arguments
from .configuration_dlr import DLRConfig
from .losses_dlr import (
    Pooled,
    check_choices,
    check_labels,
    check_spans,
    cross_entropy,
    loss_by_problem_type,
    pool,
    span_loss,
    spans,
)
from .modeling_dlr import DOCUMENTS_ARGS, VALUES_ARGS, DLRModel, DLRPreTrainedModel, with_cache

LABELS_ARGS = r"""
    labels (`torch.Tensor`, *optional*):
        One label per sequence, or per step for token classification: integers are classes (-100 is ignored),
        floats of `num_labels` values are regression targets or several classes at once (NaN is ignored).
"""
SPAN_ARGS = r"""
    start_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        The first step of the answer; steps outside the sequence, as of an answer that was cut off, are ignored.
    end_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        The last step of the answer; likewise.
"""


@with_cache
@dataclass
class MultipleChoiceModelOutputWithPast(MultipleChoiceModelOutput):
    cache: Cache | None = None


@with_cache
@dataclass
class NextSentencePredictorOutputWithPast(NextSentencePredictorOutput):
    cache: Cache | None = None


@with_cache
@dataclass
class QuestionAnsweringModelOutputWithPast(QuestionAnsweringModelOutput):
    cache: Cache | None = None


@with_cache
@dataclass
class TokenClassifierOutputWithPast(TokenClassifierOutput):
    cache: Cache | None = None


class DLRHead(DLRPreTrainedModel, ABC):
    """Base of the heads. A head defines its logits, their shape, its labels and loss, and its output class."""

    output_class: type[ModelOutput]

    def __init__(self, config: DLRConfig):
        config = config.copy_for(type(self))
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = DLRModel(config)
        self.main_input_name = self.model.main_input_name
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.loss_function = loss_by_problem_type

    @abstractmethod
    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Compute the logits of hidden states [B, L, H]; ``mask`` [B, L] is False at padding, None without padding."""

    @abstractmethod
    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        """The shape of the logits of a batch [B, L], without the last axis."""

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @auto_docstring(custom_args=VALUES_ARGS + DOCUMENTS_ARGS + LABELS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        refuse_unknown_arguments(type(self), kwargs)
        if cache is not None:
            self.check_cache(cache)
        shape = input_shape(input_ids, inputs_embeds, input_values)
        if labels is not None and shape is not None:
            self.check_labels(labels, *shape)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            use_cache=use_cache,
            cu_seq_lens_q=cu_seq_lens_q,
            return_dict=True,
            **kwargs,
        )
        logits = self.predict(outputs.last_hidden_state, outputs.attention_mask, outputs.cache)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output(loss, logits, outputs)

    def check_cache(self, cache: Cache) -> None:
        """Refuse a cache from which this head cannot go on."""

    def check_labels(self, labels: Tensor, batch_size: int, length: int) -> None:
        """Refuse labels that do not fit. A custom loss checks its own labels."""
        if self.loss_function is loss_by_problem_type:
            shape = (*self.logits_shape(batch_size, length), self.config.num_labels)
            check_labels(labels, shape, self.config.problem_type)

    def output(self, loss: Tensor | None, logits: Tensor, backbone: Any) -> Any:
        """Build the output of this head, with the cache, hidden states and attentions of the backbone."""
        return self.output_class(
            loss=loss,
            **self.named(logits),
            cache=backbone.cache,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions,
        )

    def named(self, logits: Tensor) -> dict[str, Tensor]:
        """Name the logits as ``output_class`` does."""
        return {"logits": logits}


class DLRPooledHead(DLRHead):
    """Base of the heads that read one vector per sequence, pooled by ``config.pooling``."""

    output_class = SequenceClassifierOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.model.no_documents_because = f"{type(self).__name__} pools a row into one vector"

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        return (batch_size,)

    def check_cache(self, cache: Cache) -> None:
        """Refuse a cache with steps that this kind of head has not pooled.

        Raises:
            ValueError: with the number of those steps.
        """
        if not isinstance(cache, Cache):  # the model refuses other types
            return
        rest = cache.layers[self.config.num_hidden_layers :]
        # pyrefly: ignore[missing-attribute] - layers of this kind have it
        pooled = sum(layer.get_seq_length() for layer in rest if kind_of(layer) == PoolingCacheLayer.kind)
        # pyrefly: ignore[missing-attribute] - layers of the model have it
        lengths = [layer.get_seq_length() for layer in cache.layers[: self.config.num_hidden_layers]]
        seen = next((length for length in lengths if isinstance(length, int)), lengths[0] if lengths else 0)
        if pooled != seen:
            raise ValueError(
                f"{type(self).__name__} pools every step since its cache was empty, but this cache has seen {seen} "
                f"steps, of which {pooled} were pooled: start from DynamicCache(config=model.config) with this head."
            )

    def pool(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Pool [B, L, H] to [B, H]; with a cache, over all steps since it was empty."""
        if cache is None:
            return pool(self.config.pooling, hidden_states, mask)[0]
        layer = pooling_layer(cache, self.config.num_hidden_layers)
        contents = layer.contents()
        earlier = None if contents is None else Pooled(*contents)
        features, total = pool(self.config.pooling, hidden_states, mask, earlier)
        layer.update(*total, hidden_states.shape[1])
        return features


@auto_docstring(custom_intro="DLR with a classification or regression head over the pooled sequence.")
class DLRForSequenceClassification(DLRPooledHead):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        return self.classifier(self.dropout(self.pool(hidden_states, mask, cache)))


@auto_docstring(custom_intro="DLR with a classification or regression head at every step.")
class DLRForTokenClassification(DLRHead):
    output_class = TokenClassifierOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        return self.classifier(self.dropout(hidden_states))

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        return batch_size, length


@auto_docstring(custom_intro="DLR with a head that marks the first and the last step of an answer.")
class DLRForQuestionAnswering(DLRHead):
    output_class = QuestionAnsweringModelOutputWithPast
    # The loss ignores num_items_in_batch, so the Trainer divides it by the number of steps that accumulate.
    accepts_loss_kwargs = False

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.loss_function = span_loss
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        return self.qa_outputs(hidden_states)

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        return batch_size, length

    def check_labels(self, labels: Tensor, batch_size: int, length: int) -> None:
        check_spans(labels, batch_size)

    def named(self, logits: Tensor) -> dict[str, Tensor]:
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    @auto_docstring(custom_args=VALUES_ARGS + DOCUMENTS_ARGS + SPAN_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutputWithPast:
        refuse_unknown_arguments(type(self), kwargs)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            labels=spans(start_positions, end_positions),
            use_cache=use_cache,
            cu_seq_lens_q=cu_seq_lens_q,
            return_dict=True,
            **kwargs,
        )


@auto_docstring(custom_intro="DLR with a head that scores every choice of a question by its pooled sequence.")
class DLRForMultipleChoice(DLRPooledHead):
    output_class = MultipleChoiceModelOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.choice_scorer = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        return self.choice_scorer(self.dropout(self.pool(hidden_states, mask, cache)))

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutputWithPast:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            A sequence for every choice. All arguments but `labels` have these first dimensions.
        input_values (`torch.FloatTensor` of shape `(batch_size, num_choices, sequence_length, input_size)`):
            Real-valued input of a model with `input_size`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice; -100 is ignored.
        num_items_in_batch (`int`, *optional*):
            The number of questions in the whole batch, of which this call has a part.
        """
        (batch_size, num_choices), inputs = flatten_sequences(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        if labels is not None:
            check_choices(labels, batch_size, num_choices)
        outputs = super().forward(**inputs, return_dict=True, **kwargs)
        logits = outputs.logits.view(batch_size, num_choices)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        return self.output(loss, logits, outputs)


@auto_docstring(custom_intro="DLR with a head over two documents a and b: a classifier of [a, b, a - b, a · b].")
class DLRForSequencePairClassification(DLRPooledHead):
    output_class = NextSentencePredictorOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        H = config.hidden_size
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.pair_classifier = nn.Sequential(nn.Linear(4 * H, H), nn.GELU(), nn.Linear(H, config.num_labels))
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        pooled = self.pool(hidden_states, mask, cache)
        a, b = self.dropout(pooled).unflatten(0, (-1, 2)).unbind(1)
        return self.pair_classifier(torch.cat([a, b, a - b, a * b], dim=-1))

    def logits_shape(self, batch_size: int, length: int) -> tuple[int, ...]:
        return (batch_size // 2,)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> NextSentencePredictorOutputWithPast:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, 2, sequence_length)`, *optional*):
            The two documents. All arguments but `labels` have these first dimensions.
        input_values (`torch.FloatTensor` of shape `(batch_size, 2, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`.
        labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            One label per pair, as for sequence classification.
        """
        (_, sequences), inputs = flatten_sequences(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        if sequences != 2:
            raise ValueError(
                f"{type(self).__name__} reads 2 documents per example, [batch, 2, length, …], got {sequences}: use "
                "DLRForMultipleChoice to score any number of them."
            )
        return super().forward(**inputs, labels=labels, return_dict=True, **kwargs)


def flatten_sequences(**inputs: Tensor | None) -> tuple[tuple[int, int], dict[str, Tensor]]:
    """Flatten the first two dimensions of the inputs that are given: [B, n, L, ...] to [B·n, L, ...].

    Returns:
        (B, n), and the inputs by name.

    Raises:
        ValueError: if an input has fewer dimensions, or the inputs do not agree in B and n.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    shapes = {name: list(value.shape) for name, value in given.items()}
    for name, shape in shapes.items():
        if len(shape) < 3:
            raise ValueError(
                f"{name} must have the shape [batch, sequences, length, …], got {shape}: stack the sequences of an "
                "example in a second dimension."
            )
    batch_size, sequences, *_ = next(iter(shapes.values()), (0, 0))
    # Not by a set, which cannot hold the symbolic sizes of torch.export.
    if not given or any(shape[:2] != [batch_size, sequences] for shape in shapes.values()):
        raise ValueError(
            f"Inputs, attention_mask and position_ids must agree in batch and sequences, got {shapes or 'none'}."
        )
    return (batch_size, sequences), {name: value.flatten(0, 1) for name, value in given.items()}


__all__ = [
    "DLRForMultipleChoice",
    "DLRForQuestionAnswering",
    "DLRForSequenceClassification",
    "DLRForSequencePairClassification",
    "DLRForTokenClassification",
]
