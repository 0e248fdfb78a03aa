"""Print the way of a batch through the code: every function of `modeling_dlr` that a call enters, as a tree.

    python benchmarks/call_tree.py

Two calls are traced: a training forward of a classifier with labels and padding, loss included, and a later token of a
causal language model with its cache. A function is shown below its caller, in the order of the calls. A function that
is called from several places is shown with what it calls once, and as "(above)" after that. Lambdas and comprehensions
are not shown. A function that another library calls, such as `forward`, is shown below the last function of
`modeling_dlr` before it.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

import modeling_dlr
from modeling_dlr import DLRConfig, DLRForCausalLM, DLRForSequenceClassification

PACKAGE = Path(modeling_dlr.__file__).resolve().parent


class Function(NamedTuple):
    """A function or method of the package."""

    file: str
    name: str


class Aim(NamedTuple):
    """How many files and functions a call may enter."""

    files: int
    functions: int


# The root of a trace, which stands for the code that makes the call.
CALLER = Function("", "")
Trace = dict[Function, dict[Function, None]]


def function_of(code: CodeType) -> Function | None:
    """The function of the package that this code belongs to; None for other code, lambdas and comprehensions."""
    file = Path(code.co_filename)
    if not file.is_relative_to(PACKAGE) or code.co_name.startswith("<"):
        return None
    return Function(file.relative_to(PACKAGE).as_posix(), code.co_qualname)


def trace(call: Callable[[], object]) -> Trace:
    """Run a call, and return the functions that it enters: each with those that it calls, in the order of the calls."""
    calls: Trace = {CALLER: {}}
    stack = [CALLER]

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "return") and (function := function_of(frame.f_code)):
            if event == "return":
                stack.pop()
                return
            calls[stack[-1]][function] = None
            calls.setdefault(function, {})
            stack.append(function)

    sys.setprofile(on_event)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls


def tree(calls: Trace) -> Iterator[str]:
    """The lines of a trace: file and function, indented below the caller."""
    shown: set[Function] = set()

    def below(caller: Function, depth: int) -> Iterator[str]:
        for function in calls[caller]:
            again = function in shown and bool(calls[function])
            yield f"{'  ' * depth}{function.file}: {function.name}{' (above)' if again else ''}"
            if function not in shown:
                shown.add(function)
                yield from below(function, depth + 1)

    yield from below(CALLER, 0)


def counts(calls: Trace) -> Aim:
    """The number of distinct files and functions of a trace."""
    functions = calls.keys() - {CALLER}
    return Aim(len({function.file for function in functions}), len(functions))


def classification_step() -> Callable[[], object]:
    """The forward of a classifier of one layer in its second training step, with labels and padding."""
    config = DLRConfig(num_hidden_layers=1, id2label={0: "no", 1: "maybe", 2: "yes"}, pad_token_id=0)
    model = DLRForSequenceClassification(config).train()
    input_ids = torch.randint(1, 256, (2, 9))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0

    def forward() -> Any:
        return model(input_ids=input_ids, attention_mask=attention_mask, labels=torch.tensor([0, 2]))

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    forward().loss.backward()
    optimizer.step()
    return forward


def later_token() -> Callable[[], object]:
    """A token of a causal language model of one layer, after a prompt and one more token."""
    model = DLRForCausalLM(DLRConfig(num_hidden_layers=1)).eval()
    input_ids = torch.randint(1, 256, (1, 9))

    @torch.no_grad()
    def step(cache: Any, token: torch.Tensor) -> Any:
        return model(input_ids=token, cache=cache, use_cache=True).cache

    cache = step(step(None, input_ids), input_ids[:, :1])
    return lambda: step(cache, input_ids[:, 1:2])


CALLS = {
    "a training forward of DLRForSequenceClassification": (classification_step, Aim(files=9, functions=60)),
    "a later token of DLRForCausalLM": (later_token, Aim(files=7, functions=30)),
}


def main() -> None:
    """Print every trace, and its counts beside the aim."""
    for title, (prepare, aim) in CALLS.items():
        calls = trace(prepare())
        files, functions = counts(calls)
        print(f"# {title}: {files} files (aim {aim.files}), {functions} functions (aim {aim.functions})\n")
        print(*tree(calls), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
