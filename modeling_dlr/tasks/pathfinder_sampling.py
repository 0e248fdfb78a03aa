"""The paths of Pathfinder: two long ones that begin near each other and short ones around them, drawn dash by dash.

The rules and the random numbers are those of the official generator of the DLR paper, which follows arXiv 1805.08315: a
path grows by dashes that turn a little and keep their distance from all other paths; a failed step is tried again.
"""

import bisect
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState

from .pathfinder_drawing import Pen, Point, SeedElement, Stroke, draw_disc, opposite, paste, translate
from .pathfinder_occupancy import Compass
from .pathfinder_settings import PathfinderSetting

_DASH_TRIES = 3
_DISTRACTOR_TRIES = 5
_LEAST_FREE_SHARE = 0.01
_LEAST_CHANCE = 1e-4


class Drawing(NamedTuple):
    """An image of Pathfinder with its ground truth."""

    image: np.ndarray
    """[R, R] uint8."""
    paths: np.ndarray
    """[2, R, R] bool: the pixels of the two long paths."""
    connected: bool
    """Whether the two markers are on one path."""
    marked: int
    """The index of the path with a marker at its beginning."""
    beginnings: tuple[Point, Point]
    ends: tuple[Point, Point]


class Dash(NamedTuple):
    """A dash of a path. The next dash follows at the pivot in the direction ``orientation``, in radians."""

    stroke: Stroke
    tip: Point
    pivot: Point
    orientation: float


Path = list[Dash]


@functools.cache
def _compass(setting: PathfinderSetting, margin: int) -> Compass:
    return Compass(Pen(setting, margin))


@dataclass
class Sampler:
    """Draw images: ``Sampler(setting, RandomState(seed)).draw()``.

    Args:
        setting: the size and look of the images.
        random: random generator, shared by all images.
    """

    setting: PathfinderSetting
    random: RandomState

    def draw(self) -> Drawing:
        """Draw the next image."""
        setting, random = self.setting, self.random
        connected = bool(random.randint(0, 2))
        self.margin = setting.margins[random.randint(0, len(setting.margins))]
        self.compass = _compass(setting, self.margin)
        pair = self._pair()
        while pair is None:
            pair = self._pair()
        inks = [self._ink(path) for path in pair]
        image = np.maximum(*inks)
        for _ in range(setting.num_distractors):
            any(self._distractor(image) for _ in range(_DISTRACTOR_TRIES))
        marked = int(random.randint(0, 2))
        draw_disc(image, setting, pair[marked][0].tip)
        draw_disc(image, setting, pair[marked if connected else 1 - marked][-1].tip)
        low, high = image.min(), image.max()
        return Drawing(
            _to_bytes(image, low, high),
            np.stack([_to_bytes(ink, low, high) > 0 for ink in inks]),
            connected,
            marked,
            (pair[0][0].tip, pair[1][0].tip),
            (pair[0][-1].tip, pair[1][-1].tip),
        )

    def _ink(self, path: Path) -> np.ndarray:
        canvas = np.zeros((self.setting.resolution, self.setting.resolution))
        for dash in path:
            _draw(dash, canvas)
        return canvas

    def _pair(self) -> tuple[Path, Path] | None:
        """Draw two long paths that begin near each other; None if they cannot grow."""
        self.occupancy = self.compass.empty_occupancy.copy()
        first = self._seed(border=2 * self.setting.seed_distance)
        second = first and self._seed_beside(first.tip)
        if not first or not second:
            return None
        paths: tuple[Path, Path] = ([first], [second])
        for _ in range(self.setting.contour_length - 1):
            if not all(self._grow(path) for path in paths):
                return None
        self._take(paths[1][-1])  # the official code forgets the last dash of the first path
        return paths

    def _distractor(self, image: np.ndarray) -> bool:
        """Add a short path to the image; return False and add nothing if it cannot grow."""
        setting, before = self.setting, self.occupancy
        if before.free_share() < _LEAST_FREE_SHARE:
            return False
        seed = self._seed(border=0)
        if seed is None:
            return False
        path, self.occupancy = [seed], before.copy()
        if not all(self._grow(path) for _ in range(setting.distractor_length - 1)):
            self.occupancy = before
            return False
        self._take(path[-1])
        for dash in path:
            _draw(dash, image)
        if setting.mark_distractors:
            draw_disc(image, setting, seed.pivot)
        return True

    def _seed(self, border: int) -> Dash | None:
        """Draw a path's first dash: in an empty image at least ``border`` pixels from the edge, else anywhere free."""
        for _ in range(_DASH_TRIES):
            orientation = math.radians(self.random.randint(-180, 180))
            element = self.compass.pen.seed_element(orientation)
            if element is None:
                return None
            tail = self._inner_place(element, border) if border else self._free_place(element)
            if tail is None:
                return None
            dash = self._first_dash(tail, orientation)
            if dash:
                return dash
        return None

    def _inner_place(self, element: SeedElement, border: int) -> Point | None:
        """Draw one of the places where the element is at least ``border`` pixels away from the edge."""
        rows, columns = (
            range(border - first, self.setting.resolution - border - last)
            for first, last in (element.rows, element.columns)
        )
        if not rows or not columns:
            return None
        row, column = divmod(self.random.randint(0, len(rows) * len(columns)), len(columns))
        return rows[row], columns[column]

    def _free_place(self, element: SeedElement) -> Point | None:
        """Draw one of the places where the element covers free pixels only."""
        free = self.occupancy.free_places(element.pixels)
        return divmod(int(free[self.random.randint(0, len(free))]), self.setting.resolution) if len(free) else None

    def _seed_beside(self, neighbour: Point) -> Dash | None:
        """Draw a first dash at the seed distance from another one."""
        distance = self.setting.seed_distance
        for _ in range(_DASH_TRIES):
            orientation = math.radians(self.random.randint(-180, 180))
            angle = math.radians(self.random.randint(0, 360))
            y, x = neighbour[0] + distance * math.sin(angle), neighbour[1] + distance * math.cos(angle)
            dash = self._first_dash((round(y), round(x)), orientation)
            if dash:
                return dash
        return None

    def _first_dash(self, tail: Point, orientation: float) -> Dash | None:
        """The dash from ``tail`` in a direction, or None if it or its margins leave the image."""
        length = self.setting.dash_length
        head = translate(tail, orientation, length)
        pivot = translate(head, opposite(orientation), length + self.margin)
        if not (self._inside(head) and self._inside(pivot)):
            return None
        return Dash(self.compass.pen.stroke(orientation), tail, pivot, orientation)

    def _grow(self, path: Path) -> bool:
        """Add a dash to a path and mark the previous one as occupied; return False if no tip was found."""
        last, dash = path[-1], self._next_dash(path[-1])
        if dash is None:
            return False
        self._take(last)
        path.append(dash)
        return True

    def _next_dash(self, last: Dash) -> Dash | None:
        """Draw the next dash of a path; a tip is more probable if it turns little and is free."""
        pivot = translate(last.pivot, last.orientation, self.setting.dash_length + 2 * self.margin)
        fan = self.compass.fan(pivot, last.orientation)
        cumulative = self.occupancy.weights(pivot, fan).cumsum().tolist()
        total = cumulative[-1] if cumulative else 0.0
        if total < _LEAST_CHANCE:
            return None
        for _ in range(_DASH_TRIES):
            place = bisect.bisect_right(cumulative, self.random.rand() * total)
            y, x = fan.offsets[place]
            tip, stroke = (pivot[0] + y, pivot[1] + x), fan.strokes[place]
            if self.occupancy.allows(stroke.allowance, tip):
                return Dash(stroke, tip, pivot, fan.orientations[place])
        return None

    def _take(self, dash: Dash) -> None:
        self.occupancy.add(dash.stroke.footprint, dash.tip)

    def _inside(self, point: Point) -> bool:
        return 0 <= point[0] < self.setting.resolution and 0 <= point[1] < self.setting.resolution


def _draw(dash: Dash, canvas: np.ndarray) -> None:
    paste(canvas, dash.stroke.ink.pixels, dash.stroke.ink.corner_at(dash.tip))


def _to_bytes(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((picture - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
