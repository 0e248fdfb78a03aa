"""Heads for sound and images, with the names and shapes that their pipelines use."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple

from .checks_dlr import LABELS_CURE, check_tensor, has_shape
from .configuration_dlr import DLRConfig
from .heads_dlr import LABELS_ARGS, DLRForSequenceClassification, DLRForTokenClassification, DLRHead
from .modeling_dlr import VALUES_ARGS, DLRPreTrainedModel, with_cache

# The segmentation pipeline finds models by this name. Registering an Auto class does not enter it.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["dlr"] = "DLRForSemanticSegmentation"


@with_cache
@dataclass
class ImageClassifierOutputWithPast(ImageClassifierOutput):
    cache: Cache | None = None


@with_cache
@dataclass
class SemanticSegmenterOutputWithPast(SemanticSegmenterOutput):
    cache: Cache | None = None


class DLRSignalHead(DLRPreTrainedModel):
    """Mixed into another head, makes it read real values under the name ``main_input_name``."""

    main_input_name = "input_values"

    def __init__(self, config: DLRConfig):
        if config.input_size is None:
            raise ValueError(
                f"{type(self).__name__} reads real values, but vocab_size={config.vocab_size} says the input is "
                "tokens: set input_size."
            )
        super().__init__(config)
        self.main_input_name = type(self).main_input_name


class DLRAudioHead(DLRSignalHead, DLRHead):
    """Mixed into another head, makes it read recordings, as its first argument."""

    input_modalities = "audio"

    @auto_docstring(custom_args=VALUES_ARGS + LABELS_ARGS)
    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        return super().forward(input_values=input_values, attention_mask=attention_mask, labels=labels, **kwargs)


@auto_docstring(custom_intro="DLR with a classification head over a recording, [B, L] samples in `input_values`.")
class DLRForAudioClassification(DLRAudioHead, DLRForSequenceClassification):
    pass


@auto_docstring(custom_intro="DLR with a classification head at every sample of a recording.")
class DLRForAudioFrameClassification(DLRAudioHead, DLRForTokenClassification):
    pass


@auto_docstring(custom_intro="DLR with a classification head over the pixels of an image, row by row.")
class DLRForImageClassification(DLRSignalHead, DLRForSequenceClassification):
    main_input_name = "pixel_values"
    input_modalities = "image"
    output_class = ImageClassifierOutputWithPast

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutputWithPast:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(batch_size, input_size, height, width)`):
            The images. A model with one channel also accepts RGB, and converts it to grey.
        labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            One label per image, as for sequence classification.
        """
        values = raster(pixel_values, self.config.input_size)
        return super().forward(input_values=values, labels=labels, return_dict=True, **kwargs)


@auto_docstring(custom_intro="DLR with a classification head at every pixel of an image.")
class DLRForSemanticSegmentation(DLRSignalHead, DLRForTokenClassification):
    main_input_name = "pixel_values"
    input_modalities = "image"
    output_class = SemanticSegmenterOutputWithPast

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutputWithPast:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(batch_size, input_size, height, width)`):
            The images. A model with one channel also accepts RGB, and converts it to grey.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
            The class of every pixel; -100 is ignored. Several classes or numbers per pixel have the shape of the
            logits, `(batch_size, num_labels, height, width)`.
        """
        values = raster(pixel_values, self.config.input_size)
        flat = None if labels is None else flat_labels(labels, pixel_values)
        outputs = super().forward(input_values=values, labels=flat, return_dict=True, **kwargs)
        outputs.logits = outputs.logits.transpose(1, 2).unflatten(-1, pixel_values.shape[-2:])
        return outputs


def raster(pixel_values: Tensor, channels: int | None) -> Tensor:
    """Flatten images to sequences of pixels, row by row: [B, C, h, w] to [B, h·w, C].

    If ``channels`` is 1, RGB is converted to grey, because pipelines convert every image to RGB.

    Raises:
        TypeError: if the images are not a tensor.
        ValueError: if their type, shape or number of channels is wrong.
    """
    check_tensor("pixel_values", pixel_values, "ask the processor for return_tensors='pt'")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be real numbers in floating point, got {pixel_values.dtype}: the processor scales them."
        )
    if channels == 1 and pixel_values.dim() == 4 and pixel_values.shape[1] == 3:
        pixel_values = luma(pixel_values)
    if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"pixel_values must have the shape [batch, input_size={channels}, height, width], got "
            f"{list(pixel_values.shape)}: convert images to {channels} channels, or build a model with another "
            "input_size."
        )
    return pixel_values.flatten(2).transpose(1, 2)


def flat_labels(labels: Tensor, pixel_values: Tensor) -> Tensor:
    """Flatten labels as `raster` flattens pixels: [B, h, w] to [B, h·w], and [B, C, h, w] to [B, h·w, C].

    Raises:
        TypeError: if the labels are not a tensor.
        ValueError: if their shape is not that of the images.
    """
    check_tensor("labels", labels, LABELS_CURE)
    expected = [pixel_values.shape[0], *pixel_values.shape[-2:]]
    if labels.dim() == 4 and has_shape(labels, [expected[0], labels.shape[1], *expected[1:]]):
        return labels.flatten(2).transpose(1, 2)
    if not has_shape(labels, expected):
        raise ValueError(
            f"labels must have the shape [batch, height, width] = {expected} of pixel_values, got "
            f"{list(labels.shape)}: scale label maps like their images, without interpolation."
        )
    return labels.flatten(1)


def luma(rgb: Tensor) -> Tensor:
    """Convert RGB to grey (ITU-R BT.601), as Pillow's mode "L" does: [B, 3, h, w] to [B, 1, h, w]."""
    red, green, blue = rgb.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


__all__ = [
    "DLRForAudioClassification",
    "DLRForAudioFrameClassification",
    "DLRForImageClassification",
    "DLRForSemanticSegmentation",
]
