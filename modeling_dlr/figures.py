"""Plot a layer: its poles, and some of its kernels in time and in frequency. Needs matplotlib.

pip install 'modeling-dlr[figures]'
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .kernels_dlr import DiagonalKernel, Kernel, SGConvKernel
from .modeling_dlr import DLRMixer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

DEFAULT_LENGTH = 4096
DEFAULT_CHANNELS = 2
# Ranges of the panels: steps of the first, decibels of the frequency response, decades of the memory.
_FIRST_STEPS = 64
_DECIBELS = 80
_DECADES = 6


class Curve(NamedTuple):
    """One kernel to draw: its values [L], and how to tell it from the others."""

    kernel: np.ndarray
    label: str
    colour: str
    line: str


class Poles(NamedTuple):
    """The poles to draw: complex Λ, the size of their weights, and their decay times to 1/e in steps; each [n]."""

    poles: np.ndarray
    weights: np.ndarray
    memory: np.ndarray


def kernel_figure(
    model: nn.Module, *, layer: int = 0, channels: Sequence[int] | None = None, length: int | None = None
) -> "Figure":
    """Plot the poles and kernels of one layer.

    The upper row shows the poles on the unit disk, and their decay times; SGConv has no poles. The lower row shows the
    kernels of some channels: their first steps, the largest value around each lag, and the frequency response. A causal
    model has one kernel per channel. A bidirectional model has a second one (dashed), which reads from the end.
    ``num_kernel_channels`` or a channel gate multiply the number of kernels.

    Args:
        model: any DLR model or head.
        layer: index of the layer, counted from 0.
        channels: hidden channels whose kernels are drawn; by default the first two. The size of a weight is its root
            mean square over the kernels of these channels.
        length: number of kernel steps to draw; by default 4096, or the whole kernel if it is shorter.

    Returns:
        A matplotlib figure: ``kernel_figure(model).savefig("kernels.png")``.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if the model has no DLR layer.
        IndexError: if the model does not have this layer or channel.
        ValueError: if the length is not positive, or if ``channels`` is empty.

    >>> from modeling_dlr import DLRConfig, DLRModel
    >>> model = DLRModel(DLRConfig(hidden_size=4, num_hidden_layers=1, state_size=16))
    >>> figure = kernel_figure(model, channels=[0, 2], length=512)
    >>> figure.savefig("kernels.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "kernel_figure needs matplotlib, which is not installed: pip install 'modeling-dlr[figures]'"
        ) from None
    mixers = (
        [module for module in model.modules() if isinstance(module, DLRMixer)] if isinstance(model, nn.Module) else []
    )
    if not mixers:
        raise TypeError(f"kernel_figure needs a DLR model, but {type(model).__name__} has no DLR layer.")
    _check_range("layer", layer, len(mixers))
    mixer = mixers[layer]
    kernel = mixer.kernel
    channels = list(range(min(DEFAULT_CHANNELS, kernel.hidden_size)) if channels is None else channels)
    if not channels:
        raise ValueError("kernel_figure needs at least one channel, got channels=[].")
    for channel in channels:
        _check_range("channel", channel, kernel.hidden_size)
    length = _default_length(kernel) if length is None else length
    if length < 1:
        raise ValueError(f"kernel_figure needs at least one step, got length={length}: pass a positive length.")
    with torch.no_grad():
        kernels = kernel(length)
        curves = list(_curves(kernels, mixer.bidirectional, channels))
        poles = _poles(kernel, kernels.shape[-1], channels) if isinstance(kernel, DiagonalKernel) else None
    figure = Figure(figsize=(14, 5 if poles is None else 9), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=[1, 8] if poles is None else [5, 4])
    if poles is None:
        _draw_no_poles(figure.add_subplot(grid[0, :]), kernel)
    else:
        draw_disk(figure.add_subplot(grid[0, :3]), poles)
        _draw_fading(figure.add_subplot(grid[0, 3:]), poles)
    steps = figure.add_subplot(grid[1, :2])
    draw_steps(steps, curves)
    _draw_memory(figure.add_subplot(grid[1, 2:4]), curves)
    draw_frequency(figure.add_subplot(grid[1, 4:]), curves)
    figure.suptitle(f"Layer {layer}: {_describe(kernel)}")
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(curves), 4))
    return figure


def _check_range(name: str, number: int, count: int) -> None:
    if number not in range(count):
        raise IndexError(f"{name} must be in 0 … {count - 1}, because the model has {count} of them; got {number}.")


def _default_length(kernel: Kernel) -> int:
    if isinstance(kernel, SGConvKernel):
        return min(DEFAULT_LENGTH, kernel.state_size * 2 ** (kernel.options["num_scales"] - 1))
    return DEFAULT_LENGTH


def _describe(kernel: Kernel) -> str:
    """Describe a kernel in one line, such as "dlr 'complex', 256 poles, read_out 'real'"."""
    options, version = kernel.options, kernel.options.get("version", kernel.options.get("discretization"))
    name = options["kernel_type"] if version is None else f"{options['kernel_type']} {version!r}"
    if not isinstance(kernel, DiagonalKernel):
        return name
    return f"{name}, {kernel.state_size} pole{'s' if kernel.state_size > 1 else ''}, read_out {options['read_out']!r}"


def _curves(kernels: Tensor, bidirectional: bool, channels: list[int]) -> Iterator[Curve]:
    """Yield the curves of some channels from kernels [C, H, L], one colour each; backward kernels are dashed."""
    directions = {"forward": "-", "backward": "--"} if bidirectional else {"": "-"}
    values = kernels.double().cpu().numpy().reshape(len(directions), -1, *kernels.shape[1:])
    several = values.shape[1] > 1
    colours = {key: f"C{i % 10}" for i, key in enumerate((h, c) for h in channels for c in range(values.shape[1]))}
    for (h, c), colour in colours.items():
        for d, (direction, line) in enumerate(directions.items()):
            parts = [f"channel {h}", f"kernel {c}" if several else "", direction]
            yield Curve(values[d, c, h], ", ".join(filter(None, parts)), colour, line)


def _poles(kernel: DiagonalKernel, length: int, channels: list[int]) -> Poles:
    """The poles of some channels, or the poles that all channels share."""
    modes = kernel.modes(length)
    shared = modes.decay.dim() == 1
    decay, angle = (part if shared else part[channels] for part in (modes.decay.double(), modes.angle.double()))
    squares = torch.stack([part.double().square() for part in modes[2:] if part is not None]).sum(0)  # [C, H, N]
    size = squares[:, channels].mean((0, 1) if shared else 0).sqrt()
    radius = decay.exp()
    memory = torch.where(decay < 0, -1 / decay.clamp(max=-torch.finfo(decay.dtype).tiny), torch.inf)
    parts = (torch.complex(radius * angle.cos(), radius * angle.sin()), size, memory)
    return Poles(*(part.flatten().cpu().numpy() for part in parts))


def _scatter(axes: "Axes", poles: Poles, x: np.ndarray, y: np.ndarray) -> "PathCollection":
    """Draw a dot per pole, coloured by the size of its weight, with the largest weights on top."""
    order = np.argsort(poles.weights)
    largest = max(float(poles.weights.max()), np.finfo(float).tiny)
    size = float(np.clip(4000 / len(order), 4, 40))
    return axes.scatter(x[order], y[order], c=poles.weights[order], s=size, vmin=0, vmax=largest, cmap="viridis_r")


def draw_disk(axes: "Axes", poles: Poles) -> None:
    """Draw the poles in the unit disk: the angle is a frequency, and poles far from the circle decay fast."""
    turn = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color="0.7", linewidth=1)
    axes.axhline(0, color="0.9", linewidth=1, zorder=0)
    axes.axvline(0, color="0.9", linewidth=1, zorder=0)
    _scatter(axes, poles, poles.poles.real, poles.poles.imag)
    axes.set_aspect("equal")
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.1, 1.1)
    axes.set_title("Poles Λ on the unit disk")
    axes.set_xlabel("Re Λ (dimensionless)")
    axes.set_ylabel("Im Λ (dimensionless)")


def _draw_fading(axes: "Axes", poles: Poles) -> None:
    """Draw the decay times of the poles, which the disk does not show for poles close to the circle."""
    finite = np.isfinite(poles.memory)
    if finite.any():
        dots = _scatter(axes, poles, np.angle(poles.poles), np.where(finite, poles.memory, np.nan))
        axes.set_yscale("log")
        decades = np.log10([poles.memory[finite].min() / 1.5, poles.memory[finite].max() * 1.5])
        axes.set_ylim(10.0 ** np.floor(decades[0]), 10.0 ** np.ceil(decades[1]))
        # pyrefly: ignore[missing-attribute] - the axes always have a figure here
        axes.figure.colorbar(dots, ax=axes, label="size of the weight |W|")
        axes.grid(color="0.9")
    else:
        axes.text(0.5, 0.5, "No pole decays: |Λ| is 1 or more.", transform=axes.transAxes, ha="center", va="center")
    axes.set_xlim(-1.05 * np.pi, 1.05 * np.pi)
    axes.set_xticks(np.pi * np.array([-1, -0.5, 0, 0.5, 1]), ["−π", "−π/2", "0", "π/2", "π"])
    axes.set_title("How long each pole lasts")
    axes.set_xlabel("angle of Λ (radians per step)")
    axes.set_ylabel("decay time to 1/e (steps)")


def _draw_no_poles(axes: "Axes", kernel: Kernel) -> None:
    axes.set_axis_off()
    text = f"No poles to draw: {kernel.no_recurrence_because}."
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize="large")


def draw_steps(axes: "Axes", curves: list[Curve]) -> None:
    """Draw the first steps of the kernels, a dot for each step."""
    for curve in curves:
        kernel = curve.kernel[:_FIRST_STEPS]
        axes.plot(kernel, curve.line, color=curve.colour, label=curve.label, marker=".", markersize=4, linewidth=1)
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)
    axes.set_title("The first steps of the kernels K")
    axes.set_xlabel("lag l (steps)")
    axes.set_ylabel("K at lag l (output per unit of input)")


def _draw_memory(axes: "Axes", curves: list[Curve]) -> None:
    """Draw an envelope of the kernels: their largest absolute value in two intervals of lags per octave."""
    highest = max(float(np.abs(curve.kernel).max()) for curve in curves) or 1.0
    length = len(curves[0].kernel)
    count = 2 + int(2 * np.log2(length))
    edges = np.unique(np.geomspace(1, length + 1, count).round().astype(int)) - 1
    for curve in curves:
        envelope = np.maximum.reduceat(np.abs(curve.kernel), edges[:-1])
        middles = np.sqrt((edges[:-1] + 1) * edges[1:])
        axes.plot(middles, np.maximum(envelope, highest * 10.0**-_DECADES / 10), curve.line, color=curve.colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, max(length, 2))
    axes.set_ylim(bottom=max(axes.get_ylim()[0], highest * 10.0**-_DECADES))
    axes.grid(which="major", color="0.9")
    axes.set_title(f"How far back they reach ({length:,} steps)")
    axes.set_xlabel("lag l + 1 (steps, logarithmic)")
    axes.set_ylabel("largest |K| around that lag (logarithmic)")


def draw_frequency(axes: "Axes", curves: list[Curve]) -> None:
    """Draw the gain at each frequency: the discrete Fourier transform of the whole kernel, in decibels."""
    n = max(512, len(curves[0].kernel))  # zero padding makes the curve of a short kernel smoother
    gains = [np.abs(np.fft.rfft(curve.kernel, n)[1:]) for curve in curves]
    highest = max(float(gain.max()) for gain in gains) or 1.0
    for curve, gain in zip(curves, gains, strict=True):
        decibels = 20 * np.log10(np.maximum(gain, highest * 10 ** (-_DECIBELS / 20)))
        axes.plot(np.fft.rfftfreq(n)[1:], decibels, curve.line, color=curve.colour, linewidth=0.8, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xlim(1 / n, 0.5)
    axes.grid(which="major", color="0.9")
    axes.set_title("Frequency response")
    axes.set_xlabel("frequency (cycles per step, logarithmic)")
    axes.set_ylabel("gain (dB)")
    radians = axes.secondary_xaxis(
        "top", functions=(lambda f: np.multiply(2 * np.pi, f), lambda w: np.divide(w, 2 * np.pi))
    )
    radians.set_xlabel("frequency (radians per step)")
