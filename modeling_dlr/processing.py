"""Processors for sound and images, configured for these models.

They are objects of transformers, so `AutoFeatureExtractor` and `AutoImageProcessor` load a saved one without this
package. In a folder with a model, pass `trust_remote_code=True`, because transformers asks about the model's code
first. Images need Pillow (extra `tasks`).
"""

from transformers import SegformerImageProcessorPil, Wav2Vec2FeatureExtractor


def sound_extractor(sampling_rate: int, *, do_normalize: bool = True) -> Wav2Vec2FeatureExtractor:
    """Build a feature extractor: recordings of one channel to `input_values` [B, L] and an attention mask [B, L].

    It refuses recordings with another ``sampling_rate``. `pipeline("audio-classification")` resamples inputs of the
    form ``{"raw": array, "sampling_rate": rate}``, which needs torchaudio, and assumes that a plain array has the right
    rate.

    Args:
        sampling_rate: samples per second of the model's training data.
        do_normalize: scale every recording to mean 0 and variance 1.

    Raises:
        ValueError: for a sampling rate below 1.

    >>> sound = sound_extractor(8000)([[0.0, 1.0], [1.0]], sampling_rate=8000, padding=True, return_tensors="pt")
    >>> sound["attention_mask"].tolist()
    [[1, 1], [1, 0]]
    """
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1 sample per second, got {sampling_rate}.")
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=sampling_rate, do_normalize=do_normalize, return_attention_mask=True
    )


def pixel_processor(height: int | None = None, width: int | None = None) -> SegformerImageProcessorPil:
    """Build an image processor: images to `pixel_values` [B, 3, h, w] from -1 (black) to 1.

    It serves classification and segmentation. Images of every mode are converted to RGB, as in pipelines; a model with
    one input channel converts RGB to grey. The class is SegFormer's, because it also prepares label maps and
    turns logits into masks of the image's size; nothing else of SegFormer is used.

    Args:
        height: height of the model's training images; other images are resized to it.
        width: width of the model's training images. Without height and width, images keep their size, and all images
            of a batch must have the same size.

    Raises:
        ValueError: if only one of height and width is given.

    >>> from PIL import Image
    >>> pixel_processor(2, 3)(Image.new("L", (30, 20), 255), return_tensors="pt")["pixel_values"][0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if (height is None) != (width is None):
        raise ValueError(f"height and width must be given together, got {height} and {width}: give both, or neither.")
    return SegformerImageProcessorPil(
        do_resize=height is not None,
        size=None if height is None or width is None else {"height": height, "width": width},
        image_mean=0.5,
        image_std=0.5,
        do_convert_rgb=True,
    )
