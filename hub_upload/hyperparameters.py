"""Get the arguments that `official.py` reads, from a checkpoint's configuration and the shapes of its tensors."""

import re
import reprlib
from typing import Any

from torch import Tensor

from .arguments import (
    DATA_SETS,
    OF_DECODER,
    OF_MODEL,
    check_choices,
    check_types,
    names_of_flat,
    names_of_layer,
    refuse_missing,
    refuse_unknown_names,
)
from .errors import InputError
from .official import FAMILIES

# Defaults of the classes of state-spaces/s4.
_S4_CLASS: dict[str, Any] = {
    "kernel_type": "s4d",
    "activation": "gelu",
    "postact": "glu",
    "bidirectional": False,
    "dt_transform": "exp",
    "real_transform": "exp",
    "imag_transform": "none",
    "bandlimit": None,
    "mult_act": None,
}
# Fixed arguments of its small example model, and further ones of the minimal S4D in it.
_S4_EXAMPLE = {
    "kernel_type": "s4d",
    "transposed": True,
    "norm": "nn.LayerNorm",
    "residual": "R",
    "decoder": "pool",
    "head": "sequence",
}
_S4D_MINIMAL = _S4_CLASS | {"disc": "zoh", "l_max": None}
_S4_LAYERS = {"s4", "s4d"}

_SCALE = re.compile(r"layers\.0\.layer\.kernel\.ws\.\d+$")

# Entries of the decoder's section that affect the computation, with their names in a flat mapping.
_DECODER = {"mode": "decoder", "activation": "decoder.activation", "_name_": "decoder._name_", "nli": "nli"}

# The output matrix of each decoder.
_PAIRS = "decoder.retrieval.classifier.2.weight"
_LAST_LAYERS = ("decoder.output_transform.weight", "decoder.weight", _PAIRS)

# SGConv's kernel is computed once for its norm; this many numbers take 2 GiB.
_MOST_TAPS = 2**29


def official_arguments(
    config: dict[str, Any] | None,
    tensors: dict[str, Tensor],
    *,
    head: str | None = None,
    discretization: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of the official model in one flat dictionary.

    Args:
        config: the merged configuration of the official code ("model" with its "layer", "encoder", "decoder",
            "dataset"), or these arguments in one flat mapping; None if the names and shapes are sufficient.
        tensors: the state dict.
        head: "sequence", "token" or "pair"; by default the head of the data set.
        discretization: "bilinear" for S4 kernels that were not diagonal; overrides the configuration.

    Raises:
        InputError: for missing, unknown or unsupported arguments, or arguments that contradict the shapes.
    """
    given = _of_names(tensors) | _read(config or {}, _of_names(tensors).get("kernel_type"))
    given |= {"head": head} if head else {}
    given |= {"disc": discretization} if discretization else {}
    check_types(given)
    kernel_type = given["kernel_type"]
    found = _from_shapes(tensors, kernel_type)
    # Diagonalising an S4 kernel may change the number of its poles.
    _refuse_contradictions({name: given[name] for name in given if name != "d_state" or not discretization}, found)
    official = given | found
    refuse_missing(official, kernel_type, pairs=_PAIRS in tensors)
    check_choices(official, kernel_type)
    return official


def _read(config: dict[str, Any], kernel_type: str | None) -> dict[str, Any]:
    """Read the arguments into one dictionary, and refuse unknown ones.

    ``kernel_type`` is the type given by the tensors, or None.
    """
    flat = _of_run(config) if isinstance(config.get("model"), dict) else dict(config)
    dataset = flat.pop("dataset", None)
    data_set = dataset.get("_name_") if isinstance(dataset, dict) else dataset
    check_types({"dataset": data_set})
    if data_set in DATA_SETS:
        flat.setdefault("head", DATA_SETS[data_set])
    _spread(flat, "decoder", _DECODER, OF_DECODER)
    _spread(flat, "encoder", {"_name_": "encoder"}, {"_name_"})
    kernel_type = flat.get("kernel_type", kernel_type)
    check_types({"kernel_type": kernel_type})
    if kernel_type not in list(FAMILIES):
        raise InputError(
            f"The hyper-parameters say kernel_type {reprlib.repr(kernel_type)}, which must be one of "
            f"{sorted(FAMILIES)}: pass the configuration of the run with --hyper-parameters."
        )
    refuse_unknown_names("one mapping", flat, names_of_flat(kernel_type))
    _refuse_pooling(flat.get("pool"))
    if flat.get("postact") is None and flat.get("final_act") is not None:  # its name in S4, where "id" means none
        flat["postact"] = None if flat["final_act"] == "id" else flat["final_act"]
    if flat.get("dropout", 0.0) is None:
        del flat["dropout"]
    return flat


def _of_run(config: dict[str, Any]) -> dict[str, Any]:
    """Read the arguments of model, layer, encoder, decoder and data set of a run; other sections are ignored."""
    model, layer = config["model"], config["model"].get("layer")
    if not isinstance(layer, dict):
        raise InputError("The hyper-parameters have a 'model' without a 'layer': pass the configuration of the run.")
    name = layer.get("_name_")
    check_types({"kernel_type": name})
    # The DSS repository has no kernel_to_real: it takes the real part.
    defaults = _S4_CLASS if name in _S4_LAYERS else {"kernel_type": name}
    defaults |= {"kernel_to_real": "real"} if name == "dss" else {}
    kernel_type = layer.get("kernel_type", defaults["kernel_type"])
    check_types({"kernel_type": kernel_type})
    known = names_of_layer(kernel_type) if kernel_type in list(FAMILIES) else set(layer)
    refuse_unknown_names("model", model, OF_MODEL)
    refuse_unknown_names("model.layer", layer, known | {"_name_"})
    misplaced = sorted(config.keys() & (known | OF_MODEL) - {"model"})
    if misplaced:
        raise InputError(
            f"The hyper-parameters {misplaced} must stand in 'model' or its 'layer', where official code reads them."
        )
    if model.get("_name_", "model") != "model" or model.get("bidirectional", False) is not False:
        raise InputError("The 'model' must be of the kind 'model', and not be bidirectional itself: its layers may be.")
    parts = {part: config[part] for part in ("encoder", "decoder", "dataset") if part in config}
    if not isinstance(parts.get("decoder"), dict):
        parts.pop("decoder", None)  # a name alone gives no mode
    own = {name: value for name, value in model.items() if name not in ("_name_", "layer", "bidirectional")}
    return defaults | {name: layer[name] for name in layer if name != "_name_"} | own | parts


def _spread(flat: dict[str, Any], part: str, names: dict[str, str], known: set[str]) -> None:
    """Replace a section that is a mapping by its entries that affect the computation."""
    entries = flat.get(part)
    if not isinstance(entries, dict):
        return
    refuse_unknown_names(part, entries, known)
    del flat[part]
    flat |= {name: entries[entry] for entry, name in names.items() if entry in entries}


def _refuse_pooling(pool: Any) -> None:
    """Refuse pooling between layers; the pooling in the official configurations has no effect."""
    numbers = [value for name, value in pool.items() if name != "_name_"] if isinstance(pool, dict) else [pool]
    if any(number not in (1, None) for number in numbers):
        raise InputError(f"The hyper-parameters pool between layers ({reprlib.repr(pool)}), which no model here does.")


def _of_names(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fixed arguments of state-spaces/s4's small example model, if the names belong to one."""
    if not any(name.startswith("s4_layers.") for name in tensors):
        return {}
    skips = [value for name, value in tensors.items() if name.endswith(".D")]
    minimal = all(skip.dim() == 1 for skip in skips)  # the full block has one skip for each kernel
    return _S4_EXAMPLE | (_S4D_MINIMAL if minimal else {})


def _from_shapes(tensors: dict[str, Tensor], kernel_type: str) -> dict[str, Any]:
    """Get the sizes, the type of the encoder, and whether there is a final norm."""
    weight = _matrix(tensors, "encoder.weight")
    values = "encoder.bias" in tensors
    last = next((name for name in _LAST_LAYERS if name in tensors), None)
    if last is None:
        raise InputError(f"The state dict has none of the decoders {_LAST_LAYERS}: is it the whole model?")
    found = {
        "d_model": weight.shape[0 if values else 1],
        "n_layers": _number_of_layers(tensors),
        "encoder": "linear" if values else "embedding",
        "d_input": weight.shape[1] if values else None,
        "n_tokens": None if values else weight.shape[0],
        "d_output": _matrix(tensors, last).shape[0],
    }
    if kernel_type == "sgconv":
        found["n_scales"] = _number_of_scales(tensors)
    if kernel_type == "s4d":
        poles = next((name for name in tensors if name.endswith("log_A_real")), None)
        if poles is not None:
            found["d_state"] = 2 * _matrix(tensors, poles).shape[1]
    angles = next((value for name, value in tensors.items() if name.endswith("attn.rope.freqs")), None)
    if kernel_type == "attn" and angles is not None and angles.numel():
        found["n_heads"] = found["d_model"] // (2 * angles.numel())
    if not any(name.startswith("s4_layers.") for name in tensors):
        found["prenorm"] = any(name.startswith("model.norm.") for name in tensors)
    return found


def _number_of_layers(tensors: dict[str, Tensor]) -> int:
    """Count the layers, and refuse a missing one."""
    found = (re.match(r"(?:model\.layers|s4_layers)\.(\d+)\.", name) for name in tensors)
    layers = {int(match[1]) for match in found if match}
    absent = next((number for number in range(len(layers)) if number not in layers), None)
    if absent is not None:
        raise InputError(f"The state dict has {len(layers)} layers, but none of number {absent}: is it whole?")
    return len(layers)


def _number_of_scales(tensors: dict[str, Tensor]) -> int:
    """Count the scales of SGConv, each twice as long as the previous one, and refuse a kernel that is too large."""
    scales = {name.rpartition(".")[2]: value for name, value in tensors.items() if _SCALE.search(name)}
    largest = max((value.numel() for value in scales.values()), default=0)
    if largest << max(len(scales) - 1, 0) > _MOST_TAPS:
        raise InputError(
            f"The state dict has {len(scales)} scales of {largest:,} numbers, whose kernel would have more than "
            f"{_MOST_TAPS:,}: is it the whole model?"
        )
    return len(scales)


def _matrix(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Get a matrix by name; its sizes give those of the model."""
    value = tensors.get(name)
    if value is None:
        raise InputError(f"The state dict has no matrix {name!r}: is it the whole model?")
    if value.dim() != 2:
        raise InputError(f"{name} must be a matrix, got the shape {list(value.shape)}: is the state dict whole?")
    return value


def _refuse_contradictions(given: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse arguments that contradict the tensors; null arguments are ignored."""
    wrong = [
        f"{name} {reprlib.repr(given[name])} instead of {value!r}"
        for name, value in found.items()
        if given.get(name) is not None and given[name] != value
    ]
    if wrong:
        raise InputError(f"The hyper-parameters contradict the tensors: {', '.join(wrong)}. Are they of another run?")
