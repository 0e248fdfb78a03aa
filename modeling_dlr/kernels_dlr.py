"""Parameterisations of the kernel: each is a module whose parameters give its modes (log-poles and weights).

The parameters are those of the papers, so that training follows the published code. The modes are computed from them in
float64, because the angle of a pole is multiplied by up to a million steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional

from .checks_dlr import check_finite, has_memory
from .kernel_parameters_dlr import complete_kernel_parameters, why_no_recurrence
from .ops_dlr import (
    Modes,
    Pair,
    at_least_float32,
    bilinear,
    check_length,
    divided,
    evaluate_read_out,
    expm1,
    hippo_frequencies,
    inverse_frequencies,
    log_uniform,
    multiples_of_pi,
    roots_of_unity,
    times,
    with_read_out,
    zero_order_hold,
)
from .precision_dlr import in_float64
from .vandermonde_dlr import Memo, vandermonde_product

# The official implementations keep |Λ|² and |q|² away from 0 by this much.
_OFFICIAL_FLOOR = 1e-7


class Kernel(nn.Module, ABC):
    """A learned convolution kernel.

    Its parameters and buffers keep their type if the model is cast to a half type (`half`, `bfloat16`, `to`).

    Args:
        num_channels: C, kernels per hidden channel.
        hidden_size: H.
        state_size: N.
        kernel_parameters: as in `DLRConfig`. Missing entries take their defaults. They do not change later.

    Raises:
        ValueError: for a size below 1, or an unknown or invalid entry of ``kernel_parameters``.
    """

    kernel_type: str

    def __init__(
        self, num_channels: int, hidden_size: int, state_size: int, kernel_parameters: Mapping[str, Any] | None = None
    ):
        super().__init__()
        sizes = self.num_channels, self.hidden_size, self.state_size = num_channels, hidden_size, state_size
        if min(sizes) < 1:
            raise ValueError(f"num_channels, hidden_size and state_size must be at least 1, got {sizes}.")
        self.memo: Memo[tuple[Tensor]] = Memo()
        self.options = complete_kernel_parameters({"kernel_type": self.kernel_type, **(kernel_parameters or {})})
        if self.options["kernel_type"] != self.kernel_type:
            raise ValueError(
                f"{type(self).__name__} is kernel_type {self.kernel_type!r}, got {self.options['kernel_type']!r}: "
                "leave kernel_type out, or use the class of that family."
            )
        dtype = torch.promote_types(torch.float32, torch.get_default_dtype())  # float64 if a model is loaded so
        for name, value in self.initial_values().items():
            self.register_parameter(name, nn.Parameter(value.to(dtype)))
        for name, value in self.initial_buffers().items():
            self.register_buffer(name, value.to(dtype))
        self.parameter_names, self.buffer_names = tuple(self._parameters), tuple(self._buffers)

    @abstractmethod
    def initial_values(self) -> dict[str, Tensor]:
        """Draw initial values of every parameter, by name, float32."""

    def initial_buffers(self) -> dict[str, Tensor]:
        """Compute the buffers, by name, from the present parameters."""
        return {}

    @abstractmethod
    def evaluate(self, length: int) -> Tensor:
        """The kernel [C, H, length]."""

    def recurrence(self) -> Modes:
        """The modes whose real part is this kernel: the input of scan, step, convolution and decoding.

        Raises:
            ValueError: if there is no recurrence, with the reason.
        """
        raise ValueError(f"This kernel has no recurrence: {self.no_recurrence_because}. Use a convolution instead.")

    @property
    def no_recurrence_because(self) -> str | None:
        """Why this kernel has no recurrence, or None if it has one."""
        return why_no_recurrence(self.options)

    def forward(self, length: int | None) -> Tensor | Modes:
        """The kernel [C, H, min(length, max_length)], or the modes of `recurrence` if ``length`` is None.

        Both are computed in a call of the module, so that its hooks run, such as those that fetch offloaded parameters.
        `recurrence_of` is the name of the second call.

        Raises:
            ValueError: if ``length`` is not positive, the kernel is not finite, or there is no recurrence.
        """
        if length is None:
            return self.recurrence()
        check_length(length)
        limit = self.options["max_length"]
        steps = length if limit is None else min(length, limit)
        tensors = tensors_of(self)
        if torch.is_grad_enabled() or not may_remember(tensors):
            return self.evaluate(steps)
        (kernel,) = self.memo.get(
            tensors, lambda: (self.evaluate(steps).contiguous(),), lambda known: self.includes(known[0], steps)
        )
        return kernel[..., :steps]

    def includes(self, known: Tensor, length: int) -> bool:
        """Whether the first ``length`` steps of a known kernel are the kernel of that length.

        Not in DSS softmax, which divides by a sum over the whole length.
        """
        return known.shape[-1] == length or (known.shape[-1] > length and self.options.get("version") != "softmax")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Kernel":
        # torch calls this for every cast and move. Rounding an angle changes the kernel too much.
        def unrounded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            fits = torch.promote_types(moved.dtype, torch.float32) == moved.dtype
            return moved if fits else tensor.to(moved.device)

        return super()._apply(unrounded, recurse)

    def draw_weights(self, std: float) -> Tensor:
        """Draw W from N(0, std²): [C, H, N, 2]."""
        given = self.options["weight_init_std"]
        shape = (self.num_channels, self.hidden_size, self.state_size, 2)
        return (std if given is None else given) * torch.randn(*shape, dtype=torch.float32)


class DiagonalKernel(Kernel):
    """A kernel K[c,h,l] = Re Σ_n W[c,h,n] Λ_n^l, or another read-out of that sum."""

    weights: Tensor

    @abstractmethod
    def modes(self, length: int) -> Modes:
        """Log-poles and weights. Only the softmax version of DSS depends on ``length``, the steps of the kernel."""

    def recurrence(self) -> Modes:
        if self.no_recurrence_because is not None:
            return super().recurrence()
        return with_read_out(self.modes(1), self.options["read_out"])

    def evaluate(self, length: int) -> Tensor:
        return evaluate_read_out(self.modes(length), self.options["read_out"], length, self.remembered_product)

    def remembered_product(self, decay: Tensor, angle: Tensor, real: Tensor, imag: Tensor, length: int) -> Tensor:
        """`vandermonde_product`, computed once per optimizer step. A shorter one is the beginning of a longer one."""
        inputs = (decay, angle, real, imag)
        if torch.compiler.is_compiling():
            return vandermonde_product(*inputs, length)
        (known,) = self.memo.get(
            inputs, lambda: (vandermonde_product(*inputs, length),), lambda result: result[0].shape[-1] >= length
        )
        return vandermonde_product(*inputs, length, known)


class DLRKernel(DiagonalKernel):
    """DLR (arXiv 2212.00768, §3): log Λ_n = -p_n² + i ω_n, shared by all channels, and free weights W.

    Parameters: ``decay_root`` p [N], ``angle`` ω [N], ``weights`` W [C, H, N, 2] as (real, imaginary). Version 'imag'
    has no ``decay_root`` (|Λ| = 1). Version 'imag_real_weight' has no ``decay_root`` and real weights [C, H, N].
    Version 'real_real_weight' has no ``angle`` and real weights. With pole_init 'dfout' poles are [H, N].

    >>> DLRKernel(num_channels=1, hidden_size=3, state_size=8)(length=100).shape
    torch.Size([1, 3, 100])
    """

    kernel_type = "dlr"
    decay_root: Tensor
    angle: Tensor

    def initial_values(self) -> dict[str, Tensor]:
        H, N, options = self.hidden_size, self.state_size, self.options
        shape = (H, 1) if options["pole_init"] == "dfout" else (N,)
        time_step = log_uniform(options["time_step_min"], options["time_step_max"], *shape).exp()
        offset = 2 * math.pi / (N * H) * torch.arange(H, dtype=torch.float32).unsqueeze(-1)
        angle = {
            "omega": lambda: roots_of_unity(N),
            "randn": lambda: torch.randn(N, dtype=torch.float32).remainder(2 * math.pi),
            "dfout": lambda: roots_of_unity(N) + offset,
        }[options["pole_init"]]()
        decay_root = (time_step / 2).sqrt().expand_as(angle).clone()
        values = {"decay_root": decay_root, "angle": angle, "weights": self.draw_weights(1 / N)}
        version = options["version"]
        if version in ("imag", "imag_real_weight"):
            del values["decay_root"]
        if version == "real_real_weight":
            del values["angle"]
        if version in ("imag_real_weight", "real_real_weight"):
            values["weights"] = values["weights"][..., 0].clone()
        return values

    def modes(self, length: int) -> Modes:
        version, weights = self.options["version"], at_least_float32(self.weights)
        angle = in_float64(self.angle if version != "real_real_weight" else torch.zeros_like(self.decay_root))
        has_decay = version in ("complex", "real_real_weight")
        decay = -in_float64(self.decay_root).square() if has_decay else torch.zeros_like(angle)
        if version in ("complex", "imag"):
            return Modes(decay, angle, *weights.unbind(-1))
        return Modes(decay, angle, weights, torch.zeros_like(weights))


class DSSKernel(DiagonalKernel):
    """DSS (arXiv 2203.14343, §3): log Λ = Δ_h λ_n with a time step per channel, and W scaled by a zero-order hold.

    Parameters: ``log_time_step`` [H], or [H, 2] for (real, imaginary) with separate_time_steps; ``weights``
    [C, H, N, 2]; and λ as ``pole`` [N, 2] (softmax, clip), or ``log_decay`` [N] with ``frequency`` [N] (exp),
    ``log_frequency`` [N] (exp_re_im) or nothing (exp_no_scale_real).

    Version 'softmax' divides each mode by its sum over the whole length. As published, the outputs therefore depend on
    padding. Growing modes are computed as decaying modes that start at the last step. Their gradient is exact, whereas
    the official code detaches a part of it.

    >>> DSSKernel(num_channels=2, hidden_size=3, state_size=8)(length=100).shape
    torch.Size([2, 3, 100])
    """

    kernel_type = "dss"
    log_time_step: Tensor
    pole: Tensor
    log_decay: Tensor
    frequency: Tensor
    log_frequency: Tensor

    def initial_values(self) -> dict[str, Tensor]:
        H, N, options = self.hidden_size, self.state_size, self.options
        decay = torch.full((N,), 0.5, dtype=torch.float32)
        frequency = {
            "lin": lambda: multiples_of_pi(N),
            "randn": lambda: torch.randn(N, dtype=torch.float32),
            "hippo_skew": lambda: hippo_frequencies(N),
        }[options["pole_init"]]()
        log_time_step = log_uniform(options["time_step_min"], options["time_step_max"], H)
        if options["separate_time_steps"]:
            log_time_step = log_time_step.unsqueeze(-1).repeat(1, 2)
        pole = {
            "exp": {"log_decay": decay.log(), "frequency": frequency},
            "exp_re_im": {"log_decay": decay.log(), "log_frequency": frequency.log()},
            "exp_no_scale_real": {"log_decay": decay.log()},
        }
        pole["exp_no_scale"] = pole["exp"]
        pole = pole.get(options["version"], {"pole": torch.stack([-decay, frequency], dim=-1)})
        return {"log_time_step": log_time_step, **pole, "weights": self.draw_weights(1.0)}

    def modes(self, length: int) -> Modes:
        version = self.options["version"]
        pole = self._continuous_poles()
        time_step = in_float64(self.log_time_step).exp()
        time_steps = time_step.unbind(-1) if self.options["separate_time_steps"] else (time_step, time_step)
        log_pole = (time_steps[0].unsqueeze(-1) * pole[0], time_steps[1].unsqueeze(-1) * pole[1])  # [H, N]
        like = at_least_float32(self.weights)
        weights = (in_float64(self.weights[..., 0]), in_float64(self.weights[..., 1]))
        if version == "softmax":
            return self._softmax_modes(pole, log_pole, weights, length, like)
        if version in ("exp", "exp_re_im", "clip"):
            weights = times(weights, zero_order_hold(pole, log_pole, floor=_OFFICIAL_FLOOR))
        return Modes(*log_pole, weights[0].to(like), weights[1].to(like))

    def _continuous_poles(self) -> Pair:
        version = self.options["version"]
        if version in ("softmax", "clip", "clip_no_scale"):
            real, imag = in_float64(self.pole[..., 0]), in_float64(self.pole[..., 1])
            return (real if version == "softmax" else real.clamp(max=self.options["max_pole_real"])), imag
        real = -in_float64(self.log_decay).exp()
        if version == "exp_re_im":
            return real, in_float64(self.log_frequency).exp()
        return real, torch.zeros_like(real) if version == "exp_no_scale_real" else in_float64(self.frequency)

    def _softmax_modes(self, pole: Pair, log_pole: Pair, weights: Pair, length: int, like: Tensor) -> Modes:
        """Divide every mode by its sum Σ_l Λ^l = (Λ^L - 1) / (Λ - 1), with growing modes in reverse."""
        grows = pole[0] > 0
        sign = torch.where(grows, -1.0, 1.0).double()
        log_pole = (sign * log_pole[0], sign * log_pole[1])
        q = times(expm1((log_pole[0] * length, log_pole[1] * length)), pole)
        real, imag = times(weights, divided(expm1(log_pole), q, epsilon=_OFFICIAL_FLOOR))
        parts = [torch.where(side, part, 0.0).to(like) for side in (~grows, grows) for part in (real, imag)]
        return Modes(*log_pole, *parts)


class S4DKernel(DiagonalKernel):
    """S4D (arXiv 2206.11893): a diagonal state space, K = 2 Re Σ_n C_n B̄_n Ā_n^l with poles per channel.

    Parameters: ``log_time_step`` [H], ``log_decay`` [H, N], ``frequency`` [H, N], ``weights`` C [C, H, N, 2]. One pole
    stands for a conjugate pair, so ``state_size`` is half the official N.

    >>> S4DKernel(num_channels=1, hidden_size=3, state_size=8)(length=100).shape
    torch.Size([1, 3, 100])
    """

    kernel_type = "s4d"
    log_time_step: Tensor
    log_decay: Tensor
    frequency: Tensor

    def initial_values(self) -> dict[str, Tensor]:
        H, N, options = self.hidden_size, self.state_size, self.options
        frequency = {
            "lin": lambda: multiples_of_pi(N),
            "inv": lambda: inverse_frequencies(N),
            "legs": lambda: hippo_frequencies(N),
            "randn": lambda: torch.randn(H, N, dtype=torch.float32),
        }[options["pole_init"]]()
        return {
            "log_time_step": log_uniform(options["time_step_min"], options["time_step_max"], H),
            "log_decay": torch.full((H, N), math.log(0.5), dtype=torch.float32),
            "frequency": frequency.expand(H, N).clone(),
            "weights": self.draw_weights(math.sqrt(0.5)),
        }

    def modes(self, length: int) -> Modes:
        time_step = in_float64(self.log_time_step).exp().unsqueeze(-1)
        pole = (-in_float64(self.log_decay).exp(), in_float64(self.frequency))
        if self.options["discretization"] == "bilinear":
            log_pole, gain = bilinear(pole, time_step)
        else:
            log_pole = (pole[0] * time_step, pole[1] * time_step)
            gain = zero_order_hold(pole, log_pole)
        real, imag = times((2 * in_float64(self.weights[..., 0]), 2 * in_float64(self.weights[..., 1])), gain)
        like = at_least_float32(self.weights)
        return Modes(*log_pole, real.to(like), imag.to(like))


class SGConvKernel(Kernel):
    """SGConv (arXiv 2210.09298): learned taps at doubling scales; scale i is multiplied by ``alpha`` to the power i.

    Parameters: ``scales`` [S, C, H, N], ``alpha`` [C, H]. Buffer: ``norm`` [C, H, 1], the Euclidean norm of the initial
    kernel, by which the kernel is divided. It has N · 2^(S-1) taps.

    >>> SGConvKernel(num_channels=1, hidden_size=3, state_size=8)(length=100).shape
    torch.Size([1, 3, 100])
    """

    kernel_type = "sgconv"
    scales: Tensor
    alpha: Tensor
    norm: Tensor

    def initial_values(self) -> dict[str, Tensor]:
        scales = [self.draw_weights(1.0)[..., 0] for _ in range(self.options["num_scales"])]
        shape = (self.num_channels, self.hidden_size)
        low, high = self.options["alpha_min"], self.options["alpha_max"]
        return {"scales": torch.stack(scales), "alpha": low + (high - low) * torch.rand(*shape, dtype=torch.float32)}

    def initial_buffers(self) -> dict[str, Tensor]:
        return {"norm": self._unnormalised().detach().norm(dim=-1, keepdim=True)}

    def _unnormalised(self) -> Tensor:
        scales, alpha = at_least_float32(self.scales), at_least_float32(self.alpha).unsqueeze(-1)
        parts = []
        for i, values in enumerate(scales.unbind(0)):
            stretched = functional.interpolate(values, scale_factor=2 ** max(0, i - 1), mode="linear")
            parts.append(stretched * alpha**i)
        return torch.cat(parts, dim=-1)

    def evaluate(self, length: int) -> Tensor:
        check_finite(self.named_parameters())
        kernel = self._unnormalised() / at_least_float32(self.norm)
        if length > kernel.shape[-1]:
            raise ValueError(
                f"This SGConv kernel has {kernel.shape[-1]} taps (state_size · 2^(num_scales-1)), but the sequence has "
                f"{length} steps: raise num_scales, or set max_length."
            )
        return kernel[..., :length]


KERNELS: dict[str, type[Kernel]] = {each.kernel_type: each for each in (DLRKernel, DSSKernel, S4DKernel, SGConvKernel)}


def recurrence_of(kernel: nn.Module) -> Modes:
    """The modes of a kernel, or of a module that wraps a kernel, computed in a call of the module so that hooks run.

    Raises:
        ValueError: if the kernel has no recurrence.
    """
    return kernel(None)


def tensors_of(kernel: Any) -> tuple[Tensor | None, ...]:
    """Parameters and buffers that a kernel is a function of, None for one that sharding has removed.

    None at all while tracing, and for a module that does not run as written.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not runs_as_written(kernel, KERNELS.values()):
        return ()
    return *map(kernel._parameters.get, kernel.parameter_names), *map(kernel._buffers.get, kernel.buffer_names)


def may_remember(tensors: tuple[Tensor | None, ...]) -> TypeGuard[tuple[Tensor, ...]]:
    """Whether results may be used again while these tensors do not change.

    Not if there are none, or one is None, a shard, without storage (under vmap), made in inference mode, or has a
    tangent of forward-mode differentiation.
    """
    plain = all(
        part is not None
        and type(part) in (Tensor, nn.Parameter)
        and not part.is_inference()
        and has_memory(part)
        and unpack_dual(part).tangent is None
        for part in tensors
    )
    return bool(tensors) and plain


def runs_as_written(module: nn.Module, classes: Collection[type[nn.Module]]) -> bool:
    """Whether a call of a module runs the forward of one of these classes and nothing else.

    False for modules with hooks (pruning, offloading), parametrizations, wrappers of adapters, and subclasses.
    """
    own = type(module) in classes and "forward" not in module.__dict__
    return own and not module._forward_pre_hooks and not module._forward_hooks
