"""Fields of configurations with ranges, and the dictionary ``kernel_parameters``, whose keys depend on the kernel type.

This file imports no torch. A new kernel type needs one entry of `KERNEL_FIELDS` here and one class in `kernels_dlr.py`.
"""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from reprlib import repr as short
from typing import Any, NamedTuple

MAX_FLOAT = sys.float_info.max

# The names of torch's types of real numbers.
DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
DTYPES += ("float8_e5m2fnuz", "float8_e8m0fnu")


class Range(NamedTuple):
    """The numbers a field may hold, ends included unless ``open_minimum``; also a validator of one value."""

    minimum: float
    maximum: float = float("inf")
    open_minimum: bool = False

    def __call__(self, value: Any) -> None:
        """Raise ValueError unless ``value`` is None, a bool or a finite number in the range."""
        if value is None or isinstance(value, bool):
            return
        if not (self.minimum <= value <= self.maximum) or (self.open_minimum and value == self.minimum):
            raise ValueError(f"must be {self}, got {short(value)}")
        if value > MAX_FLOAT:
            raise ValueError(f"must be finite, got {short(value)}")

    def __str__(self) -> str:
        above = f"> {self.minimum:g}" if self.open_minimum else f">= {self.minimum:g}"
        return above if self.maximum == float("inf") else f"{above} and <= {self.maximum:g}"


# The length of an axis of a tensor. A longer one fits into no memory.
SIZE = Range(1, 10**9)
NOT_NEGATIVE = Range(0)
PROBABILITY = Range(0, 1)
TIME_STEP = Range(0, 1e3, open_minimum=True)

_NUMBER = (float, int)
_NUMBER_OR_NONE = (float, int, type(None))


def config_field(default: Any, meaning: str, allowed: Range | None = None, symbol: str = "") -> Any:
    """A field of a configuration: its default, its meaning, its range, and its symbol in the papers."""
    validators = [] if allowed is None else [validator(allowed)]
    metadata = {"validator": validators, "meaning": meaning, "range": allowed, "symbol": symbol}
    return field(default=default, metadata=metadata)


def validator(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """``check`` as a function that `strict` accepts: with one annotated argument."""

    def validate(value: Any) -> None:
        check(value)

    return validate


def check_dtype(dtype: Any) -> None:
    """Raise ValueError unless ``dtype`` is None, a type of real numbers of torch, or its name."""
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
    if name is not None and name not in DTYPES:
        raise ValueError(f"dtype must be one of {list(DTYPES[:4])}, got {short(dtype)}.")


def did_you_mean(given: Any, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """A question that names the known name nearest to ``given``; None if none is similar."""
    nearest = difflib.get_close_matches(str(given)[:100], sorted(known), n=1, cutoff=cutoff)
    return f"did you mean {nearest[0]!r}?" if nearest else None


def refuse_unknown_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first ``given`` name that is not ``known``, with the nearest known name."""
    known = sorted(known)
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"known names are {known}."
            raise ValueError(f"{where}: unknown name {short(name)}; {hint}")


def one_line(error: Exception) -> str:
    """The message of an error of `strict` in one line, shortened if it is long."""
    message = " ".join(str(error)[:2000].split())
    return message if len(message) <= 300 else f"{message[:250]} … {message[-40:]}"


class KernelField(NamedTuple):
    """One key of ``kernel_parameters``: its default, its meaning, and its types with a range, or its choices."""

    default: Any
    meaning: str
    types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    allowed: Range | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError unless ``value`` is one of the choices, or has one of the types and is in the range."""
        if self.choices:
            if value not in self.choices:
                hint = did_you_mean(value, self.choices)
                raise ValueError(
                    f"kernel_parameters[{name!r}] must be one of {list(self.choices)}, got {short(value)}"
                    f"{f': {hint}' if hint else '.'}"
                )
            return
        if not isinstance(value, self.types) or isinstance(value, bool) != (bool in self.types):
            expected = " or ".join("None" if each is type(None) else each.__name__ for each in self.types)
            raise ValueError(f"kernel_parameters[{name!r}] must be {expected}, got {short(value)}.")
        if self.allowed is not None and value is not None:
            try:
                self.allowed(value)
            except ValueError as error:
                raise ValueError(f"kernel_parameters[{name!r}] {error}.") from None


READ_OUTS = ("real", "imag", "sum", "prod", "real_prod")
KERNEL_TYPES = ("dlr", "dss", "s4d", "sgconv")


def _common(weight_init_std: str) -> dict[str, KernelField]:
    return {
        "kernel_type": KernelField("dlr", "parameterisation of the kernel", choices=KERNEL_TYPES),
        "max_length": KernelField(
            None,
            "number of steps after which the kernel is cut off; None keeps all",
            types=(int, type(None)),
            allowed=SIZE,
        ),
        "weight_init_std": KernelField(
            None,
            f"standard deviation of the weights at initialisation (W_scale); None is {weight_init_std}",
            types=_NUMBER_OR_NONE,
            allowed=NOT_NEGATIVE,
        ),
    }


def _diagonal(weight_init_std: str, smallest: float, largest: float) -> dict[str, KernelField]:
    return _common(weight_init_std) | {
        "read_out": KernelField(
            "real",
            "how a complex kernel becomes real (kernel_to_real): a part, their sum or product",
            choices=READ_OUTS,
        ),
        "time_step_min": KernelField(
            smallest, "smallest time step drawn at initialisation (dt_min)", types=_NUMBER, allowed=TIME_STEP
        ),
        "time_step_max": KernelField(
            largest, "largest time step drawn at initialisation (dt_max)", types=_NUMBER, allowed=TIME_STEP
        ),
    }


# The keys of `kernel_parameters` for each kernel_type.
KERNEL_FIELDS: dict[str, dict[str, KernelField]] = {
    "dlr": _diagonal("1/N", 1e-4, 1e-1)
    | {
        "version": KernelField(
            "complex",
            "what is learned: complex poles and weights, imaginary log-poles, the same with real weights, or real "
            "poles and weights",
            choices=("complex", "imag", "imag_real_weight", "real_real_weight"),
        ),
        "pole_init": KernelField(
            "omega",
            "angles at initialisation (Lambda_init): the N-th roots of unity, random, or roots of unity rotated by "
            "another small angle in each channel (DFouT, arXiv 2508.20441)",
            choices=("omega", "randn", "dfout"),
        ),
    },
    "dss": _diagonal("1", 1e-3, 1e-1)
    | {
        "version": KernelField(
            "exp",
            "parameterisation of Λ and scale of the weights; 'softmax' depends on the length and has no recurrence",
            choices=("softmax", "exp", "exp_re_im", "exp_no_scale", "exp_no_scale_real", "clip", "clip_no_scale"),
        ),
        "pole_init": KernelField(
            "hippo_skew",
            "Im Λ at initialisation (Lambda_init): multiples of π, random, or the skew part of the HiPPO matrix",
            choices=("lin", "randn", "hippo_skew"),
        ),
        "separate_time_steps": KernelField(
            False, "one time step for Re Λ and another for Im Λ (sep_dt_re_im)", types=(bool,)
        ),
        "max_pole_real": KernelField(
            1e-4, "largest Re Λ of the 'clip' versions (max_real_Lambda)", types=_NUMBER, allowed=Range(-1e3, 1e3)
        ),
    },
    "s4d": _diagonal("1/√2 per part", 1e-3, 1e-1)
    | {
        "discretization": KernelField("zoh", "zero-order hold or bilinear", choices=("zoh", "bilinear")),
        "pole_init": KernelField(
            "lin",
            "Im A at initialisation: S4D-Lin, S4D-Inv, S4D-LegS or random (arXiv 2206.11893)",
            choices=("lin", "inv", "legs", "randn"),
        ),
    },
    "sgconv": _common("1")
    | {
        "alpha_min": KernelField(0.3, "smallest decay from one scale to the next", types=_NUMBER, allowed=NOT_NEGATIVE),
        "alpha_max": KernelField(1.0, "largest decay from one scale to the next", types=_NUMBER, allowed=NOT_NEGATIVE),
        "num_scales": KernelField(
            8,
            "number of scales; the kernel has state_size · 2^(num_scales-1) steps",
            types=(int,),
            allowed=Range(1, 31),
        ),
    },
}


def complete_kernel_parameters(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Complete ``kernel_parameters`` with the defaults of its kernel_type, and check every key and value.

    Raises:
        ValueError: for an unknown key (with the nearest known one), or an invalid value.

    >>> complete_kernel_parameters({"pole_init": "randn"})["read_out"]
    'real'
    """
    given = dict(given or {})
    kernel_type = given.get("kernel_type", "dlr")
    KERNEL_FIELDS["dlr"]["kernel_type"].check("kernel_type", kernel_type)
    specs = KERNEL_FIELDS[kernel_type]
    refuse_unknown_names(f"kernel_parameters of kernel_type {kernel_type!r}", given, specs)
    complete = {name: given.get(name, spec.default) for name, spec in specs.items()} | {"kernel_type": kernel_type}
    for name, value in complete.items():
        specs[name].check(name, value)
    for low, high in (("time_step_min", "time_step_max"), ("alpha_min", "alpha_max")):
        if low in complete and complete[low] > complete[high]:
            raise ValueError(
                f"kernel_parameters: {low} must not exceed {high}, got {complete[low]} > {complete[high]}: swap them."
            )
    if complete.get("version") == "exp_re_im" and complete["pole_init"] == "randn":
        raise ValueError(
            "kernel_parameters: version 'exp_re_im' needs Im Λ > 0, but pole_init 'randn' draws negative values: use "
            "'lin' or 'hippo_skew'."
        )
    return complete


def why_no_recurrence(complete: Mapping[str, Any]) -> str | None:
    """Why a kernel with these (complete) parameters has no recurrence; None if it has one."""
    if complete["kernel_type"] == "sgconv":
        return "SGConv learns the kernel itself, not poles"
    if complete["kernel_type"] == "dss" and complete["version"] == "softmax":
        return "the kernel of DSS version 'softmax' depends on the length of the sequence"
    if complete["read_out"] in ("prod", "real_prod"):
        return f"read_out {complete['read_out']!r} is a product of kernels, which has no N-pole recurrence"
    if complete["max_length"] is not None:
        return f"max_length={complete['max_length']} cuts the kernel off, which a recurrence cannot do"
    return None
