"""The arguments of the official models: their names, allowed values, and which of them tensor shapes do not give."""

import json
import reprlib
from collections.abc import Iterable
from types import NoneType
from typing import Any

from modeling_dlr.kernel_parameters_dlr import did_you_mean

from .errors import InputError
from .official import DLR_VERSIONS, DSS_INITS, NORMS, POOLINGS, RESIDUALS

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

# What no shape tells, and changes what the weights compute: by kernel type, with what the official configurations say.
_OF_ALL = {
    "bidirectional": False,
    "activation": "gelu",
    "postact": None,
    "transposed": True,
    "norm": "layer",
    "prenorm": False,
    "residual": "R",
    "decoder": "last",
    "head": None,
}
NEEDED: dict[str, dict[str, Any]] = {
    "dlr": {
        "version": "",
        "kernel_to_real": "real",
        "Lambda_init": "omega",
        "d_state": 1024,
        "max_kernel_length": None,
    },
    "dss": {
        "version": "exp",
        "kernel_to_real": "real",
        "Lambda_init": "hippo_skew_pos_imag",
        "sep_dt_re_im": False,
        "d_state": 64,
        "max_kernel_length": None,
    },
    "s4d": {
        "disc": "zoh",
        "dt_transform": "exp",
        "real_transform": "exp",
        "imag_transform": "none",
        "bandlimit": None,
        "mult_act": None,
        "l_max": None,
    },
    "sgconv": {"d_state": 8, "max_kernel_length": None},
    "attn": {"chunk_size": None, "attn_ff": 0},
}
NEEDED = {kernel_type: _OF_ALL | needed for kernel_type, needed in NEEDED.items()}

# The other arguments that there are: shapes tell them, or they draw, train or report. By where they stand.
_OF_EVERY_LAYER = {
    *("kernel_type", "d_state", "channels", "bidirectional", "activation", "postact", "hyper_act", "dropout"),
    *("transposed", "initializer", "weight_norm", "l_max", "lr", "wd", "trainable", "verbose"),
}
_TIME_STEPS = {"dt_min", "dt_max"}
_OF_LAYER = {
    "dlr": _TIME_STEPS | {"W_scale", "pykeops", "chunk_size", "attn_ff"},
    "dss": _TIME_STEPS | {"W_scale", "pykeops", "max_real_Lambda", "epsilon", "resample", "chunk_size", "attn_ff"},
    "s4d": _TIME_STEPS
    | {"mode", "kernel", "layer", "init", "measure", "rank", "n_ssm", "deterministic", "scaling", "dt_tie", "backend"}
    | {"tie_dropout", "drop_kernel", "final_act", "gate", "gate_act", "bottleneck", "swap_channels"},
    "sgconv": {"alpha_min", "alpha_max", "w_scale", "n_scales"},
    "attn": {"n_heads"},
}
OF_MODEL = {
    *("_name_", "layer", "d_model", "n_layers", "prenorm", "transposed", "residual", "norm", "pool", "dropout"),
    *("n_repeat", "bidirectional", "tie_dropout", "dropinp", "track_norms", "init", "verbose"),
}
OF_DECODER = {"_name_", "mode", "use_lengths", "l_output", "d_model", "nli", "activation"}
_OF_FLAT = {"encoder", "decoder", "decoder.activation", "dataset", "head", "d_input", "d_output", "n_tokens"}
_OF_PARTS = {"decoder._name_", "nli"}

# What an argument must be, whatever the kernel: the types, and the names of the arguments.
_TYPES: dict[str, tuple[set[type], set[str]]] = {
    "a text": (
        {str},
        {"version", "kernel_to_real", "Lambda_init", "norm", "head", "disc", "residual", "real_transform"}
        | {"dt_transform", "imag_transform", "decoder.activation", "decoder._name_"},
    ),
    "a text or null": (
        {str, NoneType},
        {"dataset", "decoder", "encoder", "activation", "hyper_act", "kernel_type", "mult_act", "postact"},
    ),
    "true or false": ({bool}, {"bidirectional", "nli", "prenorm", "sep_dt_re_im", "swap_channels", "transposed"}),
    "a whole number": ({int}, {"channels", "d_state", "n_heads", "n_repeat"}),
    "a whole number or null": (
        {int, NoneType},
        {
            "chunk_size",
            "d_input",
            "d_model",
            "d_output",
            "l_max",
            "max_kernel_length",
            "n_layers",
            "n_scales",
            "n_tokens",
        },
    ),
    "a number": (
        {int, float},
        {"alpha_max", "alpha_min", "attn_ff", "dropout", "dt_max", "dt_min", "epsilon", "max_real_Lambda"},
    ),
    "a number or null": ({int, float, NoneType}, {"W_scale", "bandlimit", "w_scale"}),
}

# The values that each argument may have.
_CHOICES: dict[str, Iterable[Any]] = {
    "head": dict.fromkeys(DATA_SETS.values()),
    "residual": RESIDUALS,
    "decoder": POOLINGS,
    "decoder.activation": ["gelu"],
    "decoder._name_": ["sequence", "retrieval"],
    "encoder": ["embedding", "linear", None],
    "nli": [True],
    "n_repeat": [1],
    "postact": [None, "glu", "geglu"],
}
_CHOICES_OF_KERNEL: dict[str, dict[str, Iterable[Any]]] = {
    "dlr": {"version": DLR_VERSIONS},
    "dss": {"Lambda_init": DSS_INITS, "epsilon": [1e-7]},
    "s4d": {
        "disc": ["zoh", "bilinear"],
        "real_transform": ["exp"],
        "dt_transform": ["exp"],
        "imag_transform": ["none"],
        "bandlimit": [None],
        "mult_act": [None, "id"],
        "swap_channels": [False],
    },
    "sgconv": {},
    "attn": {},
}


def names_of_layer(kernel_type: str) -> set[str]:
    """The arguments of an official layer. Attention layers are configured like any other."""
    kernels = NEEDED if kernel_type == "attn" else [kernel_type]
    own = {name for kernel in kernels for name in NEEDED[kernel].keys() - _OF_ALL.keys() | _OF_LAYER[kernel]}
    return _OF_EVERY_LAYER | own


def names_of_flat(kernel_type: str) -> set[str]:
    """The arguments of a whole model in one flat mapping."""
    return names_of_layer(kernel_type) | OF_MODEL - {"_name_", "layer"} | _OF_FLAT | _OF_PARTS


def refuse_unknown_names(where: str, given: Iterable[str], known: set[str]) -> None:
    """Refuse unknown names, because a misspelt argument would silently keep its default."""
    unknown = sorted(set(given) - known)
    if unknown:
        hints = {name[:80]: did_you_mean(name, sorted(known)) for name in unknown[:9]}
        listed = ", ".join(f"{name!r} ({hint})" if hint else repr(name) for name, hint in hints.items())
        raise InputError(
            f"The hyper-parameters have names in {where} that the official model does not know: {listed}. "
            "Correct them, or leave them out."
        )


def check_types(given: dict[str, Any]) -> None:
    """Refuse values of a wrong type."""
    for kind, (types, names) in _TYPES.items():
        for name in sorted(names & given.keys()):
            if type(given[name]) not in types:
                raise InputError(
                    f"The hyper-parameter {name} must be {kind}, got {reprlib.repr(given[name])}: correct it with "
                    "--hyper-parameters."
                )


def refuse_missing(official: dict[str, Any], kernel_type: str, *, pairs: bool) -> None:
    """Require every argument that the shapes do not give; the error shows the usual official values."""
    needed = NEEDED[kernel_type] | ({"decoder.activation": "gelu"} if pairs else {})
    missing = sorted(needed.keys() - official.keys())
    if missing == ["head"]:
        raise InputError(
            "The hyper-parameters lack ['head'], which no shape says: pass --head sequence, token or pair."
        )
    if missing:
        usual = json.dumps({name: needed[name] for name in missing if name != "head"})
        raise InputError(
            f"The hyper-parameters lack {missing}, and no shape says what they are: give them with --hyper-parameters, "
            f"as the model was trained. The official configurations mostly have {usual}."
        )


def check_choices(official: dict[str, Any], kernel_type: str) -> None:
    """Refuse unknown values; the error lists the allowed ones."""
    for name, choices in (_CHOICES | _CHOICES_OF_KERNEL[kernel_type]).items():
        if name in official and official[name] not in choices:
            raise InputError(
                f"The hyper-parameter {name} must be one of {list(choices)}, got {reprlib.repr(official[name])}."
            )
    norm = (official["norm"], official["transposed"])
    if norm not in NORMS:
        raise InputError(f"norm={reprlib.repr(norm[0])} with transposed={norm[1]} must be one of {list(NORMS)}.")
