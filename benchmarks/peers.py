"""Compare the time of one layer with causal attention and the LSTM.

    python benchmarks/peers.py --json             # every row; each is printed when it is done
    python benchmarks/peers.py --save             # also save to benchmarks/results/peers.json; resumes if stopped

One sequence, 128 channels. Our mixers of DLR (1024 poles) and DSS (64), attention with 4 heads and its four
projections, and `nn.LSTM` take turns in one process. A ratio above 1 means that the peer takes that many times as long.
The layers differ in what they can learn: this compares the cost of layers, not of equally good models.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import (
    BOTH,
    FORWARD,
    MODES,
    RESULTS,
    build_mixer,
    milliseconds,
    paired_ratio,
    run_benchmark,
    seconds_of_pass,
    take_turns,
)
from torch import Tensor, nn
from torch.nn import functional

HIDDEN_SIZE = 128
OURS = ("dlr", "dss")
PEERS = ("attention", "lstm")


class Row(NamedTuple):
    """A sequence of L steps, forward or forward and backward."""

    L: int
    mode: str


ROWS = [Row(L, mode) for L in (1024, 2048, 4096, 8192, 16384) for mode in MODES] + [Row(65536, FORWARD)]


class Attention(nn.Module):
    """Causal scaled-dot-product attention with projections of queries, keys, values and outputs."""

    def __init__(self, hidden_size: int, num_heads: int = 4):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        q, k, v = (
            self.in_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )  # [B, heads, L, H/heads]
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class LSTM(nn.LSTM):
    """`nn.LSTM` that returns only its outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        return super().forward(x)[0]


def measure(row: Row, hidden_size: int = HIDDEN_SIZE, state_sizes: tuple[int, int] = (1024, 64)) -> dict[str, Any]:
    """Measure milliseconds of each, and the ratio of each peer to each of ours."""
    torch.manual_seed(0)
    H, (dlr_poles, dss_poles) = hidden_size, state_sizes
    layers = {
        "dlr": build_mixer(H, dlr_poles, kernel_type="dlr"),
        "dss": build_mixer(H, dss_poles, kernel_type="dss", pole_init="lin", time_step_max=1e-2),
        "attention": Attention(H),
        "lstm": LSTM(H, H, batch_first=True),
    }
    u = torch.randn(1, row.L, H, requires_grad=row.mode == BOTH)

    def turn(layer: nn.Module) -> Callable[[], float]:
        return lambda: seconds_of_pass(lambda: layer(u), [u, *layer.parameters()], row.mode)

    seconds = take_turns({name: turn(layer) for name, layer in layers.items()})
    ratios = {f"{peer}/{mine}": paired_ratio(seconds[peer], seconds[mine]) for mine in OURS for peer in PEERS}
    times = {f"{name}_ms": milliseconds(each) for name, each in seconds.items()}
    return times | ratios | {"rounds": len(seconds["dlr"])}


if __name__ == "__main__":
    run_benchmark(__doc__, RESULTS / "peers.json", ROWS, measure)
