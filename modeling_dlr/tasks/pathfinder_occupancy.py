"""The space that paths occupy, and the directions in which a path can continue through the free space."""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from .pathfinder_drawing import FULL, Patch, Pen, Point, Stroke, opposite, paste

# A pixel counts as free if at most this much of it is taken: 0.3 × 255.
_FREE = 76
# The free share of a pixel, indexed by how much of it is taken.
_FREE_SHARE = 1 - np.arange(FULL + 1) / FULL


class Occupancy:
    """How much of each pixel of the image is taken, and how much of the area within the margin around it.

    A rim around the image makes boundary checks unnecessary: nothing is taken there, and no tip may be there.

    Args:
        canvas: [2, R + 2 rim, R + 2 rim] uint8; `add` changes it.
        rim: width of the rim in pixels, larger than the reach of every lookup.
    """

    def __init__(self, canvas: np.ndarray, rim: int):
        self.rim, self._canvas = rim, canvas
        self._windows = canvas[:, rim:-rim, rim:-rim]
        self._taken, self._tips, self._width = canvas[0], canvas[1].reshape(-1), canvas.shape[-1]
        self.window = self._windows[0]

    @classmethod
    def empty(cls, resolution: int, rim: int, margin: int) -> "Occupancy":
        """An image in which only the edge is occupied."""
        occupancy = cls(np.zeros((2, resolution + 2 * rim, resolution + 2 * rim), np.uint8), rim)
        set_border(occupancy.window, 1, FULL)
        set_border(occupancy._canvas[1], rim + 1 + margin, FULL)
        return occupancy

    def copy(self) -> "Occupancy":
        """A copy that can be filled independently."""
        return Occupancy(self._canvas.copy(), self.rim)

    def add(self, footprint: Patch, tip: Point) -> None:
        """Mark the footprint of a dash as occupied."""
        paste(self._windows, footprint.pixels, footprint.corner_at(tip))

    def weights(self, pivot: Point, fan: "Fan") -> np.ndarray:
        """The weight of each tip of a fan: larger if straight and free within its margin, 0 outside the image."""
        start = (pivot[0] + self.rim) * self._width + pivot[1] + self.rim + fan.start
        return fan.straightness * _FREE_SHARE.take(self._tips[start:].take(fan.places))

    def allows(self, allowance: Patch, tip: Point) -> bool:
        """Whether a dash overlaps the occupied space by no more than is allowed."""
        pixels, (top, left) = allowance
        top, left = top + tip[0] + self.rim, left + tip[1] + self.rim
        taken = self._taken[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        return np.count_nonzero(taken > pixels) == 0

    def free_share(self) -> float:
        """The share of free pixels."""
        return np.count_nonzero(self.window <= _FREE) / self.window.size

    def free_places(self, element: np.ndarray) -> np.ndarray:
        """The places where an element covers free pixels only and not the edge, as flat indices of the image."""
        occupied = (self.window > _FREE).view(np.uint8)
        return np.flatnonzero(cv2.dilate(occupied, element) == 0)


def set_border(canvas: np.ndarray, width: int, value: int) -> None:
    """Set the outermost ``width`` pixels to ``value``."""
    canvas[:width] = canvas[-width:] = value
    canvas[:, :width] = canvas[:, -width:] = value


class Fan(NamedTuple):
    """All tips to which a path can continue from a pivot."""

    offsets: list[Point]
    """The tips relative to the pivot."""
    orientations: list[float]
    """The direction from the pivot to each tip, in radians."""
    strokes: list[Stroke]
    """The dash from each tip back to the pivot."""
    straightness: np.ndarray
    """[tips]: the weight of each tip if everything is free."""
    start: int
    """The smallest flat index of a tip in the canvas of `Occupancy`, relative to that of the pivot."""
    places: np.ndarray
    """[tips]: the flat index of each tip, relative to ``start``."""


class Compass:
    """The fans of a pen: one for each direction from which a path can arrive.

    Args:
        pen: gives the setting and the margin.
    """

    def __init__(self, pen: Pen):
        self.pen, setting = pen, pen.setting
        self.rim = 2 * setting.dash_length + 5 * pen.margin + math.ceil(setting.dash_thickness) + 2
        self._width = setting.resolution + 2 * self.rim
        radius = setting.dash_length + pen.margin
        angles = np.radians(np.arange(0, 360, 360 / (2 * math.pi * radius)))
        self._circle = radius * np.sin(angles), radius * np.cos(angles)
        self._fans: dict[tuple[bytes, bytes, float], Fan] = {}
        self.empty_occupancy = Occupancy.empty(setting.resolution, self.rim, pen.margin)

    def fan(self, pivot: Point, orientation: float) -> Fan:
        """The fan of tips around a pivot, for a path that arrives in this direction (radians)."""
        y, x = self._offsets(0, pivot[0]), self._offsets(1, pivot[1])
        key = (y, x, orientation)
        found = self._fans.get(key)
        if found is None:
            found = self._build(np.frombuffer(y, np.int64), np.frombuffer(x, np.int64), orientation)
            self._fans[key] = found
        return found

    @functools.cache  # noqa: B019 - a compass lives as long as the process
    def _offsets(self, axis: int, coordinate: int) -> bytes:
        """One coordinate of the circle's points relative to the pivot; it is rounded down in absolute coordinates."""
        return (np.floor(coordinate + self._circle[axis]).astype(np.int64) - coordinate).tobytes()

    def _build(self, y: np.ndarray, x: np.ndarray, orientation: float) -> Fan:
        offsets = np.unique(np.stack((y, x), axis=1), axis=0)
        orientations = np.arctan2(offsets[:, 0], offsets[:, 1])
        turns = np.abs(orientations - orientation)
        turns = np.minimum(turns, 2 * math.pi - turns) * self.pen.setting.continuity
        chosen = turns < math.pi / 2
        offsets, directions = offsets[chosen], orientations[chosen].tolist()
        strokes = [self.pen.stroke(opposite(direction)) for direction in directions]
        start, places = -self.rim * (self._width + 1), offsets @ (self._width, 1)
        straightness = np.cos(turns[chosen]) ** 2
        return Fan(list(map(tuple, offsets.tolist())), directions, strokes, straightness, start, places - start)
