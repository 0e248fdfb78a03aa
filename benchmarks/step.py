"""Compare whole training steps, and inference, of byte classifiers of equal size.

    python benchmarks/step.py --json              # every row; each is printed when it is done
    python benchmarks/step.py --save              # also save to benchmarks/results/step.json; resumes if stopped

B sequences of L bytes, 128 channels, four layers, both directions except Mamba-2, and as many parameters as DLR with
256 poles, except DLR with 1024 and DSS. A training step is forward, backward and AdamW; inference is forward with fixed
weights. The models take turns in one process that keeps freed memory (`modeling_dlr.launch.keep_memory`). Memory is the
peak growth of a process of its own that does one pass.

    python benchmarks/step.py --memory cnn 8 1024 training
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measure import RESULTS, milliseconds, paired_ratio, run_benchmark, take_turns
from memory import peak_during
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2Model, ModernBertConfig, ModernBertForSequenceClassification

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.launch import keep_memory

VOCAB, H, LAYERS, TAPS = 260, 128, 4, 9
LABELS: dict[str, Any] = {"num_labels": 2}
TRAINING, INFERENCE = MODES = ("training", "inference")
# More steps than Mamba-2 in plain PyTorch takes within minutes and 24 GB.
MOST_STEPS_OF_MAMBA = 4096


class Row(NamedTuple):
    """B sequences of L steps."""

    B: int
    L: int
    mode: str


ROWS = [Row(B, L, mode) for B, L in ((8, 1024), (4, 4096), (1, 16384)) for mode in MODES]


class CNN(nn.Module):
    """A convolution of 9 taps, and GELU: [B, L, H] to [B, L, H]."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.conv = nn.Conv1d(hidden_size, hidden_size, TAPS, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        """Of the steps around each step."""
        return nn.functional.gelu(self.conv(x.mT).mT)


class LSTM(nn.Module):
    """An LSTM in both directions, and a projection: [B, L, H] to [B, L, H]."""

    def __init__(self, hidden_size: int):
        super().__init__()
        per_direction = 39 * hidden_size // 64  # for the number of parameters
        self.lstm = nn.LSTM(hidden_size, per_direction, batch_first=True, bidirectional=True)
        self.out_proj = nn.Linear(2 * per_direction, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Of all steps."""
        return self.out_proj(self.lstm(x)[0])


class Classifier(nn.Module):
    """Embedding, layers of norm, mixer and residual, and the mean over the steps."""

    def __init__(self, mixer: Callable[[int], nn.Module], hidden_size: int):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, hidden_size)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(LAYERS + 1))
        self.mixers = nn.ModuleList(mixer(hidden_size) for _ in range(LAYERS))
        self.classifier = nn.Linear(hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L] to [B, 2]."""
        x = self.embed(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=False):
            x = x + mixer(norm(x))
        return self.classifier(self.norms[-1](x).mean(1))


class Mamba2(nn.Module):
    """Mamba-2 of transformers in plain PyTorch, in one direction, and the mean over the steps."""

    def __init__(self, hidden_size: int):
        super().__init__()
        sizes: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_heads": 4,
            "head_dim": hidden_size // 2,
            "state_size": hidden_size,
        }
        config = Mamba2Config(vocab_size=VOCAB, num_hidden_layers=LAYERS, n_groups=1, use_cache=False, **sizes)
        self.body, self.classifier = Mamba2Model(config), nn.Linear(hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L] to [B, 2]."""
        return self.classifier(self.body(tokens).last_hidden_state.mean(1))


class Ours(nn.Module):
    """The model of this library, which returns only the logits; ModernBERT likewise."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L] to [B, 2]."""
        return self.model(input_ids=tokens).logits


def ours(hidden_size: int, poles: int, *, layers: int = LAYERS, **kernel_parameters: Any) -> nn.Module:
    """A classifier of this library."""
    return Ours(
        DLRForSequenceClassification(
            DLRConfig(
                vocab_size=VOCAB,
                hidden_size=hidden_size,
                num_hidden_layers=layers,
                state_size=poles,
                bidirectional=True,
                kernel_parameters=kernel_parameters,
                **LABELS,
            )
        )
    )


def modernbert(hidden_size: int) -> nn.Module:
    """Attention to 128 steps around each step, and in every third layer to all steps."""
    sizes: dict[str, Any] = {"num_attention_heads": 4, "intermediate_size": 7 * hidden_size // 4} | LABELS
    special: dict[str, Any] = dict.fromkeys((f"{name}_token_id" for name in ("pad", "bos", "cls", "eos", "sep")), 0)
    longest = max(row.L for row in ROWS)
    config = ModernBertConfig(
        vocab_size=VOCAB,
        hidden_size=hidden_size,
        num_hidden_layers=LAYERS,
        max_position_embeddings=longest,
        **sizes,
        **special,
    )
    return Ours(ModernBertForSequenceClassification(config))


# As in the official DLR repository.
DSS = {"kernel_type": "dss", "pole_init": "lin", "time_step_max": 1e-2}
BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "dlr_256": lambda width: ours(width, 256),
    "dlr_1024": lambda width: ours(width, 1024),
    "dss_64": lambda width: ours(width, 64, **DSS),
    "modernbert": modernbert,
    "lstm": lambda width: Classifier(LSTM, width),
    "cnn": lambda width: Classifier(CNN, width),
    "mamba2": Mamba2,
}


def parameters(model: nn.Module) -> int:
    """Their number, without the embedding of tokens."""
    return sum(part.numel() for part in model.parameters()) - VOCAB * H


def passes(name: str, row: Row, hidden_size: int = H) -> Callable[[], float]:
    """A function that does one pass of a model of this name and returns its seconds."""
    torch.manual_seed(0)
    return passes_of(BUILDERS[name](hidden_size), row)


def passes_of(model: nn.Module, row: Row) -> Callable[[], float]:
    """A function that does one pass and returns its seconds."""
    model.train(row.mode == TRAINING)
    tokens, labels = torch.randint(1, 256, (row.B, row.L)), torch.randint(0, 2, (row.B,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def run() -> float:
        started = time.perf_counter()
        if row.mode == INFERENCE:
            with torch.inference_mode():
                model(tokens)
        else:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens), labels).backward()
            optimizer.step()
        return time.perf_counter() - started

    return run


def peak_megabytes(name: str, row: Row) -> float:
    """The peak megabytes of one pass in a new process."""
    command = [sys.executable, __file__, "--memory", name, *map(str, row)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(row: Row, hidden_size: int = H) -> dict[str, Any]:
    """Measure milliseconds and megabytes of each, and the ratio of the first of ours to the CNN."""
    names = [name for name in BUILDERS if name != "mamba2" or row.L <= MOST_STEPS_OF_MAMBA]
    seconds = take_turns({name: passes(name, row, hidden_size) for name in names})
    times = {f"{name}_ms": milliseconds(each) for name, each in seconds.items()}
    memory = {f"{name}_mb": round(peak_megabytes(name, row), 1) for name in names}
    ratio = paired_ratio(seconds["dlr_256"], seconds["cnn"])
    return times | memory | {"dlr_256/cnn": ratio, "rounds": len(seconds["cnn"])}


def main(name: str, B: str, L: str, mode: str) -> None:
    """Print the peak megabytes of one pass, after a small one."""
    torch.set_num_threads(2)
    row = Row(int(B), int(L), mode)
    passes(name, row._replace(B=1, L=64))()
    run = passes(name, row)
    print(peak_during(run))


if __name__ == "__main__":
    keep_memory()
    if sys.argv[1:2] == ["--memory"]:
        main(*sys.argv[2:])
    else:
        run_benchmark(__doc__, RESULTS / "step.json", ROWS, measure)
