"""Images and sounds as features: reading files, and processors that fit them."""

import io
from collections import Counter
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from modeling_dlr.processing import pixel_processor

# At this rate the features of a recording are the same with and without torchaudio.
SAMPLING_RATE = 16_000
MEL_BINS = 64
# Steps of 10 ms, and pixels, that are read by default.
MOST_FRAMES = 1000
MOST_PIXELS = 4096
_LEAST_SAMPLES = 400


def read_image(path: str) -> Any:
    """Read an image with Pillow.

    Raises:
        ImportError: without it.
        ValueError: for a file that is no image.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("Images need Pillow: pip install 'modeling-dlr[tasks]'") from None
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{Path(path).name} could not be read as an image: {' '.join(str(error).split())}") from None


def image_processor_for(paths: Sequence[str]) -> tuple[Any, str]:
    """A processor for images of one size, or one that scales them to their usual size, and what is to be said."""
    sizes = Counter(read_image(path).size for path in paths)
    width, height = max(sizes, key=lambda size: sizes[size])
    if len(sizes) == 1 and width * height <= MOST_PIXELS:
        return pixel_processor(height, width), f"{width} × {height} pixels, as they are"
    scale = min(1.0, (MOST_PIXELS / (width * height)) ** 0.5)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return pixel_processor(height, width), f"scaled to {width} × {height} pixels"


def are_grey(paths: Sequence[str]) -> bool:
    """Whether all images are grey."""
    return all(read_image(path).mode in ("1", "L", "LA", "I", "I;16", "F") for path in paths)


def image_features(processor: Any, path: str, channels: int) -> np.ndarray:
    """The pixels of an image, [channels, h, w]; all channels of a grey one are the same."""
    return processor(read_image(path), return_tensors="np")["pixel_values"][0, :channels].astype(np.float32)


def read_sound(path: str, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """The samples of a recording, all channels as one, at ``sampling_rate``: [L], and zeros after less than 25 ms.

    WAV files are read by SciPy, others by soundfile.

    Raises:
        ImportError: without soundfile, where it is needed.
        ValueError: for a file that is no recording.
    """
    try:
        rate, samples = _read_wav(path) if path.lower().endswith(".wav") else _read_other(path)
    except (ValueError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{Path(path).name} could not be read as sound: {' '.join(str(error).split())}") from None
    if not len(samples):
        raise ValueError(f"{Path(path).name} holds no sound: remove it.")
    samples = samples if samples.ndim == 1 else samples.mean(1)
    if rate != sampling_rate:
        from scipy.signal import resample_poly

        common = gcd(rate, sampling_rate)
        samples = resample_poly(samples, sampling_rate // common, rate // common)
    least = _LEAST_SAMPLES * sampling_rate // SAMPLING_RATE
    return np.pad(samples, (0, max(0, least - len(samples)))).astype(np.float32)


def _read_wav(path: str) -> tuple[int, np.ndarray]:
    import warnings

    from scipy.io import wavfile

    with warnings.catch_warnings(action="ignore", category=wavfile.WavFileWarning):
        rate, samples = wavfile.read(path)
    if samples.dtype.kind == "u":
        return rate, (samples.astype(np.float32) - 128) / 128
    scale = np.iinfo(samples.dtype).max + 1 if samples.dtype.kind == "i" else 1
    return rate, samples.astype(np.float32) / np.float32(scale)


def _read_other(path: str) -> tuple[int, np.ndarray]:
    try:
        import soundfile  # pyrefly: ignore[missing-import] - an extra
    except ImportError:
        raise ImportError("Sound other than WAV needs soundfile: pip install 'modeling-dlr[tasks]'") from None
    samples, rate = soundfile.read(io.BytesIO(Path(path).read_bytes()), dtype="float32")
    return rate, samples


def sound_extractor_for(paths: Sequence[str], max_length: int | None) -> tuple[Any, str, float]:
    """An extractor of mel spectra, as long as nearly all recordings; what is to be said; the share that is cut."""
    from transformers import ASTFeatureExtractor

    step = max(1, len(paths) // 200)
    frames = np.array([1 + (len(read_sound(path)) - _LEAST_SAMPLES) // 160 for path in paths[::step]])
    length = int(max_length or min(MOST_FRAMES, np.ceil(np.quantile(frames, 0.98))))
    extractor = ASTFeatureExtractor(num_mel_bins=MEL_BINS, max_length=length, sampling_rate=SAMPLING_RATE)
    return extractor, f"mel spectra in steps of 10 ms, {length} of them", float((frames > length).mean())


def sound_features(extractor: Any, path: str) -> np.ndarray:
    """The mel spectra of a recording, [frames, bins]."""
    return np.asarray(extractor(read_sound(path), sampling_rate=SAMPLING_RATE)["input_values"][0], dtype=np.float32)
