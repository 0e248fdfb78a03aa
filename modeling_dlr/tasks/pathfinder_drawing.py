"""Drawing tools of Pathfinder: dashes, the space around them, and discs, bit-identical to the official code.

Coordinates are (y, x). Ink is float64, 1 at full intensity. A footprint, the space
of a dash, is uint8, 255 if occupied.
"""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .pathfinder_settings import PathfinderSetting

Point = tuple[int, int]
FULL = 255
# Largest allowed sum of the rooms of two dashes at one pixel: less than 1.8 × 255.
_MAX_OVERLAP = 458


def translate(point: Point, orientation: float, distance: float) -> Point:
    """The point at ``distance`` from ``point`` in a direction (radians), rounded up."""
    y, x = point
    return math.ceil(y + distance * math.sin(orientation)), math.ceil(x + distance * math.cos(orientation))


def opposite(orientation: float) -> float:
    """The opposite direction, in radians."""
    return orientation - math.pi if orientation >= 0 else orientation + math.pi


@functools.cache
def disc_element(radius: int) -> np.ndarray:
    """The structuring element x² + y² <= radius², uint8."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def paste(canvas: np.ndarray, picture: np.ndarray, corner: Point) -> None:
    """Paste a picture [..., h, w] onto a canvas [..., R, R] in place, as the maximum of both, cropped to the canvas.

    Args:
        canvas: the array to change.
        picture: smaller than the canvas.
        corner: position of the picture's upper left pixel on the canvas.
    """
    (top, left), (height, width), size = corner, picture.shape[-2:], canvas.shape[-1]
    if top < 0 or left < 0 or top + height > size or left + width > size:
        picture = picture[..., max(0, -top) : max(0, size - top), max(0, -left) : max(0, size - left)]
        (top, left), (height, width) = (max(0, top), max(0, left)), picture.shape[-2:]
    place = canvas[..., top : top + height, left : left + width]
    np.maximum(place, picture, out=place)


class Patch(NamedTuple):
    """The relevant part of a picture, and the position of its upper left pixel relative to the tip of the dash."""

    pixels: np.ndarray
    corner: Point

    def corner_at(self, tip: Point) -> Point:
        """The position of the upper left pixel for a given tip."""
        return tip[0] + self.corner[0], tip[1] + self.corner[1]


class Stroke(NamedTuple):
    """A dash in one direction, which can be placed at any tip."""

    ink: Patch
    """[h, w] float64."""
    footprint: Patch
    """[2, h, w] uint8: the space of the dash, and the same widened by the margin, where no other tip may be."""
    allowance: Patch
    """[h, w] uint8: how much of each pixel may already be taken if the dash is to be placed there."""


class SeedElement(NamedTuple):
    """The pixels that the footprint of a dash covers fully, relative to an anchor in the middle."""

    pixels: np.ndarray
    """[2 n + 1, 2 n + 1] uint8: a structuring element."""
    rows: tuple[int, int]
    """The first and the last row, relative to the anchor."""
    columns: tuple[int, int]
    """The first and the last column, relative to the anchor."""


class Pen:
    """Dashes of one setting and margin in every direction; each is drawn once and then reused.

    Args:
        setting: the size and look of the dashes.
        margin: free space around them, in pixels.
    """

    def __init__(self, setting: PathfinderSetting, margin: int):
        self.setting, self.margin = setting, margin
        self.reach = setting.dash_length + math.ceil(setting.dash_thickness) + margin
        self._drawn: dict[Point, Stroke] = {}
        self._strokes: dict[float, Stroke] = {}

    def stroke(self, orientation: float) -> Stroke:
        """The dash from its tip in a direction (radians)."""
        found = self._strokes.get(orientation)
        if found is None:
            middle, scale = self.reach * self.setting.antialias, self.setting.antialias
            end = translate((middle, middle), orientation, self.setting.dash_length * scale)
            if end not in self._drawn:
                self._drawn[end] = self._draw(middle, end)
            found = self._strokes[orientation] = self._drawn[end]
        return found

    def _draw(self, middle: int, end: Point) -> Stroke:
        setting, side = self.setting, 2 * self.reach + 1
        canvas = Image.new("F", (2 * middle + 1, 2 * middle + 1))
        line = [middle, middle, end[1], end[0]]
        ImageDraw.Draw(canvas).line(line, fill=FULL, width=round(setting.dash_thickness * setting.antialias))
        ink = np.asarray(canvas)
        footprint = _shrunk(cv2.dilate(ink, disc_element(self.margin * setting.antialias)).astype(np.uint8), side)
        footprint = np.pad(footprint, self.margin)
        widened = cv2.dilate(footprint, disc_element(self.margin))
        allowance = np.minimum(_MAX_OVERLAP - footprint.astype(np.int64), FULL).astype(np.uint8)
        ink = _shrunk(ink, side).astype(np.float64) / FULL * setting.contrast
        return Stroke(
            _patch(ink, ink > 0),
            _patch(np.stack((footprint, widened)), widened > 0),
            _patch(allowance, allowance < FULL),
        )

    @functools.cache  # noqa: B019 - a pen lives as long as the process
    def seed_element(self, orientation: float) -> SeedElement | None:
        """The pixels that must be free for the first dash of a path.

        None if, in a corner of the image, all of them would be outside: the official code then gives up, too.
        """
        reach, resolution = self.setting.dash_length + self.margin, self.setting.resolution
        canvas = np.zeros((2, 2 * reach + 1, 2 * reach + 1), np.uint8)
        footprint = self.stroke(orientation).footprint
        paste(canvas, footprint.pixels, footprint.corner_at((reach + 1, reach + 1)))
        covered = canvas[0] == FULL
        offsets = np.argwhere(covered) - reach
        for corner in ((0, 0), (0, resolution - 1), (resolution - 1, 0), (resolution - 1, resolution - 1)):
            if not ((offsets + corner >= 0) & (offsets + corner < resolution)).all(1).any():
                return None
        (top, left), (bottom, right) = offsets.min(0).tolist(), offsets.max(0).tolist()
        return SeedElement(covered.astype(np.uint8), (top, bottom), (left, right))


def _patch(picture: np.ndarray, matters: np.ndarray) -> Patch:
    """Crop a picture [..., n, n] to the rows and columns where ``matters`` is true."""
    rows, columns = (np.flatnonzero(matters.any(axis)) for axis in (1, 0))
    cut = picture[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    middle = len(matters) // 2
    return Patch(np.ascontiguousarray(cut), (int(rows[0]) - middle, int(columns[0]) - middle))


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def draw_disc(canvas: np.ndarray, setting: PathfinderSetting, centre: Point) -> None:
    """Draw a marker's disc onto a canvas, in place."""
    scale, radius = setting.antialias, setting.marker_radius
    reach = math.ceil(radius) + 4  # the Lanczos filter reaches 3 pixels
    (top, bottom), (left, right) = ((max(0, c - reach), min(setting.resolution, c + reach + 1)) for c in centre)
    y, x = np.ogrid[top * scale : bottom * scale, left * scale : right * scale]
    disc = (y - centre[0] * scale) ** 2 + (x - centre[1] * scale) ** 2 <= (radius * scale) ** 2
    picture = Image.fromarray(disc.astype(np.float32)).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    place = canvas[top:bottom, left:right]
    np.maximum(place, np.asarray(picture), out=place)
