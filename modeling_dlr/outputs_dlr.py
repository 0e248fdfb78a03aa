"""The outputs of transformers that have no place for a cache, with one: the cache to go on from."""

from dataclasses import dataclass

from transformers import Cache
from transformers.modeling_outputs import (
    ImageClassifierOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SemanticSegmenterOutput,
    TokenClassifierOutput,
)
from transformers.utils import auto_docstring

CACHE_ARGS = r"""
cache (`~cache_utils.Cache`, *optional*, returned when `use_cache=True` is passed, or a cache is):
    What the model has seen, so that later steps may follow.
"""
described = auto_docstring(
    custom_intro="The output of transformers that has this name without `WithPast`, and the cache to go on from.",
    custom_args=CACHE_ARGS,
)


@described
@dataclass
class ImageClassifierOutputWithPast(ImageClassifierOutput):
    cache: Cache | None = None


@described
@dataclass
class MaskedLMOutputWithPast(MaskedLMOutput):
    cache: Cache | None = None


@described
@dataclass
class MultipleChoiceModelOutputWithPast(MultipleChoiceModelOutput):
    cache: Cache | None = None


@described
@dataclass
class QuestionAnsweringModelOutputWithPast(QuestionAnsweringModelOutput):
    cache: Cache | None = None


@described
@dataclass
class SemanticSegmenterOutputWithPast(SemanticSegmenterOutput):
    cache: Cache | None = None


@described
@dataclass
class NextSentencePredictorOutputWithPast(NextSentencePredictorOutput):
    cache: Cache | None = None


@described
@dataclass
class TokenClassifierOutputWithPast(TokenClassifierOutput):
    cache: Cache | None = None
