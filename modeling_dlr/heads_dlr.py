"""The heads: one recipe — hidden states, features, dropout, a projection, the loss — and a few lines for each."""

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
from transformers.utils.generic import can_return_tuple

from .cache_dlr import PoolingCacheLayer, pooling_layer
from .checks_dlr import check_inputs, check_no_empty_row
from .configuration_dlr import DLRConfig
from .layout_dlr import find_documents
from .losses_dlr import check_labels, cross_entropy, loss_by_problem_type
from .modeling_dlr import DLRModel, DLRPreTrainedModel
from .pooling_dlr import Pooled, pool


@dataclass
class TokenClassifierOutputWithPast(TokenClassifierOutput):
    """transformers' `TokenClassifierOutput`, and the cache to go on from."""

    past_key_values: Cache | None = None


@dataclass
class QuestionAnsweringOutputWithPast(QuestionAnsweringModelOutput):
    """transformers' `QuestionAnsweringModelOutput`, and the cache to go on from."""

    past_key_values: Cache | None = None


class DLRHead(DLRPreTrainedModel, ABC):
    """The recipe: what a head predicts from the hidden states, and the loss by problem type."""

    output_class: type[ModelOutput]

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = DLRModel(config)
        self.main_input_name = self.model.main_input_name
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.loss_function = loss_by_problem_type

    @abstractmethod
    def predict(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        """The logits of hidden states [B, L, H], of which ``mask`` [B, L] says which count."""

    @abstractmethod
    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
        """The shape of the logits of a batch [B, L], without the last axis."""

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        r"""
        position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Only read for where they restart: several documents in a row, each computed as if it were alone.
        input_values (`torch.FloatTensor` of shape `(batch_size, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`; `(batch_size, sequence_length)` when `input_size` is 1.
        labels (`torch.Tensor`, *optional*):
            One label per sequence, or per step for token classification: integers are classes (-100 is ignored),
            floats of `num_labels` values are regression targets or several classes at once (NaN is ignored).
        cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
            Where the documents of a single row begin, and its end: 0, l₁, l₁ + l₂, …; wins over `attention_mask`.
        """
        sizes = self.config.vocab_size, self.config.input_size, self.config.hidden_size
        batch_size, length = check_inputs(input_ids, inputs_embeds, input_values, *sizes)
        if labels is not None and self.loss_function is loss_by_problem_type:
            shape = (*self.answers(batch_size, length), self.config.num_labels)
            # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
            check_labels(labels, shape, self.config.problem_type)
        streams = past_key_values is not None or (self.config.use_cache if use_cache is None else use_cache)
        self.check_layout(attention_mask, position_ids, cu_seq_lens_q, streams)
        if past_key_values is not None:
            self.check_past(past_key_values)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            use_cache=use_cache,
            cu_seq_lens_q=cu_seq_lens_q,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        mask = None if attention_mask is None else attention_mask[:, -hidden_states.shape[1] :].bool()
        logits = self.predict(hidden_states, mask, outputs.past_key_values)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output_class(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    def check_layout(
        self, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None, streams: bool
    ) -> None:
        """Refuse, before any work, a batch that this head cannot read; ``streams`` says that more of it may come."""

    def check_past(self, past_key_values: Cache) -> None:
        """Refuse, before any work, a cache that this head cannot go on from."""


class DLRPooledHead(DLRHead):
    """The recipe for heads that read one vector per sequence, pooled by ``config.pooling``."""

    output_class = SequenceClassifierOutputWithPast

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
        return (batch_size,)

    def check_layout(
        self, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None, streams: bool
    ) -> None:
        """Refuse several documents in one row, which would be pooled into one, and rows without a step to pool.

        Raises:
            ValueError: saying so. A row of a stream may begin later.
        """
        shared = cu_seq_lens is not None
        if position_ids is not None and position_ids.dim() == 2:
            batch_size, length = position_ids.shape
            here = None if mask is None else mask[:, -length:].bool()
            shared = shared or find_documents(batch_size, length, here, position_ids, None) is not None
        if shared:
            raise ValueError(
                f"{type(self).__name__} pools a row into one vector, but several documents share a row: give every "
                "document a row of its own, padded, with an attention_mask."
            )
        if mask is not None and mask.dim() == 2 and not streams:
            check_no_empty_row(mask.bool())

    def check_past(self, past_key_values: Cache) -> None:
        """Refuse a cache of steps that this kind of head has not pooled.

        Raises:
            ValueError: with how many they are.
        """
        # By name, for every folder of remote code has a class of its own.
        rest = past_key_values.layers[self.config.num_hidden_layers :]
        # pyrefly: ignore[missing-attribute] - the one class that is asked for has it
        pooled = sum(layer.get_seq_length() for layer in rest if type(layer).__name__ == PoolingCacheLayer.__name__)
        seen = int(past_key_values.get_seq_length())
        if pooled != seen:
            raise ValueError(
                f"{type(self).__name__} pools every step since its cache was empty, but this cache has seen {seen} "
                f"steps, of which {pooled} were pooled: start from DynamicCache(config=model.config) with this head."
            )

    def pool(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        """[B, L, H] to [B, H]; with a cache, over all steps since it was empty."""
        if mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if past_key_values is None:
            return pool(self.config.pooling, hidden_states, mask)[0]
        layer = pooling_layer(past_key_values, self.config.num_hidden_layers)
        earlier = None if layer.contents is None else Pooled(*layer.contents)
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

    def predict(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        return self.classifier(self.dropout(self.pool(hidden_states, mask, past_key_values)))


@auto_docstring(custom_intro="DLR with a classification or regression head at every step.")
class DLRForTokenClassification(DLRHead):
    output_class = TokenClassifierOutputWithPast

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        return self.classifier(self.dropout(hidden_states))

    def answers(self, batch_size: int, length: int) -> tuple[int, ...]:
        return batch_size, length


@auto_docstring(custom_intro="DLR with a head that marks the first and the last step of an answer.")
class DLRForQuestionAnswering(DLRPreTrainedModel):
    # Its loss is a mean that does not know the size of the whole batch: the Trainer divides it.
    accepts_loss_kwargs = False

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.model = DLRModel(config)
        self.main_input_name = self.model.main_input_name
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)
        return QuestionAnsweringOutputWithPast(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )


@auto_docstring(custom_intro="DLR with a head that scores every choice of a question by its pooled sequence.")
class DLRForMultipleChoice(DLRPooledHead):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.choice_scorer = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        return self.choice_scorer(self.dropout(self.pool(hidden_states, mask, past_key_values)))

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            A sequence for every choice; so are the shapes of the other inputs and of `attention_mask`.
        input_values (`torch.FloatTensor` of shape `(batch_size, num_choices, sequence_length, input_size)`):
            Real-valued input of a model with `input_size`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice; -100 is ignored.
        num_items_in_batch (`int`, *optional*):
            Questions of the whole batch, when this call sees one part of it.
        """
        (batch_size, num_choices), inputs = joined(
            input_ids=input_ids, inputs_embeds=inputs_embeds, input_values=input_values, attention_mask=attention_mask
        )
        if labels is not None:
            check_labels(labels, (batch_size, num_choices), "single_label_classification")
        outputs = super().forward(**inputs, return_dict=True, **kwargs)
        logits = outputs.logits.view(batch_size, num_choices)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        return MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="DLR with a head over two documents a and b: a classifier of [a, b, a - b, a · b].")
class DLRForSequencePairClassification(DLRPooledHead):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        H = config.hidden_size
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.pair_classifier = nn.Sequential(nn.Linear(4 * H, H), nn.GELU(), nn.Linear(H, config.num_labels))
        self.post_init()

    def predict(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        pooled = self.pool(hidden_states, mask, past_key_values)
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
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> NextSentencePredictorOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, 2, sequence_length)`, *optional*):
            The two documents; so are the shapes of the other inputs and of `attention_mask`.
        input_values (`torch.FloatTensor` of shape `(batch_size, 2, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`.
        labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            One label per pair, as for sequence classification.
        """
        (_, sequences), inputs = joined(
            input_ids=input_ids, inputs_embeds=inputs_embeds, input_values=input_values, attention_mask=attention_mask
        )
        if sequences != 2:
            raise ValueError(
                f"{type(self).__name__} reads 2 documents per example, [batch, 2, length, …], got {sequences}: use "
                "DLRForMultipleChoice to score any number of them."
            )
        outputs = super().forward(**inputs, labels=labels, return_dict=True, **kwargs)
        return NextSentencePredictorOutput(
            loss=outputs.loss, logits=outputs.logits, hidden_states=outputs.hidden_states
        )


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
    if len({(batch_size, sequences) for batch_size, sequences, *_ in shapes.values()}) != 1:
        raise ValueError(f"Inputs and attention_mask must agree in batch and sequences, got {shapes or 'none'}.")
    batch_size, sequences, *_ = next(iter(shapes.values()))
    return (batch_size, sequences), {name: value.flatten(0, 1) for name, value in given.items()}


__all__ = [
    "DLRForMultipleChoice",
    "DLRForQuestionAnswering",
    "DLRForSequenceClassification",
    "DLRForSequencePairClassification",
    "DLRForTokenClassification",
]
