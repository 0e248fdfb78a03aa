"""Processors for sound and images, set up for these models: what they save, the Auto classes of transformers load.

They are objects of transformers, so `AutoFeatureExtractor` and `AutoImageProcessor` load them without this package.
Beside a model, transformers asks about the model's code first: give `trust_remote_code=True`. Images need Pillow (extra
`tasks`).
"""

from transformers import SegformerImageProcessorPil, Wav2Vec2FeatureExtractor


def sound_extractor(sampling_rate: int, *, do_normalize: bool = True) -> Wav2Vec2FeatureExtractor:
    """Recordings of one channel to `input_values` [B, L] and the mask that keeps padding out of the answers.

    Called with recordings of another ``sampling_rate``, it refuses them. `pipeline("audio-classification")` resamples
    what comes as ``{"raw": array, "sampling_rate": rate}``, for which it needs torchaudio, and takes an array without a
    rate at its word.

    Args:
        sampling_rate: samples per second of the recordings that the model is trained on.
        do_normalize: bring every recording to mean 0 and variance 1.

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
    """Images to `pixel_values` [B, 3, h, w] from -1 (black) to 1, for classification and segmentation alike.

    Images of every mode become RGB, as pipelines make them; a model of one channel reads RGB in grey.

    It has the class of SegFormer's, the only thing of it that is used: besides images it prepares maps of labels, and
    turns logits into masks of the size of the image.

    Args:
        height: of the images that the model is trained on, to which others are resized.
        width: likewise; without height and width, images keep their size, and those of a batch must share it.

    Raises:
        ValueError: for only one of height and width.

    >>> from PIL import Image
    >>> pixel_processor(2, 3)(Image.new("L", (30, 20), 255), return_tensors="pt")["pixel_values"][0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if (height is None) != (width is None):
        raise ValueError(f"height and width belong together, got {height} and {width}: give both, or neither.")
    return SegformerImageProcessorPil(
        do_resize=height is not None,
        size=None if height is None or width is None else {"height": height, "width": width},
        image_mean=0.5,
        image_std=0.5,
        do_convert_rgb=True,
    )
