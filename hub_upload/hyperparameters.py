"""From a checkpoint's merged configuration and the shapes of its tensors to the arguments that `official.py` reads."""

import re
import reprlib
from types import NoneType
from typing import Any

from torch import Tensor

from .errors import InputError
from .official import DLR_VERSIONS, DSS_INITS, FAMILIES, NORMS, POOLINGS, RESIDUALS

# One answer for the whole sequence, one per step, or one for two documents, by the data set of the official code.
DATA_SETS = {
    "listops": "sequence",
    "imdb": "sequence",
    "aan": "pair",
    "cifar": "sequence",
    "mnist": "sequence",
    "pathfinder": "sequence",
    "sc": "sequence",
    "listops_subtrees": "token",
    "pathfinder_segmentation": "token",
    "sequence1d": "token",
}

# What the classes of state-spaces/s4 do unless they are told otherwise.
_S4D: dict[str, Any] = {
    "kernel_type": "s4d",
    "activation": "gelu",
    "postact": "glu",
    "bidirectional": False,
    "transposed": True,
}
_S4_EXAMPLE = _S4D | {"disc": "zoh", "norm": "nn.LayerNorm", "prenorm": False, "decoder": "pool", "head": "sequence"}
_S4_KERNELS: dict[Any, dict[str, Any]] = {"s4": _S4D, "s4d": _S4D}

# The matrix that gives the answers, by decoder.
_LAST_LAYERS = ("decoder.output_transform.weight", "decoder.weight", "decoder.retrieval.classifier.2.weight")

# The arguments that no shape betrays, by kernel type.
_NEEDED = {
    "dlr": {"version", "kernel_to_real", "Lambda_init", "d_state"},
    "dss": {"version", "kernel_to_real", "Lambda_init", "sep_dt_re_im", "d_state"},
    "s4d": {"disc"},
    "sgconv": set(),
    "attn": {"chunk_size", "attn_ff"},
}
_NEEDED_BY_ALL = {"bidirectional", "activation", "postact", "transposed", "norm", "decoder"}

# What an argument must be, whatever the kernel: the types, and the names of the arguments.
_TYPES: dict[str, tuple[set[type], set[str]]] = {
    "a text": (
        {str},
        {"version", "kernel_to_real", "Lambda_init", "activation", "norm", "head", "disc", "residual"}
        | {"real_transform", "dt_transform"},
    ),
    "a text or null": ({str, NoneType}, {"dataset", "decoder", "hyper_act", "kernel_type", "postact"}),
    "true or false": ({bool}, {"bidirectional", "prenorm", "sep_dt_re_im", "transposed"}),
    "a whole number": ({int}, {"channels", "d_state", "n_heads"}),
    "a whole number or null": ({int, NoneType}, {"chunk_size", "max_kernel_length"}),
    "a number": (
        {int, float},
        {"alpha_max", "alpha_min", "attn_ff", "dropout", "dt_max", "dt_min", "max_real_Lambda"},
    ),
    "a number or null": ({int, float, NoneType}, {"W_scale", "w_scale"}),
}

# The values that each argument may have.
_CHOICES = {
    "head": dict.fromkeys(DATA_SETS.values()),
    "residual": RESIDUALS,
    "decoder": POOLINGS,
    "postact": {None, "glu", "geglu"},
}
_CHOICES_OF_KERNEL = {
    "dlr": {"version": DLR_VERSIONS},
    "dss": {"Lambda_init": DSS_INITS},
    "s4d": {"disc": {"zoh", "bilinear"}, "real_transform": {"exp"}, "dt_transform": {"exp"}},
    "sgconv": {},
    "attn": {},
}


def official_arguments(
    config: dict[str, Any] | None,
    tensors: dict[str, Tensor],
    *,
    head: str | None = None,
    discretization: str | None = None,
) -> dict[str, Any]:
    """The arguments of the official model, in one flat dictionary.

    Args:
        config: the merged configuration of the official code ("model" with its "layer", "encoder", "decoder",
            "dataset"), or those arguments in one flat mapping; None for a model whose shapes say everything.
        tensors: the state dict.
        head: "sequence", "token" or "pair"; by default what the data set asks for.
        discretization: "bilinear" for kernels of S4 that were not diagonal, whatever the configuration says.

    Raises:
        InputError: listing the arguments that are missing, or naming one that has no meaning here.
    """
    given = _example_defaults(tensors) | (_flat(config) if config else {})
    given |= {"head": head} if head else {}
    given |= {"disc": discretization} if discretization else {}
    _check_types(given)
    kernel_type = given.get("kernel_type")
    if kernel_type not in list(FAMILIES):
        raise InputError(
            f"The hyper-parameters say kernel_type {kernel_type!r}, which must be one of {sorted(FAMILIES)}: pass the "
            "configuration of the run with --hyper-parameters."
        )
    official = given | _from_shapes(tensors, kernel_type)
    needed = _NEEDED_BY_ALL | _NEEDED[kernel_type] | {"prenorm", "head"}
    missing = sorted(name for name in needed if name not in official)
    if missing:
        cure = "pass --head sequence, token or pair" if missing == ["head"] else "give them with --hyper-parameters"
        raise InputError(f"The hyper-parameters lack {missing}, and no shape says what they are: {cure}.")
    _check(official, kernel_type)
    return official


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """One dictionary of the arguments of model, layer and decoder."""
    model = config.get("model")
    if not isinstance(model, dict):
        return dict(config)
    layer = model.get("layer")
    if not isinstance(layer, dict):
        raise InputError("The hyper-parameters have a 'model' without a 'layer': pass the configuration of the run.")
    name = layer.get("_name_")
    _check_types({"kernel_type": name})
    flat = _S4_KERNELS.get(name, {"kernel_type": name, "kernel_to_real": "real"}) | layer | model
    flat["dropout"] = model.get("dropout", layer.get("dropout", 0.0))
    flat["postact"] = layer.get("postact", layer.get("final_act"))
    decoder = config.get("decoder")
    decoder = decoder if isinstance(decoder, dict) else {"_name_": decoder, "mode": None}
    flat["decoder"] = decoder.get("mode")
    dataset = config.get("dataset")
    data_set = dataset.get("_name_") if isinstance(dataset, dict) else dataset
    _check_types({"dataset": data_set})
    if data_set in DATA_SETS:
        flat["head"] = DATA_SETS[data_set]
    return flat


def _example_defaults(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the small example model of state-spaces/s4 is built with, if this is one."""
    return dict(_S4_EXAMPLE) if any(name.startswith("s4_layers.") for name in tensors) else {}


def _from_shapes(tensors: dict[str, Tensor], kernel_type: str) -> dict[str, Any]:
    """The sizes, and whether there is a final norm."""
    weight = _matrix(tensors, "encoder.weight")
    values = "encoder.bias" in tensors
    layers = {int(found[1]) for name in tensors if (found := re.match(r"(?:model\.layers|s4_layers)\.(\d+)\.", name))}
    last = next((name for name in _LAST_LAYERS if name in tensors), None)
    if last is None:
        raise InputError(f"The state dict has none of the decoders {_LAST_LAYERS}: is it the whole model?")
    found = {
        "d_model": weight.shape[0 if values else 1],
        "n_layers": len(layers),
        "d_input": weight.shape[1] if values else None,
        "n_tokens": None if values else weight.shape[0],
        "d_output": _matrix(tensors, last).shape[0],
    }
    if kernel_type == "sgconv":
        scales = {name.rpartition(".")[2] for name in tensors if re.search(r"layers\.0\..*\bws\.\d+$", name)}
        found["n_scales"] = len(scales)
    if kernel_type == "s4d":
        poles = next((name for name in tensors if name.endswith("log_A_real")), None)
        if poles is not None:
            found["d_state"] = 2 * _matrix(tensors, poles).shape[1]
    if not any(name.startswith("s4_layers.") for name in tensors):
        found["prenorm"] = any(name.startswith("model.norm.") for name in tensors)
    return found


def _matrix(tensors: dict[str, Tensor], name: str) -> Tensor:
    """The tensor of this name, whose sizes are those of the model."""
    value = tensors.get(name)
    if value is None:
        raise InputError(f"The state dict has no matrix {name!r}: is it the whole model?")
    if value.dim() != 2:
        raise InputError(f"{name} must be a matrix, got the shape {list(value.shape)}: is the state dict whole?")
    return value


def _check_types(given: dict[str, Any]) -> None:
    """Refuse values of another type than their argument has."""
    for kind, (types, names) in _TYPES.items():
        for name in sorted(names & given.keys()):
            if type(given[name]) not in types:
                raise InputError(
                    f"The hyper-parameter {name} must be {kind}, got {reprlib.repr(given[name])}: correct it with "
                    "--hyper-parameters."
                )


def _check(official: dict[str, Any], kernel_type: str) -> None:
    """Refuse values without a meaning here, naming those that have one."""
    for name, choices in (_CHOICES | _CHOICES_OF_KERNEL[kernel_type]).items():
        if official.get(name, next(iter(choices))) not in choices:
            raise InputError(f"The hyper-parameter {name} must be one of {list(choices)}, got {official[name]!r}.")
    norm = (official["norm"], official["transposed"])
    if norm not in NORMS:
        raise InputError(f"norm={norm[0]!r} with transposed={norm[1]} must be one of {list(NORMS)}.")
