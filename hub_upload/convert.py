"""Convert a checkpoint of the official DLR, DSS or S4 code to a model folder with the right head."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modeling_dlr import (
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
    DLRPreTrainedModel,
    SGConvKernel,
)

from .bounded_files import open_regular
from .card import CardOptions, write_card
from .checkpoint import read_checkpoint, read_hyper_parameters, sha256_of
from .diagonalise import diagonalise
from .errors import InputError, reason_of
from .folders import free_place, new_folder
from .hyperparameters import official_arguments
from .official import config_of, parameters_of

# One row per decoder: the head it becomes.
HEADS: dict[str, type[DLRPreTrainedModel]] = {
    "sequence": DLRForSequenceClassification,
    "token": DLRForTokenClassification,
    "pair": DLRForSequencePairClassification,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Of each kind of misfit.
_MOST_LISTED = 50

logger = logging.getLogger(__name__)


class Conversion(NamedTuple):
    """A converted model, and the error of its diagonalised S4 kernels, if it has any."""

    model: DLRPreTrainedModel
    residual: float | None


def convert(
    checkpoint: Path,
    folder: Path,
    *,
    hyper_parameters: Path | None = None,
    head: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    card: CardOptions | None = None,
) -> Conversion:
    """Convert a checkpoint into a new model folder.

    Args:
        checkpoint: a Lightning checkpoint, a bare state dict, or a safetensors file.
        folder: the new folder; it is written completely or not at all.
        hyper_parameters: a YAML or JSON file, if the checkpoint has no hyper-parameters or to replace them.
        head: "sequence", "token" or "pair", if the data set is not one of the official code.
        tokenizer: folder or name of a tokenizer to save with a model that reads tokens.
        dtype: dtype of the parameters, "float32" or "float64".
        card: options of the model card.

    Raises:
        InputError: if checkpoint and hyper-parameters do not fit; the message lists left-over and missing tensors.
    """
    free_place(folder)
    given = read_checkpoint(checkpoint)
    config = given.hyper_parameters if hyper_parameters is None else read_hyper_parameters(hyper_parameters)
    conversion = convert_tensors(given.tensors, config, head=head, dtype=DTYPES[dtype])
    words = None if tokenizer is None else _fitting_tokenizer(tokenizer, conversion.model)
    with new_folder(folder) as staging:
        conversion.model.save_pretrained(staging)
        if words is not None:
            words.save_pretrained(staging)
        write_card(staging, _described(card or CardOptions(), checkpoint, conversion.residual))
    return conversion


def _described(card: CardOptions, checkpoint: Path, residual: float | None) -> CardOptions:
    """Add the origin of the weights to the card's options."""
    facts = [f"Converted from the checkpoint `{checkpoint.name}` (SHA-256 `{sha256_of(checkpoint)}`)."]
    if residual is not None:
        facts.append(f"Its kernels of S4 were made diagonal, with an error of {residual:.1g} of the largest tap.")
    return replace(card, facts=[*facts, *card.facts])


def convert_tensors(
    tensors: dict[str, Tensor],
    hyper_parameters: dict[str, Any] | None,
    *,
    head: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert a state dict with official names to a model.

    Raises:
        InputError: if the hyper-parameters do not fit; the message lists every tensor that is left over, missing or of
            a wrong shape.
    """
    _refuse_small_floats(tensors)
    diagonal = diagonalise(tensors, dtype)
    try:
        official = official_arguments(
            hyper_parameters, diagonal.tensors, head=head, discretization=diagonal.discretization
        )
        config, build = config_of(official), HEADS[official["head"]]
        with torch.device("meta"):  # finds sizes that are too large before memory is allocated
            described = build(config)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())  # a dataclass error has two lines
        raise InputError(f"The hyper-parameters do not describe a model: {reason}") from error
    values = parameters_of(diagonal.tensors, official["kernel_type"])
    _refuse_misfits(described, values, dtype)
    try:
        model = build(config)
        torch.nn.Module.to(model, dtype=dtype)
        _load(model, values)
    except (MemoryError, RuntimeError) as error:
        raise InputError(f"The model could not be built: {reason_of(error)}.") from error
    return Conversion(model.eval(), diagonal.residual)


def _refuse_small_floats(tensors: dict[str, Tensor]) -> None:
    """Refuse weights of 8 bits or less, which are quantised and useless without their scales."""
    for name, value in tensors.items():
        if value.is_floating_point() and value.dtype.itemsize < 2:
            raise InputError(
                f"{name} is of {value.dtype}, but weights must have 16 bits or more: use the unquantised weights."
            )


def _refuse_misfits(model: DLRPreTrainedModel, values: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Check that the checkpoint has every parameter and buffer in its shape, and no others."""
    own = model.state_dict()
    missing = sorted(own.keys() - values.keys() - _norms(model).keys())
    left_over = sorted(values.keys() - own.keys())
    shapes = [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in values.items()
        if name in own and _without_ones(value) != _without_ones(own[name])
    ]
    kinds = [
        f"{name} {value.dtype} instead of {own[name].dtype}"
        for name, value in values.items()
        if name in own and _kind(value) != _kind(own[name])
    ]
    fits = not (missing or left_over or shapes or kinds)  # read numbers only if everything else fits
    endless = [name for name, value in values.items() if fits and not _is_finite(value, dtype)]
    problems = {
        "missing": missing,
        "left over": left_over,
        "of another shape": shapes,
        "of another kind": kinds,
        f"not finite in {str(dtype).removeprefix('torch.')}": endless,
    }
    if any(problems.values()):
        lists = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise InputError(
            f"The checkpoint does not fit its hyper-parameters (names after translation). {lists}. Correct them with "
            "--hyper-parameters, or --head."
        )


def _listed(names: list[str]) -> str:
    """List the first names, and count the others."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _is_finite(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether all numbers are finite, also after conversion: a large float64 number is infinite in float32."""
    return bool(torch.isfinite(value.to(dtype) if value.is_floating_point() else value).all())


def _kind(value: Tensor) -> tuple[bool, bool]:
    """Whether the numbers are floating point, and whether they are complex; integers are neither."""
    return value.is_floating_point(), value.is_complex()


def _load(model: DLRPreTrainedModel, values: dict[str, Tensor]) -> None:
    """Load the values; compute SGConv's norm, which official checkpoints lack, from the loaded kernel."""
    own = model.state_dict()
    model.load_state_dict({name: value.reshape(own[name].shape) for name, value in values.items()}, strict=False)
    for name, kernel in _norms(model).items():
        if name not in values:
            kernel.norm.copy_(kernel.initial_buffers()["norm"])


def _norms(model: DLRPreTrainedModel) -> dict[str, SGConvKernel]:
    """The kernels of SGConv, by the names of their norms."""
    return {f"{name}.norm": part for name, part in model.named_modules() if isinstance(part, SGConvKernel)}


def _without_ones(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]


def _fitting_tokenizer(name: str, model: DLRPreTrainedModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer, and set the model's padding token."""
    size = model.config.vocab_size
    if size is None:
        raise InputError(f"--tokenizer {name}: this model reads real values and needs no tokenizer.")
    for path in Path(name).iterdir() if Path(name).is_dir() else ():
        if not path.is_dir():
            with open_regular(path):  # refuses files that could block
                pass
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # untrusted files can raise any error
        reason = reason_of(error)
        if "trust_remote_code" in str(error):
            reason = "it needs its own code, which is not run"
        raise InputError(f"--tokenizer {name[:200]!r} cannot be read as a tokenizer: {reason}") from error
    if len(tokenizer) > size:
        raise InputError(f"--tokenizer {name} has {len(tokenizer)} tokens, but the model knows {size}.")
    if len(tokenizer) < size:
        logger.warning("The tokenizer %s has %d tokens, the model %d.", name, len(tokenizer), size)
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
