"""The kernel of one channel as its poles make it, when one of them is moved: values, figures and sound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modeling_dlr.figures import Curve, Poles, draw_disk, draw_frequency, draw_steps
from modeling_dlr.kernels_dlr import DiagonalKernel
from modeling_dlr.modeling_dlr import DLRMixer
from modeling_dlr.modeling_striped_hyena import StripedHyenaFilter
from modeling_dlr.ops_dlr import Modes, evaluate_read_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Steps that are drawn, and steps per second of the sound, which lasts one second.
LENGTH = 2048
SAMPLING_RATE = 8000
# |Λ| of a pole that may be moved to: 0 has no logarithm.
LEAST_MAGNITUDE = 0.001
_LOUDEST = 0.8
# A picture of the disk: its side in pixels, its axes as shares of that, and the largest coordinate on them.
SIDE = 500
_LEFT, _BOTTOM, _SIDE, _REACH = 0.17, 0.12, 0.8, 1.1


@dataclass
class Bank:
    """The modes of one channel.

    Args:
        modes: decay and angle [N], weights [1, 1, N].
        read_out: how the kernel is read from them.
        name: of the layer and the channel.
    """

    modes: Modes
    read_out: str
    name: str

    @property
    def count(self) -> int:
        """How many poles there are."""
        return self.modes.decay.shape[-1]

    def pole(self, number: int) -> tuple[float, float]:
        """|Λ| of a pole, and its angle in (-π, π]."""
        angle = math.remainder(float(self.modes.angle[number]), 2 * math.pi)
        return math.exp(float(self.modes.decay[number])), angle

    def moved(self, number: int, magnitude: float, angle: float) -> "Bank":
        """The bank with one pole elsewhere, and its weight as it was."""
        decay, angles = self.modes.decay.clone(), self.modes.angle.clone()
        decay[number] = math.log(max(magnitude, LEAST_MAGNITUDE))
        angles[number] = angle
        return Bank(self.modes._replace(decay=decay, angle=angles), self.read_out, self.name)

    def kernel(self, length: int) -> np.ndarray:
        """Its values [length]."""
        return evaluate_read_out(self.modes, self.read_out, length)[0, 0].double().numpy()

    def poles(self) -> Poles:
        """Its poles, as they are drawn."""
        decay, angle = self.modes.decay.double(), self.modes.angle.double()
        memory = torch.where(decay < 0, -1 / decay.clamp(max=-torch.finfo(decay.dtype).tiny), torch.inf)
        weights = torch.stack([part.square().flatten() for part in self.modes[2:] if part is not None]).sum(0).sqrt()
        return Poles(torch.polar(decay.exp(), angle).numpy(), weights.double().numpy(), memory.numpy())


def one_pole() -> Bank:
    """A bank of a single pole, for models without any."""
    decay, angle = torch.tensor([math.log(0.97)], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    return Bank(Modes(decay, angle, torch.ones(1, 1, 1), torch.zeros(1, 1, 1)), "real", "A pole of no model")


def layers_of(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """The kernels of a model that have poles, and how many channels each has."""
    found: list[tuple[nn.Module, int]] = []
    for module in model.modules():
        if isinstance(module, DLRMixer) and isinstance(module.kernel, DiagonalKernel):
            found.append((module.kernel, module.kernel.hidden_size))
        elif isinstance(module, StripedHyenaFilter):
            found.append((module, module.modes().weights_real.shape[1]))
    return found


def bank_of(layers: Sequence[tuple[Any, int]], layer: int, channel: int) -> Bank:
    """The modes of a channel of a layer, its first kernel.

    Raises:
        ValueError: for a layer or a channel that is not there.
    """
    if not layers:
        return one_pole()
    if layer not in range(len(layers)):
        raise ValueError(f"The model has the layers 0 to {len(layers) - 1}, and none {layer}.")
    module, channels = layers[layer]
    if channel not in range(channels):
        raise ValueError(f"Layer {layer} has the channels 0 to {channels - 1}, and none {channel}.")
    with torch.no_grad():
        modes = module.modes(LENGTH) if isinstance(module, DiagonalKernel) else module.modes()
    read_out = module.options["read_out"] if isinstance(module, DiagonalKernel) else "real"
    if read_out == "real_prod":  # another one for each half of the channels
        read_out = "real" if channel < channels // 2 else "prod"
    decay, angle, real, imag = (_of_channel(part, channel) for part in modes[:4])
    reverse = (None if part is None else _of_channel(part, channel) for part in modes[4:])
    return Bank(Modes(decay, angle, real, imag, *reverse), read_out, f"Layer {layer}, channel {channel}")


def _of_channel(part: Tensor, channel: int) -> Tensor:
    """Poles [N], or weights [1, 1, N], of a channel."""
    part = part.detach().cpu()
    if part.dim() == 3:
        return part[:1, channel : channel + 1]
    return part if part.dim() == 1 else part[channel]


def pole_picture(bank: Bank, number: int) -> np.ndarray:
    """The poles in the unit disk, a ring around the one that is moved: [h, w, 4] in bytes."""
    figure = _figure((SIDE / 100, SIDE / 100))
    axes = figure.add_axes((_LEFT, _BOTTOM, _SIDE, _SIDE))
    poles = bank.poles()
    draw_disk(axes, poles)
    axes.plot(poles.poles[number].real, poles.poles[number].imag, "o", ms=14, mfc="none", mec="C3", mew=2)
    return _pixels(figure)


def pole_at(x: float, y: float) -> tuple[float, float]:
    """The magnitude, at most 1, and the angle of the pole at a pixel of a picture of the disk.

    >>> pole_at(500 * 0.57, 500 * (1 - 0.52))  # the middle of the disk
    (0.001, 0.0)
    """
    real = _REACH * (2 * (x / SIDE - _LEFT) / _SIDE - 1)
    imaginary = _REACH * (2 * (1 - y / SIDE - _BOTTOM) / _SIDE - 1)
    magnitude = min(1.0, max(LEAST_MAGNITUDE, math.hypot(real, imaginary)))
    return magnitude, round(math.atan2(imaginary, real), 6) if magnitude > LEAST_MAGNITUDE else 0.0


def kernel_picture(before: Bank, after: Bank) -> np.ndarray:
    """The kernel before and after a pole is moved, its first steps and its frequency response: [h, w, 4] in bytes."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = [
        Curve(before.kernel(LENGTH), "before", "0.6", "--"),
        Curve(after.kernel(LENGTH), "now", "C0", "-"),
    ]
    figure = _figure((5, 7), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    upper, lower = figure.subplots(2)
    draw_steps(upper, drawn)
    upper.legend(loc="upper right")
    draw_frequency(lower, drawn)
    return _pixels(figure)


def sound_of(bank: Bank) -> tuple[int, np.ndarray]:
    """A second of the kernel as sound, one step a sample: the rate, and samples in 16 bits."""
    kernel = np.nan_to_num(bank.kernel(SAMPLING_RATE))
    loudest = np.abs(kernel).max() or 1.0
    return SAMPLING_RATE, (kernel / loudest * _LOUDEST * np.iinfo(np.int16).max).astype(np.int16)


def in_words(magnitude: float, angle: float) -> str:
    """What a pole does to its mode, for those who do not see the figure.

    >>> in_words(0.9, math.pi / 2)
    'The mode falls to 1/e after 9.49 steps and turns once every 4 steps (2,000 Hz in the sound).'
    """
    magnitude = max(magnitude, LEAST_MAGNITUDE)
    falls = f"falls to 1/e after {_steps(-1 / math.log(magnitude))}" if magnitude < 1 else "never fades"
    if abs(angle) < 1e-6:
        return f"The mode {falls} and does not turn."
    turn = 2 * math.pi / abs(angle)
    return f"The mode {falls} and turns once every {_steps(turn)} ({SAMPLING_RATE / turn:,.0f} Hz in the sound)."


def _steps(count: float) -> str:
    return f"{count:,.0f} steps" if count >= 100 else f"{count:.3g} steps"


def _figure(size: tuple[float, float], **options: Any) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=100, **options)


def _pixels(figure: "Figure") -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()
