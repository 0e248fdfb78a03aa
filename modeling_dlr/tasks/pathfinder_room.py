"""The room that paths have taken, and the ways in which a path may go on through what is left."""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from .pathfinder_drawing import FULL, Patch, Pen, Point, Stroke, opposite, paste

# A pixel is free up to this much room taken: 0.3 of 255.
_FREE = 76
# How free a pixel is, by how much of it is taken.
_FREE_SHARE = 1 - np.arange(FULL + 1) / FULL


class Room:
    """How much of each pixel of a window is taken, and how much of what lies within the margin of each.

    A rim around both saves asking where the window ends: nothing is taken there, and no tip may lie there.

    Args:
        canvas: [2, R + 2 rim, R + 2 rim] uint8, which `take` changes.
        rim: wider than anything that is asked about reaches.
    """

    def __init__(self, canvas: np.ndarray, rim: int):
        self.rim, self._canvas = rim, canvas
        self._windows = canvas[:, rim:-rim, rim:-rim]
        self._taken, self._tips, self._width = canvas[0], canvas[1].reshape(-1), canvas.shape[-1]
        self.window = self._windows[0]

    @classmethod
    def empty(cls, resolution: int, rim: int, margin: int) -> "Room":
        """Nothing is taken but the edge."""
        room = cls(np.zeros((2, resolution + 2 * rim, resolution + 2 * rim), np.uint8), rim)
        set_border(room.window, 1, FULL)
        set_border(room._canvas[1], rim + 1 + margin, FULL)
        return room

    def copy(self) -> "Room":
        """The same, to be filled further."""
        return Room(self._canvas.copy(), self.rim)

    def take(self, room: Patch, tip: Point) -> None:
        """Fill the room of a dash."""
        paste(self._windows, room.pixels, room.corner_at(tip))

    def chances(self, pivot: Point, fan: "Fan") -> np.ndarray:
        """How probable each tip of a fan is: straight, with free room within its margin, and in the window."""
        start = (pivot[0] + self.rim) * self._width + pivot[1] + self.rim + fan.start
        return fan.straightness * _FREE_SHARE.take(self._tips[start:].take(fan.places))

    def has(self, allowance: Patch, tip: Point) -> bool:
        """Whether the room of a dash overlaps what is taken by no more than is allowed."""
        pixels, (top, left) = allowance
        top, left = top + tip[0] + self.rim, left + tip[1] + self.rim
        taken = self._taken[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        return np.count_nonzero(taken > pixels) == 0

    def free_share(self) -> float:
        """The share of free pixels."""
        return np.count_nonzero(self.window <= _FREE) / self.window.size

    def free_places(self, element: np.ndarray) -> np.ndarray:
        """Where an element lies on free pixels only, and not on the edge, as flat indices of the window."""
        occupied = (self.window > _FREE).view(np.uint8)
        return np.flatnonzero(cv2.dilate(occupied, element) == 0)


def set_border(canvas: np.ndarray, width: int, value: int) -> None:
    """Fill the outermost pixels."""
    canvas[:width] = canvas[-width:] = value
    canvas[:, :width] = canvas[:, -width:] = value


class Fan(NamedTuple):
    """All tips that a path can turn to from a pivot."""

    offsets: list[Point]
    """Where they lie, seen from the pivot."""
    orientations: list[float]
    """In which direction."""
    strokes: list[Stroke]
    """The dashes from them back to the pivot."""
    straightness: np.ndarray
    """[tips]: how probable each is where all is free, up to a factor."""
    start: int
    """The first place that a tip may have in a flat canvas of `Room`, seen from that of the pivot."""
    places: np.ndarray
    """[tips]: where they lie in the flat canvas, seen from ``start``."""


class Compass:
    """The fans of a pen: one for each direction that a path can come from.

    Args:
        pen: its setting and margin.
    """

    def __init__(self, pen: Pen):
        self.pen, setting = pen, pen.setting
        self.rim = 2 * setting.dash_length + 5 * pen.margin + math.ceil(setting.dash_thickness) + 2
        self._width = setting.resolution + 2 * self.rim
        radius = setting.dash_length + pen.margin
        angles = np.radians(np.arange(0, 360, 360 / (2 * math.pi * radius)))
        self._circle = radius * np.sin(angles), radius * np.cos(angles)
        self._fans: dict[tuple[bytes, bytes, float], Fan] = {}
        self.empty_room = Room.empty(setting.resolution, self.rim, pen.margin)

    def fan(self, pivot: Point, orientation: float) -> Fan:
        """The tips around a pivot, for a path that comes in this direction."""
        y, x = self._offsets(0, pivot[0]), self._offsets(1, pivot[1])
        key = (y, x, orientation)
        found = self._fans.get(key)
        if found is None:
            found = self._build(np.frombuffer(y, np.int64), np.frombuffer(x, np.int64), orientation)
            self._fans[key] = found
        return found

    @functools.cache  # noqa: B019 - a compass lives as long as the process
    def _offsets(self, axis: int, coordinate: int) -> bytes:
        """One coordinate of the circle's points, rounded down as seen from 0: rounding differs with the place."""
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
