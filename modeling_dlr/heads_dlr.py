"""The heads: one recipe — hidden states, features, dropout, a projection, the loss — and a few lines for each."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple

from .cache_dlr import PoolingCacheLayer, kind_of, pooling_layer, steps_seen
from .configuration_dlr import DLRConfig
from .family_dlr import refuse_unknown_arguments
from .layout_dlr import Reading
from .losses_dlr import check_choices, check_labels, check_spans, cross_entropy, loss_by_problem_type, span_loss, spans
from .modeling_dlr import DOCUMENTS_ARGS, VALUES_ARGS, DLRModel, DLRPreTrainedModel
from .outputs_dlr import (
    MultipleChoiceModelOutputWithPast,
    NextSentencePredictorOutputWithPast,
    QuestionAnsweringModelOutputWithPast,
    TokenClassifierOutputWithPast,
)
from .pooling_dlr import Pooled, pool

LABELS_ARGS = r"""
    labels (`torch.Tensor`, *optional*):
        One label per sequence, or per step for token classification: integers are classes (-100 is ignored),
        floats of `num_labels` values are regression targets or several classes at once (NaN is ignored).
"""
SPAN_ARGS = r"""
    start_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        The first step of the answer; one outside the sequence, as of an answer that was cut off, is ignored.
    end_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
        The last step of the answer; likewise.
"""


class DLRHead(DLRPreTrainedModel, ABC):
    """The recipe: what a head predicts from the hidden states, its labels and loss, and what it calls its answer."""

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
        """The logits of hidden states [B, L, H], of which ``mask`` [B, L] says which count."""

    @abstractmethod
    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
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
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "inputs_embeds": inputs_embeds,
            "input_values": input_values,
            "use_cache": use_cache,
            "cu_seq_lens_q": cu_seq_lens_q,
        }
        refuse_unknown_arguments(type(self), kwargs)
        reading = self.model.read(**inputs)
        self.check_reading(reading)
        if cache is not None:
            self.check_past(cache)
        if labels is not None:
            self.check_labels(labels, reading.batch_size, reading.length)
        outputs = self.model(**inputs, reading=reading, return_dict=True, **kwargs)
        logits = self.predict(outputs.last_hidden_state, reading.layout.here, outputs.cache)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output(loss, logits, outputs)

    def check_reading(self, reading: Reading) -> None:
        """Refuse, before any work, a batch that this head cannot read."""

    def check_past(self, cache: Cache) -> None:
        """Refuse, before any work, a cache that this head cannot go on from."""

    def check_labels(self, labels: Tensor, batch_size: int, length: int) -> None:
        """Refuse, before any work, labels that do not fit the loss; another loss than ours says itself what does."""
        if self.loss_function is loss_by_problem_type:
            check_labels(labels, (*self.answers(batch_size, length), self.config.num_labels), self.config.problem_type)

    def output(self, loss: Tensor | None, logits: Tensor, backbone: Any) -> Any:
        """Loss and logits under the names of this head's task, with what the backbone gives besides."""
        return self.output_class(
            loss=loss,
            **self.named(logits),
            cache=backbone.cache,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions,
        )

    def named(self, logits: Tensor) -> dict[str, Tensor]:
        """The logits by the names of ``output_class``."""
        return {"logits": logits}


class DLRPooledHead(DLRHead):
    """The recipe for heads that read one vector per sequence, pooled by ``config.pooling``."""

    output_class = SequenceClassifierOutputWithPast

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
        return (batch_size,)

    def check_reading(self, reading: Reading) -> None:
        """Refuse several documents in one row, which would be pooled into one.

        Raises:
            ValueError: saying so.
        """
        if reading.layout.documents is not None:
            raise ValueError(
                f"{type(self).__name__} pools a row into one vector, but several documents share a row: give every "
                "document a row of its own, padded, with an attention_mask."
            )

    def check_past(self, cache: Cache) -> None:
        """Refuse a cache of steps that this kind of head has not pooled.

        Raises:
            ValueError: with how many they are.
        """
        rest = cache.layers[self.config.num_hidden_layers :]
        # pyrefly: ignore[missing-attribute] - the one class that is asked for has it
        pooled = sum(layer.get_seq_length() for layer in rest if kind_of(layer) == PoolingCacheLayer.kind)
        seen = steps_seen(cache)
        if pooled != seen:
            raise ValueError(
                f"{type(self).__name__} pools every step since its cache was empty, but this cache has seen {seen} "
                f"steps, of which {pooled} were pooled: start from DynamicCache(config=model.config) with this head."
            )

    def pool(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """[B, L, H] to [B, H]; with a cache, over all steps since it was empty."""
        if mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if cache is None:
            return pool(self.config.pooling, hidden_states, mask)[0]
        layer = pooling_layer(cache, self.config.num_hidden_layers)
        contents = layer.contents()
        earlier = None if contents is None else Pooled(*contents)
        features, so_far = pool(self.config.pooling, hidden_states, mask, earlier)
        layer.update(*so_far, hidden_states.shape[1])
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

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
        return batch_size, length


@auto_docstring(custom_intro="DLR with a head that marks the first and the last step of an answer.")
class DLRForQuestionAnswering(DLRHead):
    output_class = QuestionAnsweringModelOutputWithPast
    # Its loss is a mean that does not know the size of the whole batch: the Trainer divides it.
    accepts_loss_kwargs = False

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.loss_function = span_loss
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        return self.qa_outputs(hidden_states)

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
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
            A sequence for every choice; so are the shapes of all that follows it but `labels`.
        input_values (`torch.FloatTensor` of shape `(batch_size, num_choices, sequence_length, input_size)`):
            Real-valued input of a model with `input_size`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice; -100 is ignored.
        num_items_in_batch (`int`, *optional*):
            Questions of the whole batch, when this call sees one part of it.
        """
        (batch_size, num_choices), inputs = joined(
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

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
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
            The two documents; so are the shapes of all that follows it but `labels`.
        input_values (`torch.FloatTensor` of shape `(batch_size, 2, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`.
        labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            One label per pair, as for sequence classification.
        """
        (_, sequences), inputs = joined(
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


def joined(**inputs: Tensor | None) -> tuple[tuple[int, int], dict[str, Tensor]]:
    """The inputs that are given, with their first two dimensions made one: [B, n, L, ...] to [B·n, L, ...].

    Returns:
        B and n, and the inputs by name.

    Raises:
        ValueError: for one that has no such dimensions, or others than the first.
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
    # Not by a set, in which sizes that torch.export leaves open cannot be.
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
