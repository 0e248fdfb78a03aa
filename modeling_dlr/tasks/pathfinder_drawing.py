"""What Pathfinder is drawn with: dashes, the room they keep free, and discs, bit for bit as the official code's.

Coordinates are (y, x). Ink is float64, 1 where it is full; room is uint8, 255 where it is taken.
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
# The rooms of two dashes may have this sum: less than 1.8 of 255.
_MAX_OVERLAP = 458


def translate(point: Point, orientation: float, distance: float) -> Point:
    """The point at a distance in a direction (radians), rounded up."""
    y, x = point
    return math.ceil(y + distance * math.sin(orientation)), math.ceil(x + distance * math.cos(orientation))


def opposite(orientation: float) -> float:
    """The direction back."""
    return orientation - math.pi if orientation >= 0 else orientation + math.pi


@functools.cache
def disc_element(radius: int) -> np.ndarray:
    """The structuring element x² + y² <= radius², uint8."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def paste(canvas: np.ndarray, picture: np.ndarray, corner: Point) -> None:
    """Put a picture on a canvas where it is brighter, [..., h, w] on [..., R, R]; what lies outside is cut off.

    Args:
        canvas: what is changed.
        picture: smaller than the canvas.
        corner: where its upper left pixel comes to lie.
    """
    (top, left), (height, width), size = corner, picture.shape[-2:], canvas.shape[-1]
    if top < 0 or left < 0 or top + height > size or left + width > size:
        picture = picture[..., max(0, -top) : max(0, size - top), max(0, -left) : max(0, size - left)]
        (top, left), (height, width) = (max(0, top), max(0, left)), picture.shape[-2:]
    place = canvas[..., top : top + height, left : left + width]
    np.maximum(place, picture, out=place)


class Patch(NamedTuple):
    """The part of a picture that matters, and where its upper left pixel lies, seen from the tip of the dash."""

    pixels: np.ndarray
    corner: Point

    def corner_at(self, tip: Point) -> Point:
        """Where the upper left pixel lies if the tip is there."""
        return tip[0] + self.corner[0], tip[1] + self.corner[1]


class Stroke(NamedTuple):
    """A dash in one direction, ready to be laid at any tip."""

    ink: Patch
    """[h, w] float64."""
    room: Patch
    """[2, h, w] uint8: the room that the dash takes, and that widened by the margin, where no other tip may lie."""
    allowance: Patch
    """[h, w] uint8: how much of each pixel may be taken before, so that the dash may be laid there."""


class SeedElement(NamedTuple):
    """The pixels that the room of a dash covers wholly, seen from an anchor in the middle."""

    pixels: np.ndarray
    """[2 n + 1, 2 n + 1] uint8: a structuring element."""
    rows: tuple[int, int]
    """The first and the last."""
    columns: tuple[int, int]
    """Likewise."""


class Pen:
    """Dashes of one setting and margin in every direction; each is drawn once.

    Args:
        setting: how dashes look.
        margin: what is kept free around them.
    """

    def __init__(self, setting: PathfinderSetting, margin: int):
        self.setting, self.margin = setting, margin
        self.reach = setting.dash_length + math.ceil(setting.dash_thickness) + margin
        self._drawn: dict[Point, Stroke] = {}
        self._strokes: dict[float, Stroke] = {}

    def stroke(self, orientation: float) -> Stroke:
        """The dash that begins at its tip and runs in a direction (radians)."""
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
        room = _shrunk(cv2.dilate(ink, disc_element(self.margin * setting.antialias)).astype(np.uint8), side)
        room = np.pad(room, self.margin)
        widened = cv2.dilate(room, disc_element(self.margin))
        allowance = np.minimum(_MAX_OVERLAP - room.astype(np.int64), FULL).astype(np.uint8)
        ink = _shrunk(ink, side).astype(np.float64) / FULL * setting.contrast
        return Stroke(
            _patch(ink, ink > 0), _patch(np.stack((room, widened)), widened > 0), _patch(allowance, allowance < FULL)
        )

    @functools.cache  # noqa: B019 - a pen lives as long as the process
    def seed_element(self, orientation: float) -> SeedElement | None:
        """What must be free for a dash to be laid where there is none yet.

        None if in a corner of the image all of it would lie outside: the official code gives up then.
        """
        reach, resolution = self.setting.dash_length + self.margin, self.setting.resolution
        canvas = np.zeros((2, 2 * reach + 1, 2 * reach + 1), np.uint8)
        room = self.stroke(orientation).room
        paste(canvas, room.pixels, room.corner_at((reach + 1, reach + 1)))
        covered = canvas[0] == FULL
        offsets = np.argwhere(covered) - reach
        for corner in ((0, 0), (0, resolution - 1), (resolution - 1, 0), (resolution - 1, resolution - 1)):
            if not ((offsets + corner >= 0) & (offsets + corner < resolution)).all(1).any():
                return None
        (top, left), (bottom, right) = offsets.min(0).tolist(), offsets.max(0).tolist()
        return SeedElement(covered.astype(np.uint8), (top, bottom), (left, right))


def _patch(picture: np.ndarray, matters: np.ndarray) -> Patch:
    """Cut a picture around its middle, [..., n, n], down to the rows and columns where it matters."""
    rows, columns = (np.flatnonzero(matters.any(axis)) for axis in (1, 0))
    cut = picture[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    middle = len(matters) // 2
    return Patch(np.ascontiguousarray(cut), (int(rows[0]) - middle, int(columns[0]) - middle))


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def draw_disc(canvas: np.ndarray, setting: PathfinderSetting, centre: Point) -> None:
    """Put a marker's disc on a canvas."""
    scale, radius = setting.antialias, setting.marker_radius
    reach = math.ceil(radius) + 4  # Lanczos looks 3 pixels far
    (top, bottom), (left, right) = ((max(0, c - reach), min(setting.resolution, c + reach + 1)) for c in centre)
    y, x = np.ogrid[top * scale : bottom * scale, left * scale : right * scale]
    disc = (y - centre[0] * scale) ** 2 + (x - centre[1] * scale) ** 2 <= (radius * scale) ** 2
    picture = Image.fromarray(disc.astype(np.float32)).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    place = canvas[top:bottom, left:right]
    np.maximum(place, np.asarray(picture), out=place)
