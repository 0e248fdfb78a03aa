"""Draw the figures of the site, each for a light and for a dark page: `python docs/tools/site_figures.py`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent.parent / "figures"

# The colours of lines, and that of axes and words, on each kind of page.
PAGES = {
    "": (["#1a73e8", "#c5621b", "#188038", "#9334a8"], "#30363d"),
    "-dark": (["#8ab4f8", "#f6ad6b", "#81c995", "#d7a6e6"], "#d0d7de"),
}
STEPS = 200
# A kernel of four poles: memories of 100 to 30 steps, rhythms of 126 to 19 steps.
POLES = np.exp(np.array([-0.01 + 0.05j, -0.02 + 0.12j, -0.015 + 0.21j, -0.03 + 0.33j]))
WEIGHTS = np.array([0.6, 0.5j, -0.4, 0.5])


def powers(poles: np.ndarray, steps: int) -> np.ndarray:
    """The powers Λ^l, [poles, steps]."""
    return poles[:, None] ** np.arange(steps)


def three_poles(figure: Figure) -> None:
    """Three poles in the unit disk, and the response of each to a single 1."""
    poles = {"0.98": 0.98, "0.97 exp(0.3 i)": 0.97 * np.exp(0.3j), "0.6": 0.6}
    disk, response = figure.subplots(1, 2, width_ratios=[1, 2.2])
    turn = np.linspace(0, 2 * np.pi, 200)
    disk.plot(np.cos(turn), np.sin(turn), color="C3", linewidth=1)
    for name, pole in poles.items():
        disk.plot(np.real(pole), np.imag(pole), "o")
        response.plot(powers(np.array([complex(pole)]), 80)[0].real, linewidth=1.4, label=name)
    disk.set_aspect("equal")
    disk.set_xlabel("Re Λ")
    disk.set_ylabel("Im Λ")
    disk.set_title("three poles in the unit disk")
    response.set_xlabel("lag l (steps)")
    response.set_title("Re Λ^l: what is left of a 1 after l steps")
    response.legend(frameon=False)


def sum_of_modes(figure: Figure) -> None:
    """A kernel is the sum of its modes."""
    modes = (WEIGHTS[:, None] * powers(POLES, STEPS)).real
    axes = figure.subplots()
    for i, mode in enumerate(modes):
        axes.plot(mode, color="C1", linewidth=0.8, label=None if i else "Re(W Λ^l) of each of four poles")
    axes.plot(modes.sum(0), color="C0", linewidth=2, label="their sum, the kernel K")
    axes.set_xlabel("lag l (steps)")
    axes.legend(frameon=False)


def two_ways(figure: Figure) -> None:
    """The recurrence, step by step, gives what the convolution gives for all steps at once."""
    kernel = (WEIGHTS @ powers(POLES, STEPS)).real
    inputs = np.zeros(STEPS)
    inputs[[10, 60, 75, 140]] = [1, 0.8, -1, 0.6]
    state, outputs = np.zeros(len(POLES), complex), []
    for value in inputs:
        state = POLES * state + value
        outputs.append((WEIGHTS * state).sum().real)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    above.vlines(np.flatnonzero(inputs), 0, inputs[inputs != 0], color="C2", linewidth=2)
    above.axhline(0, color="C2", linewidth=0.8)
    above.set_title("input u")
    below.plot(np.convolve(inputs, kernel)[:STEPS], color="C0", linewidth=1.4, label="convolution with K, all at once")
    below.plot(range(0, STEPS, 4), outputs[::4], "o", color="C1", markersize=3, label="recurrence, step by step")
    below.set_title("output y")
    below.set_xlabel("step t")
    below.legend(frameon=False, loc="lower right")


def what_kernels_can_be(figure: Figure) -> None:
    """The same 128 poles with three choices of weights: a mean, a delay, and a filter of one frequency."""
    lag = np.arange(STEPS)
    wanted = {
        "a mean of 60 steps": (lag < 60) / 60,
        "the input 100 steps ago": (lag == 100).astype(float),
        "a rhythm of 20 steps": np.exp(-lag / 60) * np.cos(2 * np.pi * lag / 20),
    }
    poles = np.exp(-(np.linspace(0.1, 0.2, 128) ** 2) + 2j * np.pi * np.arange(128) / 256)
    basis = powers(poles, STEPS).T
    real = np.hstack([basis.real, -basis.imag])
    for axes, (name, target) in zip(figure.subplots(1, 3), wanted.items(), strict=True):
        weights = np.linalg.lstsq(real, target, rcond=1e-6)[0]
        axes.plot(real @ weights, color="C0", linewidth=1.2)
        axes.set_title(name)
        axes.set_xlabel("lag l (steps)")


FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "poles": (three_poles, (8, 2.9)),
    "modes": (sum_of_modes, (8, 2.9)),
    "two_ways": (two_ways, (8, 3.6)),
    "kernels": (what_kernels_can_be, (8, 2.4)),
}


def styles() -> Iterator[tuple[str, dict[str, object]]]:
    """The end of a file's name, and the settings of matplotlib."""
    for ending, (colours, ink) in PAGES.items():
        names = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
        yield (
            ending,
            dict.fromkeys(names, ink)
            | {
                "axes.prop_cycle": mpl.cycler(color=colours),
                "axes.titlesize": 9,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "font.size": 9,
                "path.simplify_threshold": 0.3,
                "svg.fonttype": "none",
                "svg.hashsalt": "site",
            },
        )


def draw(folder: Path) -> None:
    """Draw every figure into a folder."""
    for ending, style in styles():
        for name, (paint, size) in FIGURES.items():
            with mpl.rc_context(style):
                figure = Figure(figsize=size, layout="constrained")
                paint(figure)
                for axes in figure.axes:
                    _mute(axes)
                figure.savefig(folder / f"{name}{ending}.svg", transparent=True, metadata={"Date": None})


def _mute(axes: Axes) -> None:
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
