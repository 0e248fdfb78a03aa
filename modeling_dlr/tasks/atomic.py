"""The eleven atomic tasks of the DLR paper (arXiv 2212.00768, §4.1): sequences of real numbers to be manipulated.

Every class is a task: its fields are the options, and `sample` draws inputs x and targets y as the official code draws
them. Sequences are N(0, 1) over their largest absolute value. To every step of x two numbers are added that tell where
it is: cos and sin of 2π t / T, where T is the number of steps of x.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import datasets
import torch
from torch import Generator, Tensor

from .seeds import Split, torch_generator
from .task import Task


@dataclass(frozen=True)
class AtomicTask(Task):
    """A map of real sequences that is learned by mean squared error.

    Args:
        length: L, the values of a sequence.
    """

    length: int = 512

    shortest: ClassVar[int] = 1

    def __post_init__(self):
        if self.length < self.shortest:
            raise ValueError(f"{type(self).__name__} needs length >= {self.shortest}, got {self.length}.")

    def check(self, num_examples: int) -> None:
        """Refuse several examples where they repeat: one free number of 24 bits is soon the same again, two are not."""
        if num_examples > 1 and self.freedom < 2:
            lengths = itertools.count(self.length)
            enough = next(length for length in lengths if replace(self, length=length).freedom >= 2)
            raise ValueError(
                f"{type(self).__name__}: examples of length={self.length} repeat, but num_examples={num_examples:,}: "
                f"ask for length >= {enough}."
            )

    @property
    def freedom(self) -> int:
        """How many numbers of x are free: what is normalised has one fewer than values, for the largest is +1 or -1."""
        return self.length - 1

    @property
    def num_steps(self) -> int:
        """T, the steps of x."""
        return self.length

    @property
    def num_targets(self) -> int:
        """The steps that count: the last ones."""
        return self.num_steps

    @property
    def input_size(self) -> int:
        """Features of every step of x."""
        return 3

    @property
    def num_labels(self) -> int:
        """Values to be predicted at every step that counts."""
        return 1

    @abstractmethod
    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x without the two features of position, and y."""

    def sample(self, batch_shape: Sequence[int] = (), generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Inputs [*batch_shape, T, input_size] and targets [*batch_shape, num_targets, num_labels], float32.

        Args:
            batch_shape: of as many independent sequences.
            generator: of the random numbers, on the CPU; None is the global one. The official code draws the same.

        >>> x, y = CumSum(length=4).sample((2,), torch.Generator().manual_seed(0))
        >>> x.shape, y.shape
        (torch.Size([2, 4, 3]), torch.Size([2, 4, 1]))
        """
        x, y = self.draw(tuple(batch_shape), generator)
        angle = torch.arange(self.num_steps) * (2 * math.pi / self.num_steps)
        position = torch.stack((angle.cos(), angle.sin()), dim=-1)
        return torch.cat((x, position.expand(*x.shape[:-1], 2)), dim=-1), y

    def sequence(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """[*batch, L, 1] normalised random values."""
        return normalised(torch.randn(*batch, self.length, 1, generator=generator), dim=-2)

    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """``input_values`` [T, input_size] and ``labels`` [T, num_labels], NaN where they are ignored."""
        generator = torch_generator(seed, split, index)
        while True:
            x, y = self.sample((), generator)
            ignored = torch.full((self.num_steps - self.num_targets, self.num_labels), torch.nan)
            yield {"input_values": x.numpy(), "labels": torch.cat((ignored, y)).numpy()}

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        return datasets.Features(
            {
                "input_values": datasets.Array2D((self.num_steps, self.input_size), "float32"),
                "labels": datasets.Array2D((self.num_steps, self.num_labels), "float32"),
            }
        )


@dataclass(frozen=True)
class Shift(AtomicTask):
    """The sequence delayed by ``num_shifts`` delays from 0 to L - L / num_shifts, a channel for each."""

    num_shifts: int = 8

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.num_shifts <= self.length:
            raise ValueError(f"Shift needs 1 <= num_shifts <= length = {self.length}, got {self.num_shifts}.")

    @property
    def num_labels(self) -> int:
        """One value for each delay."""
        return self.num_shifts

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Column k of y is x delayed by the k-th delay."""
        x = self.sequence(batch, generator)
        delays = torch.linspace(0, self.length - self.length / self.num_shifts, self.num_shifts).long()
        return x, torch.cat([delayed(x, delay) for delay in delays.tolist()], dim=-1)


@dataclass(frozen=True)
class CumSum(AtomicTask):
    """The sum of all values so far, over the root of their number."""

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A value for each step."""
        x = self.sequence(batch, generator)
        return x, x.cumsum(-2) / torch.arange(1, self.length + 1).sqrt().unsqueeze(-1)


@dataclass(frozen=True)
class CumMax(AtomicTask):
    """The largest value so far."""

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A value for each step."""
        x = self.sequence(batch, generator)
        return x, x.cummax(-2).values


@dataclass(frozen=True)
class Reverse(AtomicTask):
    """After the sequence, L more steps in which it is to be said backwards."""

    @property
    def num_steps(self) -> int:
        """2L."""
        return 2 * self.length

    @property
    def num_targets(self) -> int:
        """L."""
        return self.length

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """L values, then L zeros; y has the values."""
        x = self.sequence(batch, generator)
        return torch.cat((x, torch.zeros_like(x)), dim=-2), self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        """The sequence backwards."""
        return x.flip(-2)


@dataclass(frozen=True)
class Sort(Reverse):
    """After the sequence, L more steps in which it is to be said in the order of the distance to its first value."""

    def answer(self, x: Tensor) -> Tensor:
        """Values by |x_t - x_0|, equals in their old order."""
        order = (x - x[..., :1, :]).abs().argsort(dim=-2, stable=True)
        return x.gather(-2, order)


@dataclass(frozen=True)
class MaskedSelect(AtomicTask):
    """After L + M values of which M are marked, M more steps in which the marked ones are to be said in their order.

    Args:
        length: L, the values that are not marked.
        num_marked: M.
        consecutive: whether the marked ones lie side by side.
    """

    num_marked: int = 32
    consecutive: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.num_marked < 1:
            raise ValueError(f"{type(self).__name__} needs num_marked >= 1, got {self.num_marked}.")

    @property
    def freedom(self) -> int:
        """L + M values are normalised together."""
        return self.length + self.num_marked - 1

    @property
    def num_steps(self) -> int:
        """L + 2M."""
        return self.length + 2 * self.num_marked

    @property
    def num_targets(self) -> int:
        """M."""
        return self.num_marked

    @property
    def input_size(self) -> int:
        """The value, the mark, and the position."""
        return 4

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Values and marks; y has the marked values."""
        marked = self.marked(batch, generator)
        values = normalised(torch.randn(*batch, self.length + self.num_marked, generator=generator), dim=-1)
        marks = torch.zeros_like(values).scatter(-1, marked, 1.0)
        x = torch.stack((values, marks), dim=-1)
        silence = x.new_zeros(*batch, self.num_marked, 2)
        return torch.cat((x, silence), dim=-2), values.gather(-1, marked).unsqueeze(-1)

    def marked(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """[*batch, M] increasing places."""
        places = self.length + self.num_marked
        if self.consecutive:
            first = torch.randint(0, self.length, (*batch, 1), generator=generator)
            return first + torch.arange(self.num_marked)
        return torch.rand(*batch, places, generator=generator).topk(self.num_marked).indices.sort().values


@dataclass(frozen=True)
class MaskedSelectFixed(MaskedSelect):
    """`MaskedSelect` with the same places in every sequence of every split and seed."""

    def marked(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """The places that a generator of seed 0 gives."""
        return super().marked((), Generator().manual_seed(0)).expand(*batch, -1)


@dataclass(frozen=True)
class Solve(AtomicTask):
    """The equations A x = b with an orthogonal A, given as the rows of [A | b]; then x is to be said.

    Args:
        length: L; there are N = floor(sqrt(1 + L) - 1) unknowns, so that N² + 2N <= L.
    """

    shortest: ClassVar[int] = 3

    @property
    def freedom(self) -> int:
        """N (N - 1) / 2 of the rotation A, and N - 1 of the direction x."""
        N = self.num_targets
        return N * (N - 1) // 2 + N - 1

    @property
    def num_targets(self) -> int:
        """N."""
        return math.isqrt(1 + self.length) - 1

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """[A | b] flattened, then zeros; y is x, of norm 1."""
        N = self.num_targets
        A = self.matrix(batch, generator)
        unknown = torch.randn(*batch, N, 1, generator=generator)
        unknown = unknown / unknown.norm(dim=-2, keepdim=True)
        rows = torch.cat((A, A @ unknown), dim=-1).flatten(-2)
        silence = rows.new_zeros(*batch, self.length - rows.shape[-1])
        return torch.cat((rows, silence), dim=-1).unsqueeze(-1), unknown

    def matrix(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """[*batch, N, N]: U Vᵀ of the singular value decomposition of a Gaussian matrix."""
        N = self.num_targets
        U, _, Vt = torch.linalg.svd(torch.randn(*batch, N, N, generator=generator))
        return U @ Vt


@dataclass(frozen=True)
class SolveFixed(Solve):
    """`Solve` with the same A in every sequence of every split and seed."""

    @property
    def freedom(self) -> int:
        """N - 1 of x."""
        return self.num_targets - 1

    def matrix(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """The matrix that a generator of seed 0 gives."""
        return super().matrix((), Generator().manual_seed(0)).expand(*batch, -1, -1)


@dataclass(frozen=True)
class ContextShift(AtomicTask):
    """The input delayed by s, which its first two steps tell as cos and sin of 2π s / L."""

    shortest: ClassVar[int] = 3

    @property
    def freedom(self) -> int:
        """L - 2 values are normalised."""
        return self.length - 3

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Two steps of s, then L - 2 values; y is all of that, delayed."""
        L = self.length
        values = normalised(torch.randn(*batch, L - 2, generator=generator), dim=-1)
        delay = torch.randint(0, L - 2, (*batch, 1), generator=generator)
        angle = 2 * math.pi * delay / L
        x = torch.cat((angle.cos(), angle.sin(), values), dim=-1)
        source = torch.arange(L) - delay
        y = torch.where(source >= 0, x.gather(-1, source.clamp(min=0)), 0.0)
        return x.unsqueeze(-1), y.unsqueeze(-1)


@dataclass(frozen=True)
class MIPS(AtomicTask):
    """Maximum inner product search: at every step the value v_j of the best q_i · k_j so far.

    Args:
        length: L.
        dim: D, the numbers of each query, key and value; each has the norm 1.
        causal: whether only j <= i count.
    """

    dim: int = 4
    causal: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.dim < 1:
            raise ValueError(f"MIPS needs dim >= 1, got {self.dim}.")

    @property
    def freedom(self) -> int:
        """D - 1 of each vector; where D = 1 it is a sign, and 24 of these are as good as a number."""
        vectors = 3 * self.length
        return vectors * (self.dim - 1) if self.dim > 1 else vectors // 24

    @property
    def input_size(self) -> int:
        """Query, key, value and position."""
        return 3 * self.dim + 2

    @property
    def num_labels(self) -> int:
        """D."""
        return self.dim

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """q, k and v side by side; y is the best v."""
        vectors = torch.randn(*batch, 3 * self.length, self.dim, generator=generator)
        q, k, v = (vectors / vectors.norm(dim=-1, keepdim=True)).chunk(3, dim=-2)
        best = self.best(q, k).unsqueeze(-1).expand(v.shape)
        return torch.cat((q, k, v), dim=-1), v.gather(-2, best)

    def best(self, q: Tensor, k: Tensor) -> Tensor:
        """[*batch, L]: the place of the largest product, a few queries at a time."""
        found = []
        for start in range(0, self.length, 256):
            queries = q[..., start : start + 256, :]
            places = torch.arange(start, start + queries.shape[-2]).unsqueeze(-1)
            keys = k[..., : start + 256, :] if self.causal else k
            products = queries @ keys.transpose(-1, -2)
            if self.causal:
                products = products.masked_fill(torch.arange(keys.shape[-2]) > places, -torch.inf)
            found.append(products.argmax(-1))
        return torch.cat(found, dim=-1)


def normalised(values: Tensor, dim: int) -> Tensor:
    """Values over the largest absolute one."""
    return values / values.abs().amax(dim, keepdim=True)


def delayed(x: Tensor, delay: int) -> Tensor:
    """[..., L, 1], zeros first."""
    return torch.cat((torch.zeros_like(x[..., :delay, :]), x[..., : x.shape[-2] - delay, :]), dim=-2)
