"""The eleven atomic tasks of the DLR paper (arXiv 2212.00768, §4.1): simple operations on sequences of real numbers.

Every class is a task. Its fields are the options, and `sample` draws inputs x and targets y as the official code does.
Values are drawn from N(0, 1) and divided by the largest absolute value of their sequence. Every step t of x also has
two position features, cos and sin of 2π t / T, where T is the number of steps of x.
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
    """A function from real sequences to real sequences, trained with the mean squared error.

    Args:
        length: L, the number of values in a sequence.
    """

    length: int = 512

    shortest: ClassVar[int] = 1

    def __post_init__(self):
        if self.length < self.shortest:
            raise ValueError(f"{type(self).__name__} needs length >= {self.shortest}, got {self.length}.")

    def check(self, num_examples: int) -> None:
        """Refuse several examples if they would repeat: a single free number has only 24 bits, so it soon recurs."""
        if num_examples > 1 and self.freedom < 2:
            lengths = itertools.count(self.length)
            enough = next(length for length in lengths if replace(self, length=length).freedom >= 2)
            raise ValueError(
                f"{type(self).__name__}: examples of length={self.length} repeat, but num_examples={num_examples:,}: "
                f"set length >= {enough}."
            )

    @property
    def freedom(self) -> int:
        """How many numbers of x are free: one fewer than L, because normalisation makes the largest +1 or -1."""
        return self.length - 1

    @property
    def num_steps(self) -> int:
        """T, the number of steps of x."""
        return self.length

    @property
    def num_targets(self) -> int:
        """How many steps have a target; they are the last ones."""
        return self.num_steps

    @property
    def input_size(self) -> int:
        """Number of features of every step of x."""
        return 3

    @property
    def num_labels(self) -> int:
        """Number of values to predict at every step that has a target."""
        return 1

    @abstractmethod
    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x without the two position features, and y."""

    def sample(self, batch_shape: Sequence[int] = (), generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw inputs [*batch_shape, T, input_size] and targets [*batch_shape, num_targets, num_labels], float32.

        Args:
            batch_shape: leading dimensions; every sequence is drawn independently.
            generator: random generator on the CPU; None uses the global one. With the same generator, the official code
                draws the same numbers.

        >>> x, y = CumSum(length=4).sample((2,), torch.Generator().manual_seed(0))
        >>> x.shape, y.shape
        (torch.Size([2, 4, 3]), torch.Size([2, 4, 1]))
        """
        x, y = self.draw(tuple(batch_shape), generator)
        angle = torch.arange(self.num_steps) * (2 * math.pi / self.num_steps)
        position = torch.stack((angle.cos(), angle.sin()), dim=-1)
        return torch.cat((x, position.expand(*x.shape[:-1], 2)), dim=-1), y

    def sequence(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """Draw normalised random values [*batch, L, 1]."""
        return normalised(torch.randn(*batch, self.length, 1, generator=generator), dim=-2)

    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """Yield ``input_values`` [T, input_size] and ``labels`` [T, num_labels]; ignored labels are NaN."""
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
    """Delay the sequence by ``num_shifts`` delays, from 0 to L - L / num_shifts; each delay is one channel of y."""

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
        """Draw x and y; column k of y is x delayed by the k-th delay."""
        x = self.sequence(batch, generator)
        delays = torch.linspace(0, self.length - self.length / self.num_shifts, self.num_shifts).long()
        return x, torch.cat([delayed(x, delay) for delay in delays.tolist()], dim=-1)


@dataclass(frozen=True)
class CumSum(AtomicTask):
    """The sum of all values so far, divided by the square root of their number."""

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y; y has one value for each step."""
        x = self.sequence(batch, generator)
        return x, x.cumsum(-2) / torch.arange(1, self.length + 1).sqrt().unsqueeze(-1)


@dataclass(frozen=True)
class CumMax(AtomicTask):
    """The largest value so far."""

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y; y has one value for each step."""
        x = self.sequence(batch, generator)
        return x, x.cummax(-2).values


@dataclass(frozen=True)
class Reverse(AtomicTask):
    """Read L values, then output them in reverse order in the next L steps."""

    @property
    def num_steps(self) -> int:
        """2L."""
        return 2 * self.length

    @property
    def num_targets(self) -> int:
        """L."""
        return self.length

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y: x has L values and then L zeros; y has L values."""
        x = self.sequence(batch, generator)
        return torch.cat((x, torch.zeros_like(x)), dim=-2), self.target(x)

    def target(self, x: Tensor) -> Tensor:
        """Reverse the sequence."""
        return x.flip(-2)


@dataclass(frozen=True)
class Sort(Reverse):
    """Read L values, then output them sorted by their distance to the first value in the next L steps."""

    def target(self, x: Tensor) -> Tensor:
        """Sort values by |x_t - x_0|; equal distances keep their order."""
        order = (x - x[..., :1, :]).abs().argsort(dim=-2, stable=True)
        return x.gather(-2, order)


@dataclass(frozen=True)
class MaskedSelect(AtomicTask):
    """Read L + M values, M of them marked, then output the marked values in order in the next M steps.

    Args:
        length: L, the number of values that are not marked.
        num_marked: M, the number of marked values.
        consecutive: whether the marked values are adjacent.
    """

    num_marked: int = 32
    consecutive: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.num_marked < 1:
            raise ValueError(f"{type(self).__name__} needs num_marked >= 1, got {self.num_marked}.")

    @property
    def freedom(self) -> int:
        """L + M - 1, because the L + M values are normalised together."""
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
        """4: the value, the mark, and two position features."""
        return 4

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y: x has values and marks; y has the marked values."""
        marked = self.marked(batch, generator)
        values = normalised(torch.randn(*batch, self.length + self.num_marked, generator=generator), dim=-1)
        marks = torch.zeros_like(values).scatter(-1, marked, 1.0)
        x = torch.stack((values, marks), dim=-1)
        silence = x.new_zeros(*batch, self.num_marked, 2)
        return torch.cat((x, silence), dim=-2), values.gather(-1, marked).unsqueeze(-1)

    def marked(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """Draw the positions of the marked values [*batch, M], in increasing order."""
        places = self.length + self.num_marked
        if self.consecutive:
            first = torch.randint(0, self.length, (*batch, 1), generator=generator)
            return first + torch.arange(self.num_marked)
        return torch.rand(*batch, places, generator=generator).topk(self.num_marked).indices.sort().values


@dataclass(frozen=True)
class MaskedSelectFixed(MaskedSelect):
    """`MaskedSelect` with the same marked positions in every sequence, for every split and seed."""

    def marked(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """The positions drawn by a generator with seed 0."""
        return super().marked((), Generator().manual_seed(0)).expand(*batch, -1)


@dataclass(frozen=True)
class Solve(AtomicTask):
    """Read the rows of [A | b] for an orthogonal matrix A, then output the solution x of A x = b.

    Args:
        length: L; there are N = floor(sqrt(1 + L) - 1) unknowns, so that N² + 2N <= L.
    """

    shortest: ClassVar[int] = 3

    @property
    def freedom(self) -> int:
        """N (N - 1) / 2 for the rotation A, and N - 1 for the unit vector x."""
        N = self.num_targets
        return N * (N - 1) // 2 + N - 1

    @property
    def num_targets(self) -> int:
        """N, the number of unknowns."""
        return math.isqrt(1 + self.length) - 1

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw the inputs, [A | b] flattened and then zeros, and the targets, the solution with norm 1."""
        N = self.num_targets
        A = self.matrix(batch, generator)
        unknown = torch.randn(*batch, N, 1, generator=generator)
        unknown = unknown / unknown.norm(dim=-2, keepdim=True)
        rows = torch.cat((A, A @ unknown), dim=-1).flatten(-2)
        silence = rows.new_zeros(*batch, self.length - rows.shape[-1])
        return torch.cat((rows, silence), dim=-1).unsqueeze(-1), unknown

    def matrix(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """Draw A [*batch, N, N]: U Vᵀ from the singular value decomposition of a Gaussian matrix."""
        N = self.num_targets
        U, _, Vt = torch.linalg.svd(torch.randn(*batch, N, N, generator=generator))
        return U @ Vt


@dataclass(frozen=True)
class SolveFixed(Solve):
    """`Solve` with the same matrix A in every sequence, for every split and seed."""

    @property
    def freedom(self) -> int:
        """N - 1 for the unit vector x."""
        return self.num_targets - 1

    def matrix(self, batch: Sequence[int], generator: Generator | None) -> Tensor:
        """The matrix drawn by a generator with seed 0."""
        return super().matrix((), Generator().manual_seed(0)).expand(*batch, -1, -1)


@dataclass(frozen=True)
class ContextShift(AtomicTask):
    """Delay the input by s; its first two steps give s as cos and sin of 2π s / L."""

    shortest: ClassVar[int] = 3

    @property
    def freedom(self) -> int:
        """L - 3, because L - 2 values are normalised."""
        return self.length - 3

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y: x has two steps that give s, then L - 2 values; y is x delayed by s."""
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
    """Maximum inner product search: at every step i, output the value v_j for the j with the largest q_i · k_j.

    Args:
        length: L.
        dim: D, the size of each query, key and value vector; each has norm 1.
        causal: whether to search only j <= i.
    """

    dim: int = 4
    causal: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.dim < 1:
            raise ValueError(f"MIPS needs dim >= 1, got {self.dim}.")

    @property
    def freedom(self) -> int:
        """D - 1 for each vector; with D = 1 each vector is a sign, and 24 signs count as one number."""
        vectors = 3 * self.length
        return vectors * (self.dim - 1) if self.dim > 1 else vectors // 24

    @property
    def input_size(self) -> int:
        """3 D + 2: query, key, value and two position features."""
        return 3 * self.dim + 2

    @property
    def num_labels(self) -> int:
        """D, the size of a value vector."""
        return self.dim

    def draw(self, batch: Sequence[int], generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw x and y: x is q, k and v concatenated; y is the v of the best match."""
        vectors = torch.randn(*batch, 3 * self.length, self.dim, generator=generator)
        q, k, v = (vectors / vectors.norm(dim=-1, keepdim=True)).chunk(3, dim=-2)
        best = self.best(q, k).unsqueeze(-1).expand(v.shape)
        return torch.cat((q, k, v), dim=-1), v.gather(-2, best)

    def best(self, q: Tensor, k: Tensor) -> Tensor:
        """The index of the largest product for each query [*batch, L], computed for 256 queries at a time."""
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
    """Divide values by the largest absolute value along ``dim``."""
    return values / values.abs().amax(dim, keepdim=True)


def delayed(x: Tensor, delay: int) -> Tensor:
    """Delay x [..., L, 1] by ``delay`` steps; the first steps are zeros."""
    return torch.cat((torch.zeros_like(x[..., :delay, :]), x[..., : x.shape[-2] - delay, :]), dim=-2)
