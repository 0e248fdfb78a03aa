"""The room that paths have taken, and the ways in which a path may go on through what is left."""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from .pathfinder_drawing import FULL, Pen, Point, disc_element, paste

# A pixel is free up to this much room taken, and the rooms of two dashes stay below this sum: 0.3 and 1.8 of 255.
_FREE, _MAX_OVERLAP = 76, 459
# How free a pixel is, by how much of it is taken.
_FREE_SHARE = 1 - np.arange(FULL + 1) / FULL


class Room:
    """How much of each pixel of a window is taken; a rim of zeros saves asking where the window ends.

    Args:
        resolution: of the window.
        rim: wider than anything that is asked about reaches.
    """

    def __init__(self, resolution: int, rim: int):
        self.resolution, self.rim = resolution, rim
        self._canvas = np.zeros((resolution + 2 * rim, resolution + 2 * rim), np.uint8)
        self.flat = self._canvas.reshape(-1)
        self.window = self._canvas[rim:-rim, rim:-rim]
        set_border(self.window, 1, FULL)

    def copy(self) -> "Room":
        """The same, to be filled further."""
        other = Room(self.resolution, self.rim)
        other.window[:] = self.window
        return other

    def place(self, point: Point) -> int:
        """The index of a pixel in ``flat``."""
        return (point[0] + self.rim) * (self.resolution + 2 * self.rim) + point[1] + self.rim

    def take(self, room: np.ndarray, centre: Point) -> None:
        """Fill the room of a dash."""
        paste(self.window, room, centre)

    def chances(self, pivot: Point, fan: "Fan") -> np.ndarray:
        """How probable each tip of a fan is: straight, with free room within its margin, and in the window."""
        taken = np.maximum.reduce(self.flat.take(fan.discs + self.place(pivot)))
        chances = fan.straightness * _FREE_SHARE.take(taken)
        y, x = pivot
        rim, far = self.rim, self.resolution - self.rim
        if not (rim < y < far and rim < x < far):  # a tip may lie outside
            points = fan.offsets + np.array(pivot)
            chances[((points < 0) | (points >= self.resolution)).any(1)] = 0
        return chances

    def has(self, room: np.ndarray, centre: Point) -> bool:
        """Whether the room of a dash overlaps what is taken by no more than is allowed."""
        top, left = centre[0] + self.rim - room.shape[0] // 2, centre[1] + self.rim - room.shape[0] // 2
        taken = self._canvas[top : top + room.shape[0], left : left + room.shape[0]]
        return np.maximum.reduce(np.add(taken, room, dtype=np.uint16), axis=None) < _MAX_OVERLAP

    def free_share(self) -> float:
        """The share of free pixels."""
        return float(np.mean(self.window <= _FREE))

    def free_places(self, element: np.ndarray) -> np.ndarray:
        """Where an element lies on free pixels only, and not on the edge, as flat indices of the window."""
        occupied = (self.window > _FREE).view(np.uint8)
        return np.flatnonzero(cv2.dilate(occupied, element) == 0)


def inner_places(element: np.ndarray, border: int, resolution: int) -> np.ndarray:
    """Where an element lies ``border`` away from the edge of an empty window, as flat indices."""
    spans = []
    for axis in (0, 1):
        offsets = np.flatnonzero(element.any(1 - axis)) - element.shape[0] // 2
        spans.append(np.arange(border - offsets[0], resolution - border - offsets[-1]))
    return np.add.outer(spans[0] * resolution, spans[1]).ravel()


def set_border(canvas: np.ndarray, width: int, value: int) -> None:
    """Fill the outermost pixels."""
    canvas[:width] = canvas[-width:] = value
    canvas[:, :width] = canvas[:, -width:] = value


class Fan(NamedTuple):
    """All tips that a path can turn to from a pivot."""

    offsets: np.ndarray
    """[tips, 2]: where they lie, seen from the pivot."""
    orientations: np.ndarray
    """[tips]: in which direction."""
    straightness: np.ndarray
    """[tips]: how probable each is where all is free, up to a factor."""
    discs: np.ndarray
    """[pixels, tips]: those within the margin of each tip, as offsets in `Room.flat`."""


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
        offsets = offsets[chosen]
        disc = np.argwhere(disc_element(self.pen.margin)) - self.pen.margin
        to_flat = np.array((self._width, 1))
        discs = (disc @ to_flat)[:, None] + offsets @ to_flat
        return Fan(offsets, orientations[chosen], np.cos(turns[chosen]) ** 2, discs)
