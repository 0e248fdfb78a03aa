"""The tasks: official draws, targets, and data sets that do not depend on how they are made."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from golden_data import GOLDEN, specs, tensors
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from modeling_dlr import DLRConfig, DLRForTokenClassification
from modeling_dlr.tasks import SPLITS, TASKS, build_task, load_task
from modeling_dlr.tasks.atomic import AtomicTask
from modeling_dlr.tasks.listops import CLOSE, OPERATORS, VOCABULARY, Expression, ListOps, ListOpsSubTrees
from modeling_dlr.tasks.loading import _cached

ATOMIC = [name for name, task in TASKS.items() if issubclass(task, AtomicTask)]
LISTOPS = json.loads((GOLDEN / "listops.json").read_text(encoding="utf-8"))
OPTIONS = {"D": "dim", "M": "num_marked", "causal": "causal", "consecutive": "consecutive", "num_shifts": "num_shifts"}
FEW = {"min_length": 1, "max_length": 9, "max_depth": 2, "max_args": 7}

by_atomic = pytest.mark.parametrize("name", ATOMIC)
by_task = pytest.mark.parametrize("name", TASKS)


SMALL_LISTOPS = {"min_length": 4, "max_length": 40, "max_depth": 5, "max_args": 4}
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"length": 24} for name in ATOMIC},
    "listops": SMALL_LISTOPS,
    "listops_subtrees": SMALL_LISTOPS,
    "pathfinder": {},
    "pathfinder_segmentation": {"resolution": 32},
}


def small_task(name: str, **options: Any) -> Any:
    """A task with few steps."""
    return build_task(name, SMALL[name] | options)


def load_small(name: str, cache_dir: Path | None, **arguments: Any) -> Any:
    """Two examples, unless more are asked for."""
    return load_task(name, **{"split": "train", "num_examples": 2, "cache_dir": cache_dir} | SMALL[name] | arguments)


def columns_of(data: Any) -> dict[str, Tensor]:
    rows = list(data)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def assert_same_rows(actual: Any, expected: Any) -> None:
    actual, expected = columns_of(actual), columns_of(expected)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", specs("tasks"))
def test_official_draw(case: str):
    """x and y of `sample` are those of the official code, drawn from the same generator."""
    official = specs("tasks")[case]["kwargs"]
    name = official["task"]
    known = TASKS[name].__dataclass_fields__
    options = {ours: official[theirs] for theirs, ours in OPTIONS.items() if theirs in official and ours in known}
    task = build_task(name, {"length": official["L"]} | options)
    generator = torch.Generator().manual_seed(specs("tasks")[case]["manual_seed"])
    for actual, field in zip(task.sample(official["batch_shape"], generator), ("x", "y"), strict=True):
        torch.testing.assert_close(actual, tensors("tasks")[case][field], rtol=0, atol=1e-6)


@by_atomic
@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3), (0,)], ids=str)
def test_shapes(name: str, batch_shape: tuple[int, ...]):
    """Inputs and targets have the announced shapes; steps without a label have NaN."""
    task = small_task(name)
    x, y = task.sample(batch_shape)
    assert x.shape == (*batch_shape, task.num_steps, task.input_size)
    assert y.shape == (*batch_shape, task.num_targets, task.num_labels)
    row = next(task.candidates(0, "train", 0))
    ignored = np.isnan(row["labels"])
    assert ignored[: task.num_steps - task.num_targets].all()
    assert not ignored[task.num_steps - task.num_targets :].any()


# What y is, said the slow way; x has no batch dimension.
MEANINGS: dict[str, Callable[[Tensor, int, int], float]] = {
    "cumsum": lambda x, t, c: float(x[: t + 1, 0].sum() / (t + 1) ** 0.5),
    "cummax": lambda x, t, c: float(x[: t + 1, 0].max()),
    "reverse": lambda x, t, c: float(x[23 - t, 0]),
    "sort": lambda x, t, c: float(x[sorted(range(24), key=lambda i: abs(x[i, 0] - x[0, 0]))[t], 0]),
    "shift": lambda x, t, c: float(x[t - 3 * c, 0]) if t >= 3 * c else 0.0,
    "masked_select": lambda x, t, c: float(x[x[:, 1] == 1][t, 0]),
    "mips": lambda x, t, c: float(x[max(range(t + 1), key=lambda j: float(x[t, :4] @ x[j, 4:8])), 8 + c]),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_meaning(name: str):
    """Every target is what the task describes."""
    x, y = small_task(name).sample((), torch.Generator().manual_seed(1))
    expected = [[MEANINGS[name](x, t, c) for c in range(y.shape[1])] for t in range(y.shape[0])]
    torch.testing.assert_close(y, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [3, 7, 8, 24, 63, 100])
@pytest.mark.parametrize("name", ["solve", "solve_fixed"])
def test_equations_hold(name: str, length: int):
    """For any length: A is orthogonal, A y = b, and the number of unknowns is the largest that fits."""
    task = build_task(name, {"length": length})
    x, y = task.sample((2,))
    N = task.num_targets
    rows = x[:, : N * (N + 1), 0].view(2, N, N + 1)
    A, b = rows[..., :N], rows[..., N:]
    torch.testing.assert_close(A @ A.mT, torch.eye(N).expand(2, N, N), rtol=0, atol=1e-5)
    torch.testing.assert_close(A @ y, b, rtol=0, atol=1e-5)
    assert N**2 + 2 * N <= length < (N + 1) ** 2 + 2 * (N + 1)


@pytest.mark.parametrize("case", LISTOPS["streams"])
def test_official_expressions(case: str):
    """The expressions and sub-tree values of the official generator."""
    stream = LISTOPS["streams"][case]
    drawn = ListOpsSubTrees(**stream["args"]).expressions(Random(stream["rng_seed"]))
    for source, target, *described in stream["samples"]:
        expression = next(drawn)
        assert " ".join(expression.tokens) == source.replace("( ", "").replace(" )", "").replace("]", "X")
        assert expression.value == target
        columns = ("values", "lengths", "heights", "operators", "ends")
        assert [" ".join(map(str, getattr(expression, column))) for column in columns] == described


OFFICIAL_SETS = {
    "SubTreeEvals": (ListOpsSubTrees, {"target": "value"}, [str(value) for value in range(10)]),
    "SubTreeHeights": (ListOpsSubTrees, {"target": "height"}, [str(value) for value in range(6)]),
    "SubTreeOps": (ListOpsSubTrees, {"target": "operator"}, list(OPERATORS)),
    "lra_listops": (ListOps, {}, list(range(10))),
}


@pytest.mark.parametrize("name", OFFICIAL_SETS)
def test_official_rows(name: str):
    """Tokens and classes are those of the official data sets, up to their numbering."""
    task_class, options, classes = OFFICIAL_SETS[name]
    official = LISTOPS["datasets"][name]
    lengths = {"min_length": 15, "max_length": 80, "max_depth": 5, "max_args": 5}
    if name != "lra_listops":
        lengths = {"min_length": 20, "max_length": 100, "max_depth": 6, "max_args": 5}
    task = task_class(**lengths, **options)
    seed = 1012 if name == "lra_listops" else 1011
    numbers = load_file(GOLDEN / "listops.safetensors")
    input_ids, labels = (numbers[f"{name}/{field}"].tolist() for field in ("input_ids", "labels"))
    for expression, ids, answers in zip(task.expressions(Random(seed)), input_ids, labels, strict=False):
        row = task.row(expression)
        count = row["attention_mask"].sum()
        assert [VOCABULARY[i] for i in row["input_ids"][:count]] == [official["vocabulary"][i] for i in ids if i != 0]
        assert (row["input_ids"][count:] == 0).all()
        if name == "lra_listops":
            assert row["labels"] == answers
        else:
            said = [None if i == -100 else official["vocabulary"][i] for i in answers[:count]]
            assert [None if i == -100 else classes[i] for i in row["labels"][:count]] == said
            assert (row["labels"][count:] == -100).all()


@pytest.mark.parametrize("name", ["listops", "listops_subtrees"])
def test_tokenizer_reads_expressions(name: str):
    """The saved tokenizer turns the symbols into the rows."""
    task = small_task(name)
    expression = next(task.expressions(Random(0)))
    count = int(task.row(expression)["attention_mask"].sum())
    assert task.tokenizer()(" ".join(expression.tokens)).input_ids == task.row(expression)["input_ids"][:count].tolist()


def test_values_of_expressions():
    """The value of an expression is that computed from its tokens."""
    task = small_task("listops")
    for _, expression in zip(range(50), task.expressions(Random(0)), strict=False):
        stack: list[list[Any]] = [[]]
        for token in expression.tokens:
            if token in OPERATORS:
                stack.append([token])
            elif token == CLOSE:
                operator, *values = stack.pop()
                stack[-1].append(OPERATORS[operator](values))
            else:
                stack[-1].append(int(token))
        assert stack == [[expression.value]]


@pytest.mark.parametrize("options", [FEW, FEW | {"max_depth": 3, "max_args": 3}], ids=["flat", "nested"])
def test_number_of_expressions(options: dict[str, int]):
    """The counted number of expressions, without digits, occurs in many draws, and no more."""
    task = ListOps(**options)
    seen = set()
    for _, expression in zip(range(20000), task.expressions(Random(0)), strict=False):
        seen.add(task.identity(task.row(expression)))
    assert len(seen) == task.count_templates(limit=float("inf"))


def test_depth_of_trees():
    """No tree is deeper than the maximum, and some have the maximum."""
    heights = [Expression(Random(i), max_depth=4, max_args=3).height for i in range(500)]
    assert max(heights) == 3


@by_task
def test_rows_depend_on_nothing_else(name: str, tmp_path: Path):
    """The number of examples and processes, and streaming, change no row; seed and split change all."""
    data = load_small(name, tmp_path / "a")
    assert len(data) == 2
    assert_same_rows(load_small(name, tmp_path / "b", num_examples=3).select(range(2)), data)
    assert_same_rows(load_small(name, None, streaming=True), data)
    for other in ({"seed": 1}, {"split": "validation"}, {"split": "test"}):
        different = columns_of(load_small(name, tmp_path / "c", **other))
        same = [
            torch.equal(values.nan_to_num(), different[key].nan_to_num()) for key, values in columns_of(data).items()
        ]
        assert not all(same)


@pytest.mark.parametrize("name", ["sort", "listops"])
def test_drawn_in_parallel(name: str, tmp_path: Path):
    """Two processes give the rows of one."""
    alone = load_small(name, tmp_path / "a", num_examples=50)
    assert_same_rows(load_small(name, tmp_path / "b", num_examples=50, num_proc=2), alone)


def test_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second call draws nothing; other options, splits and seeds draw again."""
    load_small("sort", tmp_path)
    monkeypatch.setattr("modeling_dlr.tasks.loading._first", lambda *arguments: 1 / 0)
    assert len(load_small("sort", tmp_path, num_proc=2)) == 2
    for other in ({"seed": 1}, {"split": "test"}, {"length": 23}, {"num_examples": 6}):
        with pytest.raises(ZeroDivisionError):
            load_small("sort", tmp_path, **other)


@pytest.mark.parametrize(("name", "rows"), [("shift", [2, 2, 1]), ("listops", [5])])
def test_written_by_bytes(name: str, rows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Few long rows are held in memory at a time; the name of the cache does not depend on that."""
    together = load_small(name, tmp_path, num_examples=5)
    monkeypatch.setattr("modeling_dlr.tasks.loading._BYTES_AT_ONCE", 8 * 2 * 24 * (3 + 8))
    assert load_small(name, tmp_path, num_examples=5).cache_files == together.cache_files
    apart = load_small(name, tmp_path / "apart", num_examples=5)
    assert_same_rows(apart, together)
    assert [len(chunk) for chunk in together.data.column(0).chunks] == [5]
    assert [len(chunk) for chunk in apart.data.column(0).chunks] == rows


@pytest.mark.slow
def test_workers_end_with_their_process(tmp_path: Path):
    """Worker processes end if the process that started them is killed."""
    arguments = f"'pathfinder', split='train', num_examples=10**6, num_proc=2, cache_dir={str(tmp_path)!r}"
    code = f"from modeling_dlr.tasks import load_task\nif __name__ == '__main__':\n    load_task({arguments})"
    (tmp_path / "drawing.py").write_text(code, encoding="utf-8")
    drawing = psutil.Popen([sys.executable, str(tmp_path / "drawing.py")], stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    while len(workers) < 2 and drawing.poll() is None:
        time.sleep(0.1)
        workers = drawing.children(recursive=True)
    drawing.kill()
    drawing.wait()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert not alive


def test_interrupted_drawing_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After an interruption nothing is cached, and the next call starts again."""
    draw = AtomicTask.sample

    def failing(self: AtomicTask, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, *arguments)

    calls: list[Any] = []
    monkeypatch.setattr(AtomicTask, "sample", failing)
    with pytest.raises(KeyboardInterrupt):
        load_small("sort", tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))
    assert len(load_small("sort", tmp_path)) == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # where there is one core
@pytest.mark.parametrize("name", ["cumsum", "listops"])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_stream_is_shared(name: str, num_workers: int, world_size: int):
    """Over workers and processes together, every example occurs once."""
    stream = load_small(name, None, streaming=True, num_examples=70)
    column = next(iter(stream.features))
    expected = columns_of(stream)[column]
    parts = [split_dataset_by_node(stream, rank, world_size) for rank in range(world_size)]
    rows = [row[column] for part in parts for row in DataLoader(part, batch_size=None, num_workers=num_workers)]
    assert len(rows) == 70
    assert {row.numpy().tobytes() for row in rows} == {row.numpy().tobytes() for row in expected}


def test_no_example_twice(tmp_path: Path):
    """No example occurs twice in a split or in two splits, and a number that is too large is refused."""
    seen = {
        split: [ListOps(**FEW).identity(row) for row in _cached(ListOps(**FEW), 0, split, 4, 1)] for split in SPLITS
    }
    together = [identity for split in SPLITS for identity in seen[split]]
    assert len(set(together)) == len(together) == 12
    with pytest.raises(ValueError, match="There are only 20 expressions"):
        load_task("listops", split="train", num_examples=21, cache_dir=tmp_path, **FEW)
    with pytest.raises(ValueError, match="1000 draws gave no example"):
        load_task("listops", split="train", num_examples=20, cache_dir=tmp_path, **FEW)
    assert not list(tmp_path.rglob("*.arrow"))


# The shortest of which several examples are drawn.
SHORTEST: dict[str, dict[str, int]] = {
    **{name: {"length": 3} for name in ATOMIC},
    "shift": {"length": 3, "num_shifts": 1},
    "masked_select": {"length": 1, "num_marked": 2},
    "masked_select_fixed": {"length": 1, "num_marked": 2},
    "solve": {"length": 8},
    "solve_fixed": {"length": 15},
    "context_shift": {"length": 5},
    "mips": {"length": 1},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [*SHORTEST.items(), ("mips", {"length": 16, "dim": 1}), ("masked_select", {"length": 1, "num_marked": 32})],
    ids=str,
)
def test_short_examples_differ(name: str, options: dict[str, int]):
    """Short examples that are accepted do not repeat among many."""
    task = build_task(name, options)
    task.check(100_000)
    x, _ = task.sample((100_000,))
    assert len(np.unique(x.flatten(1).numpy(), axis=0)) == 100_000


def test_stock_trainer_learns(tmp_path: Path):
    """The loss of a token classifier falls in the stock Trainer."""
    task = build_task("masked_select", {"length": 16, "num_marked": 4})
    data = load_task("masked_select", split="train", num_examples=32, cache_dir=tmp_path, length=16, num_marked=4)
    config = DLRConfig(
        input_size=task.input_size, num_labels=task.num_labels, problem_type="regression", hidden_size=16,
        num_hidden_layers=1, state_size=8,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=32, learning_rate=0.01, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(DLRForTokenClassification(config), arguments, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"name": "shfit"}, "unknown task 'shfit'; did you mean 'shift'"),
    "split": ({"split": "valid"}, "unknown split 'valid'; did you mean 'validation'"),
    "option": ({"lenght": 5}, "unknown option of shift 'lenght'; did you mean 'length'"),
    "type": ({"length": 5.0}, "length of shift .*int, got 5.0"),
    "choice": ({"name": "listops_subtrees", "target": "hight"}, "did you mean 'height'"),
    "length": ({"length": 0}, "Shift needs length >= 1, got 0"),
    "shifts": ({"length": 4}, "Shift needs 1 <= num_shifts <= length = 4, got 8"),
    "solve": ({"name": "solve", "length": 2}, "Solve needs length >= 3, got 2"),
    "context shift": ({"name": "context_shift", "length": 2}, "ContextShift needs length >= 3"),
    "repeated sums": (
        {"name": "cumsum", "length": 1},
        "CumSum: .*length=1 .*num_examples=2.*length >= 3",
    ),
    "repeated equations": ({"name": "solve", "length": 7}, "set length >= 8"),
    "repeated fixed equations": ({"name": "solve_fixed", "length": 14}, "set length >= 15"),
    "repeated shifts": ({"name": "context_shift", "length": 4}, "set length >= 5"),
    "repeated signs": ({"name": "mips", "dim": 1, "length": 2, "num_examples": 500}, "set length >= 16"),
    "repeated marks": ({"name": "masked_select", "num_marked": 1, "length": 1}, "set length >= 2"),
    "marks": ({"name": "masked_select", "num_marked": 0}, "num_marked >= 1, got 0"),
    "dim": ({"name": "mips", "dim": 0}, "MIPS needs dim >= 1, got 0"),
    "depth": ({"name": "listops", "max_depth": 1}, "max_depth >= 2"),
    "no expression": ({"name": "listops", "max_depth": 2}, "no expression of max_depth=2"),
    "examples": ({"num_examples": 0}, "num_examples must be an int >= 1, got 0"),
    "seed": ({"seed": -1}, "seed must be an int >= 0, got -1"),
    "processes": ({"num_proc": 0}, "num_proc must be an int >= 1, got 0"),
}


def test_one_kernel_solves_the_fixed_equations():
    """As docs/tasks.md says, the remaining part of the target is the same in every example."""
    task = build_task("solve_fixed", {"length": 512})
    x, y = task.sample((64,), torch.Generator().manual_seed(1))
    L, N = task.length, task.num_targets
    A = x[0, : N * (N + 1), 0].view(N, N + 1)[:, :N].double()
    kernel = torch.zeros(L, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            kernel[L - 2 * N + i - j * (N + 1)] = A[j, i]
    product = torch.fft.rfft(x[..., 0].double(), 2 * L) * torch.fft.rfft(kernel, 2 * L)
    left = torch.fft.irfft(product, 2 * L)[:, L - N : L] - y[..., 0]
    assert (left - left[0]).abs().max() < 1e-5 < y.std()


RARE = {"min_length": 3, "max_length": 5, "max_depth": 2, "max_args": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_depth": 4}, "none of 30,000 expressions of max_depth=4"), (RARE, "none belongs to the split train")],
    ids=["rare", "of other splits"],
)
def test_search_for_expressions_ends(options: dict[str, Any], message: str):
    """The search ends if expressions exist but are practically never drawn."""
    with pytest.raises(ValueError, match=message):
        next(build_task("listops", options).candidates(0, "train", 0))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, tmp_path: Path):
    """A wrong name is refused with the nearest name, before anything is drawn or written."""
    arguments, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is checked below, as it has brackets
        load_task(**{"name": "shift", "split": "train", "num_examples": 2, "cache_dir": tmp_path} | arguments)
    assert re.search(message, str(error.value))
    assert not list(tmp_path.iterdir())
