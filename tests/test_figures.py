"""`kernel_figure` draws the kernels and poles of every kind of kernel."""

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tiny import HEADS, perturbed, tiny_config

from modeling_dlr import DLRModel
from modeling_dlr.blocks_dlr import DLRMixer
from modeling_dlr.figures import kernel_figure
from modeling_dlr.kernels_dlr import DiagonalKernel

# One family of each kind of picture: fading and not, poles shared or not, read from the end, growing, none.
PICTURES = [
    "DLR",
    "DLR imag",
    "DLR real, real weight",
    "DLR from DFouT",
    "DSS softmax, two time steps",
    "DSS clip",
    "S4D bilinear, lin",
    "SGConv",
]


def model_of(family: str, **changes: Any) -> DLRModel:
    return perturbed(DLRModel(tiny_config(kernel_parameters=FAMILIES[family].options, **changes)))


def mixer_of(model: torch.nn.Module, layer: int) -> DLRMixer:
    return [module for module in model.modules() if isinstance(module, DLRMixer)][layer]


def panel(figure: Figure, title: str) -> Axes:
    """The panel whose title begins with this text."""
    (axes,) = [axes for axes in figure.axes if axes.get_title().startswith(title)]
    return axes


def curves(figure: Figure, title: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The curves of a panel, without the line at 0."""
    lines = [line for line in panel(figure, title).get_lines() if len(line.get_xdata()) > 2]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in lines]


def chosen_kernels(model: torch.nn.Module, layer: int, channels: Sequence[int], length: int) -> np.ndarray:
    """Channel by channel, kernel by kernel, direction by direction: the order of the curves."""
    mixer = mixer_of(model, layer)
    with torch.no_grad():
        K = mixer.kernel(length).double().numpy()
    K = K.reshape(2 if mixer.bidirectional else 1, -1, *K.shape[1:])
    return np.stack([K[d, c, h] for h in channels for c in range(K.shape[1]) for d in range(K.shape[0])])


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("family", PICTURES)
def test_curves_are_the_kernels(family: str, bidirectional: bool):
    """The values of each step, the envelope, and the gain in decibels, for every kernel of a channel."""
    model = model_of(family, bidirectional=bidirectional, num_kernel_channels=2)
    figure = kernel_figure(model, layer=1, channels=[2, 0], length=63)
    K = chosen_kernels(model, 1, [2, 0], 63)
    steps, memory, frequency = (curves(figure, title) for title in ("The first", "How far", "Frequency"))
    for (_, drawn), expected in zip(steps, K, strict=True):
        np.testing.assert_allclose(drawn, expected, rtol=1e-6, atol=1e-9)
    for (lags, envelope), expected in zip(memory, K, strict=True):
        assert lags[0] == pytest.approx(1)
        assert lags[-1] <= 63
        assert envelope.max() == pytest.approx(np.abs(expected).max(), rel=1e-6)
    for (cycles, decibels), expected in zip(frequency, K, strict=True):
        gain = np.abs(np.exp(-2j * np.pi * np.outer(cycles, np.arange(63))) @ expected)
        np.testing.assert_allclose(10 ** (decibels / 20), gain, rtol=1e-3, atol=1e-3 * gain.max())


@pytest.mark.parametrize("family", PICTURES[:-1])
def test_dots_are_the_poles(family: str):
    """Each pole of the chosen channel is a dot at Λ, coloured by the size of its weights."""
    model = model_of(family)
    figure = kernel_figure(model, channels=[1], length=63)
    kernel = mixer_of(model, 0).kernel
    assert isinstance(kernel, DiagonalKernel)
    with torch.no_grad():
        decay, angle, *weights = (None if part is None else part.double() for part in kernel.modes(63))
    if decay.dim() == 2:
        decay, angle = decay[1], angle[1]
    poles = torch.polar(decay.exp(), angle).numpy()
    sizes = torch.stack([part[0, 1] for part in weights if part is not None]).square().sum(0).sqrt().numpy()
    (dots,) = panel(figure, "Poles").collections
    drawn = np.asarray(dots.get_offsets())
    order = np.argsort(sizes)
    np.testing.assert_allclose(drawn[:, 0] + 1j * drawn[:, 1], poles[order], atol=1e-9)
    np.testing.assert_allclose(np.asarray(dots.get_array()), sizes[order], rtol=1e-6)


def test_poles_without_decay():
    """Version 'imag' has |Λ| = 1, and the panel says so."""
    figure = kernel_figure(model_of("DLR imag"), length=63)
    assert [text.get_text() for text in panel(figure, "How long").texts] == ["No pole decays: |Λ| is 1 or more."]


def test_kernel_without_poles():
    """SGConv has the curves, and a sentence instead of the poles."""
    figure = kernel_figure(model_of("SGConv"), length=63)
    assert any("No poles" in text.get_text() for axes in figure.axes for text in axes.texts)
    assert len(curves(figure, "The first")) == 2


@pytest.mark.parametrize("family", ["DLR", "DLR imag", "SGConv"])
def test_every_axis_has_a_label_and_a_unit(family: str):
    """Steps, cycles and radians per step; the picture can be written to a file."""
    figure = kernel_figure(model_of(family), length=63)
    figure.savefig(file := io.BytesIO(), dpi=20)
    assert file.getvalue().startswith(b"\x89PNG")
    for axes in figure.axes:
        if axes.axison and axes.get_title():
            assert all("(" in label for label in (axes.get_xlabel(), axes.get_ylabel())), axes.get_title()
    (radians,) = panel(figure, "Frequency").child_axes
    assert radians.get_xlabel() == "frequency (radians per step)"


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_drawn_as_their_backbone(head: str):
    """A head shows the layers of its backbone, and does not change, gradients included."""
    model = perturbed(HEADS[head](tiny_config(bidirectional=True))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps = curves(kernel_figure(model, length=7), "The first")
    for (_, drawn), expected in zip(steps, chosen_kernels(model, 0, [0, 1], 7), strict=True):
        np.testing.assert_allclose(drawn, expected, rtol=1e-6)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_default_length():
    """4096 steps, or the length of a shorter kernel."""
    assert "(80 steps)" in panel(kernel_figure(model_of("SGConv")), "How far").get_title()
    assert "(4,096 steps)" in panel(kernel_figure(model_of("DLR")), "How far").get_title()
    cut = DLRModel(tiny_config(kernel_parameters={"max_length": 7}))
    assert "(7 steps)" in panel(kernel_figure(cut), "How far").get_title()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_smallest_sizes(length: int):
    """One channel, one pole, a few steps, zero weights and half precision give a picture without a warning."""
    model = DLRModel(tiny_config(hidden_size=1, state_size=1)).bfloat16()
    with torch.no_grad():
        mixer_of(model, 0).kernel.get_parameter("weights").zero_()
    kernel_figure(model, length=length).savefig(io.BytesIO(), dpi=20)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": 2}, IndexError, r"layer must be in 0 … 1, .* got 2"),
        ({"layer": -1}, IndexError, r"layer must be in 0 … 1, .* got -1"),
        ({"channels": [0, 3]}, IndexError, r"channel must be in 0 … 2, .* got 3"),
        ({"channels": []}, ValueError, "at least one channel"),
        ({"length": 0}, ValueError, "at least one step, got length=0"),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        kernel_figure(model_of("DLR"), **arguments)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="Linear has no DLR layer"):
        kernel_figure(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="str has no DLR layer"):
        kernel_figure("model.safetensors")  # pyrefly: ignore[bad-argument-type]


def test_without_matplotlib_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-dlr\[figures\]'"):
        kernel_figure(model_of("DLR"))


def test_no_global_state(monkeypatch: pytest.MonkeyPatch):
    """It does not use pyplot, which would keep every figure and might open a window."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    kernel_figure(model_of("DLR"), length=63).savefig(io.BytesIO(), dpi=20)
