"""ListOps (arXiv 1804.06028): evaluate nested expressions of MIN, MAX, median and sum modulo 10 over digits.

`ListOps` is the task of the Long Range Arena (arXiv 2011.04006): predict the value of the whole expression.
`ListOpsSubTrees` is the task of the DLR paper (arXiv 2212.00768, §4.2): predict the value of every sub-tree, at the
bracket that closes it.
"""

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, ClassVar, Literal

import datasets
import numpy as np

from .seeds import SPLITS, Split, python_random
from .task import Task

DIGITS = tuple(str(digit) for digit in range(10))
CLOSE = "X"
PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"


def median(values: list[int]) -> int:
    """The median; for an even number of values, the mean of the middle two, rounded down."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": median,
    "[SM": lambda values: sum(values) % 10,
}
VOCABULARY = (PAD, UNKNOWN, END, CLOSE, *OPERATORS, *DIGITS)
_IDS = {token: i for i, token in enumerate(VOCABULARY)}
_OPERATOR_NAMES, _VALUES = tuple(OPERATORS), range(10)

LEAF_PROBABILITY = 0.75
# Draws without a usable expression before an error is raised. With the default options, one draw in 300 is usable.
_MAX_MISSES = 30_000
IGNORED = -100


class Expression:
    """A random tree, with the properties of its inner nodes in the order in which their brackets close.

    Args:
        random: random generator; with the same one, the official code draws the same tree.
        max_depth: maximum depth of the tree; the root has depth 1.
        max_args: maximum number of arguments of an operator; the minimum is 2.
    """

    def __init__(self, random: Random, max_depth: int, max_args: int):
        self.tokens: list[str] = []
        self.ends: list[int] = []
        self.values: list[int] = []
        self.heights: list[int] = []
        self.lengths: list[int] = []
        self.operators: list[str] = []
        self.value, self.height = self._grow(random, max_depth, max_args)

    def _grow(self, random: Random, depth_left: int, max_args: int) -> tuple[int, int]:
        """Append a node and all nodes below it; return its value and height."""
        if depth_left == 1 or random.random() > 1 - LEAF_PROBABILITY:
            digit = random.choice(_VALUES)
            self.tokens.append(DIGITS[digit])
            return digit, 0
        start = len(self.tokens)
        self.tokens.append("")  # the operator is drawn after its arguments
        children = [self._grow(random, depth_left - 1, max_args) for _ in range(random.randint(2, max_args))]
        operator = random.choice(_OPERATOR_NAMES)
        self.tokens[start] = operator
        self.tokens.append(CLOSE)
        value = OPERATORS[operator]([value for value, _ in children])
        height = 1 + max(height for _, height in children)
        self.ends.append(len(self.tokens) - 1)
        self.values.append(value)
        self.heights.append(height)
        self.lengths.append(len(self.tokens) - start)
        self.operators.append(operator)
        return value, height

    def ids(self) -> np.ndarray:
        """The tokens as indices into `VOCABULARY`."""
        return np.array([_IDS[token] for token in self.tokens])


@dataclass(frozen=True)
class ListOpsTask(Task):
    """Base class of both tasks.

    Args:
        min_length: every expression has more tokens than this; brackets count.
        max_length: every expression has fewer tokens than this; rows are padded to this length.
        max_depth: maximum depth of a tree; the root has depth 1.
        max_args: maximum number of arguments of an operator; the minimum is 2.
    """

    min_length: int = 500
    max_length: int = 2000
    max_depth: int = 10
    max_args: int = 10

    # Whether every row ends with END.
    ends: ClassVar[bool]

    def __post_init__(self):
        name = type(self).__name__
        if self.min_length < 1 or self.max_depth < 2 or self.max_args < 2:
            raise ValueError(
                f"{name} needs min_length >= 1, max_depth >= 2 and max_args >= 2, got {self.min_length}, "
                f"{self.max_depth} and {self.max_args}: a single digit is not an expression."
            )
        if self.count_templates(limit=1) < 1:
            raise ValueError(
                f"{name}: no expression of max_depth={self.max_depth} and max_args={self.max_args} has more than "
                f"min_length={self.min_length} and fewer than max_length={self.max_length} tokens: widen these."
            )

    @property
    def vocab_size(self) -> int:
        """Number of tokens in `VOCABULARY`."""
        return len(VOCABULARY)

    def tokenizer(self) -> Any:
        """A tokenizer with one token for each symbol of an expression."""
        from modeling_dlr.tokenization import symbol_tokenizer

        special_tokens = {"pad_token": PAD, "unk_token": UNKNOWN, "eos_token": END}
        return symbol_tokenizer(VOCABULARY, special_tokens=special_tokens, append_eos=self.ends)

    def expressions(self, random: Random) -> Iterator[Expression]:
        """Yield the expressions of allowed length, in the order in which the official code draws them from ``random``.

        Raises:
            ValueError: if no expression of allowed length is found in 30,000 draws.
        """
        misses = 0
        while misses < _MAX_MISSES:
            expression = Expression(random, self.max_depth, self.max_args)
            misses += 1
            if self.min_length < len(expression.tokens) < self.max_length:
                misses = 0
                yield expression
        raise ValueError(
            f"{type(self).__name__}: none of {_MAX_MISSES:,} expressions of max_depth={self.max_depth} and "
            f"max_args={self.max_args} had more than min_length={self.min_length} and fewer than "
            f"max_length={self.max_length} tokens: widen these."
        )

    def candidates(self, seed: int, split: Split, index: int) -> Iterator[dict[str, Any]]:
        """Yield rows of this split; if there are few different expressions, each belongs to one split only."""
        of_other_splits = 0
        for expression in self.expressions(python_random(seed, split, index)):
            row = self.row(expression)
            if not self._few or SPLITS[zlib.crc32(self.identity(row)) % len(SPLITS)] == split:
                yield row
            else:
                of_other_splits += 1
            if of_other_splits == _MAX_MISSES:
                raise ValueError(
                    f"{type(self).__name__}: {_MAX_MISSES:,} expressions were drawn, and none belongs to the split "
                    f"{split}, because there are few different ones: allow longer expressions."
                )

    @cached_property
    def _few(self) -> bool:
        """Whether there are so few expressions that two splits would share some by chance."""
        return self.count_templates(limit=2.0**40) < 2.0**40

    def identity(self, row: dict[str, Any]) -> bytes:
        """The expression without its digits; no two examples have the same."""
        ids = np.minimum(row["input_ids"], _IDS["0"])
        return ids.astype(np.uint8).tobytes()

    def check(self, num_examples: int) -> None:
        """Refuse ``num_examples`` above the number of expressions that differ in more than their digits."""
        there_are = self.count_templates(limit=float(num_examples))
        if there_are < num_examples:
            raise ValueError(
                f"There are only {int(there_are):,} expressions with more than min_length={self.min_length} and fewer "
                f"than max_length={self.max_length} tokens that differ in more than their digits, but "
                f"num_examples={num_examples:,}: ask for fewer examples, or allow longer expressions."
            )

    def count_templates(self, limit: float) -> float:
        """Count the expressions that differ in more than their digits; stop once the count reaches ``limit``."""
        by_length = _leaf(self.max_length)
        for _ in range(self.max_depth - 1):
            power, trees = np.convolve(by_length, by_length)[: self.max_length], _leaf(self.max_length)
            for _ in range(2, self.max_args + 1):
                trees[2:] += len(OPERATORS) * power[:-2]
                power = np.convolve(power, by_length)[: self.max_length]
                np.minimum(power, 1e100, out=power)
            by_length = np.minimum(trees, 1e100)
            if by_length[self.min_length + 1 :].sum() >= limit:
                break
        return float(by_length[self.min_length + 1 :].sum())

    @abstractmethod
    def row(self, expression: Expression) -> dict[str, Any]:
        """Return the columns of one expression."""


def _leaf(length: int) -> np.ndarray:
    """Count the trees of depth 1 by their number of tokens, digits ignored: one tree, with one token."""
    counts = np.zeros(max(length, 3))
    counts[1] = 1
    return counts


@dataclass(frozen=True)
class ListOps(ListOpsTask):
    """Predict the value of the whole expression: columns ``input_ids``, ``attention_mask`` and ``labels``."""

    num_labels = 10
    ends: ClassVar[bool] = True

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        steps = datasets.List(datasets.Value("int64"), length=self.max_length)
        return datasets.Features({"input_ids": steps, "attention_mask": steps, "labels": datasets.Value("int64")})

    def row(self, expression: Expression) -> dict[str, Any]:
        """Return the tokens and an ``<eos>``, padded on the right to ``max_length``; the label is the root's value."""
        ids = np.append(expression.ids(), _IDS[END])
        return padded(ids, self.max_length) | {"labels": expression.value}


@dataclass(frozen=True)
class ListOpsSubTrees(ListOpsTask):
    """Predict a class for every sub-tree, at its closing bracket: ``input_ids``, ``attention_mask``, ``labels``.

    Args:
        min_length: every expression has more tokens than this; brackets count.
        max_length: every expression has fewer tokens than this; rows are padded to this length.
        max_depth: maximum depth of a tree; the root has depth 1.
        max_args: maximum number of arguments of an operator; the minimum is 2.
        target: what to predict: the value, the height (a leaf has height 0), or the operator's index in `OPERATORS`.
    """

    min_length: int = 7000
    max_length: int = 8192
    max_depth: int = 15
    max_args: int = 9
    target: Literal["value", "height", "operator"] = "value"

    ends: ClassVar[bool] = False

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return {"value": 10, "height": self.max_depth, "operator": len(OPERATORS)}[self.target]

    @property
    def features(self) -> datasets.Features:
        """The columns."""
        steps = datasets.List(datasets.Value("int64"), length=self.max_length)
        return datasets.Features({"input_ids": steps, "attention_mask": steps, "labels": steps})

    def row(self, expression: Expression) -> dict[str, Any]:
        """Return the tokens, padded on the right to ``max_length``; labels are -100 except at closing brackets."""
        labels = np.full(self.max_length, IGNORED)
        labels[expression.ends] = {
            "value": expression.values,
            "height": expression.heights,
            "operator": [_OPERATOR_NAMES.index(name) for name in expression.operators],
        }[self.target]
        return padded(expression.ids(), self.max_length) | {"labels": labels}


def padded(ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Pad ``input_ids`` on the right; ``attention_mask`` is 1 for tokens and 0 for padding."""
    input_ids = np.full(length, _IDS[PAD])
    input_ids[: len(ids)] = ids
    return {"input_ids": input_ids, "attention_mask": (np.arange(length) < len(ids)).astype(np.int64)}
