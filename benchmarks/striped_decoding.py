"""Measure one token through a block of Evo-1 at its full size, beside reading the weights of the block once.

    python benchmarks/striped_decoding.py --json     # every row; each is printed when it is done
    python benchmarks/striped_decoding.py --save     # also save to benchmarks/results/striped_decoding.json

A convolution block with random weights decodes tokens one after the other from its cache, one sequence at a time. No
step can be faster than the memory delivers the weights: that time is measured by one product of a vector with a float32
matrix of as many bytes. The two take turns; the medians are reported.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import RESULTS, milliseconds, paired_ratio, run_benchmark, take_turns
from striped_hyena import BLOCK_CHANNELS, build_model
from transformers import DynamicCache

_TOKENS = 8


class Row(NamedTuple):
    """The type of the weights."""

    dtype: str


ROWS = [Row("bfloat16"), Row("float32")]


@torch.inference_mode()
def measure(row: Row, channels: int = BLOCK_CHANNELS) -> dict[str, Any]:
    """Measure milliseconds per token, and per reading of the weights; ``channels`` is the hidden size."""
    model = build_model(row.dtype, channels)
    block, cache = model.blocks[0], DynamicCache(config=model.config)
    size = sum(parameter.numel() * parameter.element_size() for parameter in block.parameters())
    as_many, vector = torch.ones(size // (4 * channels), channels), torch.ones(channels)
    x = torch.randn(1, 1, channels, dtype=getattr(torch, row.dtype))

    def seconds_of(run: Callable[[], object]) -> Callable[[], float]:
        def seconds() -> float:
            began = time.perf_counter()
            for _ in range(_TOKENS):
                run()
            return (time.perf_counter() - began) / _TOKENS

        return seconds

    runs = {"token": lambda: block(x, cache=cache), "reading": lambda: as_many @ vector}
    times = take_turns({name: seconds_of(run) for name, run in runs.items()})
    return {
        "weights_mb": round(size / 2**20, 1),
        "token_ms": milliseconds(times["token"]),
        "reading_ms": milliseconds(times["reading"]),
        "token/reading": paired_ratio(times["token"], times["reading"]),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "striped_decoding.json", ROWS, measure)
