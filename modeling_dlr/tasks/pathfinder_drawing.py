"""What Pathfinder is drawn with: dashes, the room they keep free, and discs, bit for bit as the official code's.

Coordinates are (y, x). Ink is float64, 1 where it is full; room is uint8, 255 where it is taken.
"""

import functools
import math

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .pathfinder_settings import PathfinderSetting

Point = tuple[int, int]
FULL = 255


def translate(point: Point, orientation: float, distance: float) -> Point:
    """The point at a distance in a direction (radians), rounded up."""
    y, x = point
    return math.ceil(y + distance * math.sin(orientation)), math.ceil(x + distance * math.cos(orientation))


@functools.cache
def disc_element(radius: int) -> np.ndarray:
    """The structuring element x² + y² <= radius², uint8."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def paste(canvas: np.ndarray, picture: np.ndarray, centre: Point) -> None:
    """Put a picture of odd size on a canvas where it is brighter; what lies outside is cut off."""
    reach, size = picture.shape[0] // 2, canvas.shape[0]
    top, left = centre[0] - reach, centre[1] - reach
    if top < 0 or left < 0 or top + 2 * reach >= size or left + 2 * reach >= size:
        picture = picture[max(0, -top) : max(0, size - top), max(0, -left) : max(0, size - left)]
        top, left = max(0, top), max(0, left)
    place = canvas[top : top + picture.shape[0], left : left + picture.shape[1]]
    np.maximum(place, picture, out=place)


class Pen:
    """Dashes of one setting and margin in every direction; each is drawn once.

    Args:
        setting: how dashes look.
        margin: what is kept free around them.
    """

    def __init__(self, setting: PathfinderSetting, margin: int):
        self.setting, self.margin = setting, margin
        self.reach = setting.dash_length + math.ceil(setting.dash_thickness) + margin
        self._drawn: dict[Point, tuple[np.ndarray, np.ndarray]] = {}
        self._strokes: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def stroke(self, orientation: float) -> tuple[np.ndarray, np.ndarray]:
        """Ink and room of a dash that begins in the middle: [2 reach + 1, 2 reach + 1] each."""
        if orientation not in self._strokes:
            middle, scale = self.reach * self.setting.antialias, self.setting.antialias
            end = translate((middle, middle), orientation, self.setting.dash_length * scale)
            if end not in self._drawn:
                self._drawn[end] = self._draw(middle, end)
            self._strokes[orientation] = self._drawn[end]
        return self._strokes[orientation]

    def _draw(self, middle: int, end: Point) -> tuple[np.ndarray, np.ndarray]:
        setting, side = self.setting, 2 * self.reach + 1
        canvas = Image.new("F", (2 * middle + 1, 2 * middle + 1))
        line = [middle, middle, end[1], end[0]]
        ImageDraw.Draw(canvas).line(line, fill=FULL, width=round(setting.dash_thickness * setting.antialias))
        ink = np.asarray(canvas)
        room = cv2.dilate(ink, disc_element(self.margin * setting.antialias)).astype(np.uint8)
        return _shrunk(ink, side).astype(np.float64) / FULL * setting.contrast, _shrunk(room, side)

    @functools.cache  # noqa: B019 - a pen lives as long as the process
    def seed_element(self, orientation: float) -> np.ndarray | None:
        """The pixels that the room of a dash from the anchor covers wholly, as a structuring element, uint8.

        None if in a corner of the image all of them would lie outside: the official code gives up then.
        """
        reach, resolution = self.setting.dash_length + self.margin, self.setting.resolution
        canvas = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
        paste(canvas, self.stroke(orientation)[1], (reach + 1, reach + 1))
        offsets = np.argwhere(canvas == FULL) - reach
        for corner in ((0, 0), (0, resolution - 1), (resolution - 1, 0), (resolution - 1, resolution - 1)):
            if not ((offsets + corner >= 0) & (offsets + corner < resolution)).all(1).any():
                return None
        return (canvas == FULL).astype(np.uint8)


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
