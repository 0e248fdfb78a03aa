"""Layers of state-spaces/s4: the minimal S4D, and S4 by diagonalisation with its residual."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import GOLDEN
from safetensors.torch import load_file
from tolerances import assert_close
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from hub_upload.convert import Conversion, convert_tensors
from hub_upload.diagonalise import LARGEST_RESIDUAL, Diagonalised, diagonalise
from hub_upload.errors import InputError
from modeling_dlr import S4DKernel

NUMBERS = load_file(GOLDEN / "s4.safetensors")
H, LABELS = 6, 5


def part_of(case: str, prefix: str) -> dict[str, Tensor]:
    whole = f"{case}/{prefix}"
    return {name.removeprefix(whole): value for name, value in NUMBERS.items() if name.startswith(whole)}


def kernel_of(case: str, prefix: str, dtype: torch.dtype) -> tuple[S4DKernel, Diagonalised]:
    """A stored kernel of S4, converted."""
    found = diagonalise({f"kernel.{name}": value for name, value in part_of(case, prefix).items()}, dtype)
    ours = {"log_dt": "log_time_step", "log_A_real": "log_decay", "A_imag": "frequency", "C": "weights"}
    values = {ours[name.removeprefix("kernel.")]: value for name, value in found.tensors.items()}
    C, width, N, _ = values["weights"].shape
    kernel = S4DKernel(C, width, N, {"discretization": "bilinear"}).to(dtype)
    kernel.load_state_dict(values)
    return kernel, found


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("s4_dplr_fourier", torch.float32),
        ("s4_dplr_fourier", torch.float64),
        ("s4_dplr_legs", torch.float64),
        ("s4_dplr_legs_ch2", torch.float64),
        ("s4_dplr_legs_tied_lmax", torch.float64),
    ],
)
def test_diagonal_kernel_is_that_of_s4(case: str, dtype: torch.dtype):
    """Before and after S4's first call, the diagonalised kernel is S4's own."""
    expected = NUMBERS[f"{case}/K"]
    for prefix, folded in (("param.", "buffer."), ("before.", "before.")):
        name = f"{case}/{prefix}l_kernel"
        NUMBERS.setdefault(name, NUMBERS[f"{case}/{folded}l_kernel"])
        kernel, found = kernel_of(case, prefix, dtype)
        with torch.no_grad():
            assert_close(kernel(expected.shape[-1]), expected, "official float32")
        assert found.residual is not None
        assert found.residual < 1e-5


def test_legs_does_not_fit_into_float32():
    """The eigenvectors of HiPPO-LegS are nearly parallel, so float32 is refused with the residual and the cure."""
    with pytest.raises(InputError, match=r"off by .* try --dtype float64") as refused:
        kernel_of("s4_dplr_legs", "param.", torch.float32)
    assert float(str(refused.value).split("off by ")[1].split()[0]) > 100 * LARGEST_RESIDUAL


def example_model(case: str, layers: int = 2) -> dict[str, Tensor]:
    """A state dict of the small model of state-spaces/s4; every layer is the stored one."""
    layer = {name.removeprefix("layer."): value for name, value in part_of(case, "sd.").items()}
    model = {f"s4_layers.{i}.{name}": value for i in range(layers) for name, value in layer.items()}
    for i in range(layers):
        model |= {f"norms.{i}.weight": torch.rand(H), f"norms.{i}.bias": torch.randn(H)}
    ends = {"encoder": (H, 3), "decoder": (LABELS, H)}
    for name, (rows, columns) in ends.items():
        model |= {f"{name}.weight": torch.randn(rows, columns), f"{name}.bias": torch.randn(rows)}
    return model


# What no shape tells of an S4Block, and the state-spaces/s4's class does by itself.
S4_BLOCK: dict[str, Any] = {
    "activation": "gelu",
    "final_act": "glu",
    "disc": "zoh",
    "dt_transform": "exp",
    "real_transform": "exp",
    "imag_transform": "none",
    "bandlimit": None,
    "mult_act": None,
    "l_max": None,
}


def settings_of(case: str) -> dict[str, Any]:
    """The hyper-parameters that an example model needs."""
    block = S4_BLOCK if case.startswith("s4block") else {}
    return {"prenorm": False, "bidirectional": case.endswith("bidir")} | block


def converted(case: str, **options: Any) -> Conversion:
    return convert_tensors(example_model(case), settings_of(case), **options)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("s4d_block_transposed1", {}),
        ("s4block_diag", {}),
        ("s4block_diag_bidir", {}),
        ("s4block_dplr", {"dtype": torch.float64}),
    ],
)
def test_layers_of_a_model(case: str, options: dict[str, Any], tmp_path: Path):
    """A whole model converts, is saved and loaded, and each layer is the stored one."""
    conversion = converted(case, **options)
    conversion.model.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).double().eval()
    u = NUMBERS[f"{case}/u"].double().transpose(1, 2)
    expected = NUMBERS.get(f"{case}/y64", NUMBERS[f"{case}/y"]).transpose(1, 2)
    with torch.no_grad():
        for layer in model.model.layers:
            assert_close(layer.mixer(u), expected, "official float32")
        assert model(input_values=torch.randn(2, 7, 3).double()).logits.shape == (2, LABELS)
    assert (conversion.residual is None) == (case != "s4block_dplr")


def test_model_is_built_as_the_example(tmp_path: Path):
    """Projection, layer, residual, norm, mean, projection, as in the small model of state-spaces/s4."""
    state = example_model("s4d_block_transposed1")
    model = convert_tensors(state, {"prenorm": False}).model.double().eval()
    x = torch.randn(2, 63, 3).double()
    state = {name: value.double() for name, value in state.items()}
    with torch.no_grad():
        hidden = x @ state["encoder.weight"].T + state["encoder.bias"]
        for i, layer in enumerate(model.model.layers):
            scale, shift = state[f"norms.{i}.weight"], state[f"norms.{i}.bias"]
            hidden = torch.nn.functional.layer_norm(hidden + layer.mixer(hidden), (H,), scale, shift)
        logits = hidden.mean(1) @ state["decoder.weight"].T + state["decoder.bias"]
        assert_close(model(input_values=x).logits, logits, torch.float64)


def test_incomplete_kernels_are_named():
    """A kernel of S4 without its output matrix is one error."""
    state = {name: value for name, value in example_model("s4block_dplr").items() if not name.endswith("kernel.C")}
    with pytest.raises(InputError, match=r"lacks \['C'\]"):
        convert_tensors(state, None)
