"""The heads: one recipe — hidden states, features, dropout, a projection, the loss — and a few lines for each."""

from abc import abstractmethod
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

from .cache_dlr import pooling_layer
from .checks_dlr import check_no_empty_row
from .configuration_dlr import DLRConfig
from .layout_dlr import find_documents
from .losses_dlr import cross_entropy, loss_by_problem_type
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


class DLRHead(DLRPreTrainedModel):
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
        self.check_layout(attention_mask, position_ids, cu_seq_lens_q)
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

    def check_layout(self, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None) -> None:
        """Refuse, before any work, a batch that this head cannot read."""


class DLRPooledHead(DLRHead):
    """The recipe for heads that read one vector per sequence, pooled by ``config.pooling``."""

    output_class = SequenceClassifierOutputWithPast

    def check_layout(self, mask: Tensor | None, position_ids: Tensor | None, cu_seq_lens: Tensor | None) -> None:
        """Refuse several documents in one row, which would be pooled into one.

        Raises:
            ValueError: saying so.
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

    def pool(self, hidden_states: Tensor, mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        """[B, L, H] to [B, H]; with a cache, over all steps since it was empty.

        Raises:
            ValueError: for a sequence in which no step counts.
        """
        if mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if past_key_values is None:
            check_no_empty_row(mask)
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
        inputs = joined(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, input_values=input_values
        )
        outputs = super().forward(**inputs, return_dict=True, **kwargs)
        given = next(value for value in (input_ids, inputs_embeds, input_values) if value is not None)
        logits = outputs.logits.view(given.shape[:2])
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
        inputs = joined(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, input_values=input_values
        )
        outputs = super().forward(**inputs, labels=labels, return_dict=True, **kwargs)
        return NextSentencePredictorOutput(
            loss=outputs.loss, logits=outputs.logits, hidden_states=outputs.hidden_states
        )


def joined(**inputs: Tensor | None) -> dict[str, Tensor]:
    """The inputs that are given, with their first two dimensions made one: [B, n, L, ...] to [B·n, L, ...].

    Raises:
        ValueError: for one that has no such dimensions.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    for name, value in given.items():
        if value.dim() < 3:
            raise ValueError(
                f"{name} must have the shape [batch, sequences, length, …], got {list(value.shape)}: stack the "
                "sequences of an example in a second dimension."
            )
    return {name: value.flatten(0, 1) for name, value in given.items()}


__all__ = [
    "DLRForMultipleChoice",
    "DLRForQuestionAnswering",
    "DLRForSequenceClassification",
    "DLRForSequencePairClassification",
    "DLRForTokenClassification",
]
