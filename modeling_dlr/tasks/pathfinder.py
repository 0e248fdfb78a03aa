"""Pathfinder (arXiv 1805.08315): images of winding, dashed paths, two of whose ends have markers.

`Pathfinder` is the task of the Long Range Arena (arXiv 2011.04006): are the two markers on one path?
`PathfinderSegmentation` is the task of the DLR paper (arXiv 2212.00768, §4.2): classify every pixel. Models read images
pixel by pixel, row after row.
"""

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import numpy as np

from .pathfinder_settings import CLASSIFICATION, SEGMENTATION, PathfinderSetting
from .seeds import Split, numpy_random
from .task import Task

if TYPE_CHECKING:
    from .pathfinder_sampling import Drawing

BACKGROUND, PATH, CONNECTED_PATH = 0, 1, 2
IGNORED = -100


@dataclass(frozen=True)
class PathfinderTask(Task):
    """Base class of both tasks.

    Args:
        resolution: height and width of the images, in pixels.
    """

    resolution: int = 128

    settings: ClassVar[dict[int, PathfinderSetting]]
    input_size: ClassVar[int] = 1
    num_labels: ClassVar[int]

    def __post_init__(self):
        if self.resolution not in self.settings:
            raise ValueError(
                f"{type(self).__name__} needs a resolution of {', '.join(map(str, self.settings))}, got "
                f"{self.resolution}."
            )

    @property
    def num_steps(self) -> int:
        """Number of pixels."""
        return self.resolution**2

    def check(self, num_examples: int) -> None:
        """Raise ModuleNotFoundError if a drawing library is missing; any number of images can be drawn."""
        missing = [name for name in ("cv2", "PIL") if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"{type(self).__name__} draws with OpenCV and Pillow, but {missing[0]} is not installed: "
                "pip install 'modeling-dlr[tasks]'"
            )

    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """Yield rows: pixels from -1 to 1, and labels."""
        from .pathfinder_sampling import Sampler

        sampler = Sampler(self.settings[self.resolution], numpy_random(seed, split, index))
        while True:
            yield self.row(sampler.draw())

    def pixels(self, drawing: "Drawing") -> np.ndarray:
        """Scale the image to -1 … 1: [resolution², 1] float32."""
        grey = drawing.image.astype(np.float32) / np.float32(255)
        return ((grey - np.float32(0.5)) / np.float32(0.5)).reshape(-1, 1)

    @abstractmethod
    def row(self, drawing: "Drawing") -> dict[str, Any]:
        """Return the columns of one image."""


@dataclass(frozen=True)
class Pathfinder(PathfinderTask):
    """Class 1 if the markers are at the two ends of one path: ``input_values`` [resolution², 1], ``labels`` []."""

    resolution: int = 32

    settings: ClassVar[dict[int, PathfinderSetting]] = CLASSIFICATION
    num_labels: ClassVar[int] = 2

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        pixels = datasets.Array2D((self.num_steps, 1), "float32")
        return datasets.Features({"input_values": pixels, "labels": datasets.Value("int64")})

    def row(self, drawing: "Drawing") -> dict[str, Any]:
        """Return the columns, with one class for the image."""
        return {"input_values": self.pixels(drawing), "labels": int(drawing.connected)}


@dataclass(frozen=True)
class PathfinderSegmentation(PathfinderTask):
    """Predict a class for every pixel: 2 on the path with markers at both ends, 1 on another long path, 0 elsewhere.

    Columns ``input_values`` [T, 1] and ``labels`` [T], where T is resolution², or twice that if ``autoregressive``.

    Args:
        resolution: height and width of the images, in pixels.
        autoregressive: append as many zeros as there are pixels, and predict the classes there. Use it for a causal
            model, which has then seen the whole image.
    """

    autoregressive: bool = False

    settings: ClassVar[dict[int, PathfinderSetting]] = SEGMENTATION
    num_labels: ClassVar[int] = 3

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.resolution**2 * (2 if self.autoregressive else 1)

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        pixels = datasets.Array2D((self.num_steps, 1), "float32")
        return datasets.Features(
            {"input_values": pixels, "labels": datasets.List(datasets.Value("int8"), length=self.num_steps)}
        )

    def row(self, drawing: "Drawing") -> dict[str, Any]:
        """Return the columns, with one class for every pixel."""
        pixels, labels = self.pixels(drawing), self.classes(drawing).reshape(-1)
        if self.autoregressive:
            pixels = np.concatenate((pixels, np.zeros_like(pixels)))
            labels = np.concatenate((np.full_like(labels, IGNORED), labels))
        return {"input_values": pixels, "labels": labels}

    def classes(self, drawing: "Drawing") -> np.ndarray:
        """The class of every pixel: [resolution, resolution] int8."""
        classes = np.where(drawing.paths.any(0), PATH, BACKGROUND).astype(np.int8)
        if drawing.connected:
            classes[drawing.paths[drawing.marked]] = CONNECTED_PATH
        return classes
