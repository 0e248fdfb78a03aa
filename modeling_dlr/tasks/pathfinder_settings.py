"""Settings of the Pathfinder images, for every published size."""

from typing import NamedTuple


class PathfinderSetting(NamedTuple):
    """Settings of one image size. Lengths are in pixels."""

    resolution: int
    """Height and width of an image."""
    margins: tuple[int, ...]
    """Free space around a dash; one of these values is drawn for each image."""
    seed_distance: int
    """Distance between the first dashes of the two long paths."""
    marker_radius: float
    contour_length: int
    """Number of dashes of a long path."""
    dash_length: int
    dash_thickness: float
    antialias: int
    """Dashes and discs are drawn this many times larger, then scaled down."""
    continuity: float
    """How straight a path is: every turn is less than 90 degrees divided by this."""
    num_distractors: int
    contrast: float
    """Contrast of dashes; discs have 1."""
    mark_distractors: bool
    """Whether every distractor has a disc."""

    @property
    def distractor_length(self) -> int:
        """Number of dashes of a distractor."""
        return self.contour_length // 3


# The Long Range Arena's classification (arXiv 2011.04006), with the values of its builders: Pathfinder and Path-X.
CLASSIFICATION: dict[int, PathfinderSetting] = {
    32: PathfinderSetting(32, (1,), 7, 1.5, 14, 2, 0.5, 2, 1.0, 5, 1.5, False),
    128: PathfinderSetting(128, (2, 3), 20, 3, 14, 5, 1.5, 2, 1.8, 8, 0.9, False),
}

# The DLR paper's segmentation (arXiv 2212.00768), by resolution; 32 is ours, for a laptop.
SEGMENTATION: dict[int, PathfinderSetting] = {
    32: CLASSIFICATION[32]._replace(contour_length=6, num_distractors=3, mark_distractors=True),
    128: PathfinderSetting(128, (2, 3), 22, 2.1, 14, 5, 1.5, 2, 1.8, 16, 0.9, True),
    256: PathfinderSetting(256, (4,), 27, 4.2, 16, 8, 2, 2, 2.2, 16, 1.0, True),
    512: PathfinderSetting(512, (7,), 40, 9, 12, 22, 6, 3, 2.5, 18, 1.0, True),
}
