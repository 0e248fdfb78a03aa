"""The comparison of mixers with gates: both recurrences, the models, the runs and the verdict."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gates
import pytest
import rates
import torch
from tolerances import assert_close
from torch import Tensor


def linear_by_steps(q: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ, one step after another."""
    S, outputs = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        f = log_f[:, :, t, :, None].exp()
        S = f * S + (1 - f) * v[:, :, t, None, :]
        outputs.append(torch.einsum("bhde,bhd->bhe", S, q[:, :, t]))
    return torch.stack(outputs, dim=2)


def delta_by_steps(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, beta: Tensor) -> Tensor:
    """S_t = f_t (1 - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, one step after another."""
    S, outputs = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        key, f, b = k[:, :, t, :, None], log_f[:, :, t, None, None].exp(), beta[:, :, t, None, None]
        S = f * (S - b * key @ (key.transpose(-1, -2) @ S)) + b * key * v[:, :, t, None, :]
        outputs.append(torch.einsum("bhde,bhd->bhe", S, q[:, :, t]))
    return torch.stack(outputs, dim=2)


def operands(name: str, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Two sequences of three heads, with forget gates from the smallest one to almost 1."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, size, generator=generator, dtype=torch.float64) for size in (5, 5, 7))
    if name == "gated_linear":
        log_f = torch.rand(q.shape, generator=generator, dtype=torch.float64).pow(4) * torch.tensor(gates.LEAST).log()
        return [each.to(dtype) for each in (q, v, log_f)]
    log_f, beta = torch.rand(2, 2, 3, length, generator=generator, dtype=torch.float64)
    log_f = -10 * log_f.pow(4)
    return [each.to(dtype) for each in (q, torch.nn.functional.normalize(k, dim=-1), v, log_f, beta)]


STEPS: dict[str, Callable[..., Tensor]] = {"gated_linear": linear_by_steps, "gated_delta": delta_by_steps}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 16, 63])
@pytest.mark.parametrize("name", STEPS)
def test_chunks_are_the_recurrence(name: str, length: int, dtype: torch.dtype):
    """Values and gradients of the form in chunks are those of a float64 loop over the steps."""
    given = [each.requires_grad_() for each in operands(name, length, dtype)]
    exact = [each.detach().double().requires_grad_() for each in given]
    y, expected = getattr(gates, name)(*given), STEPS[name](*exact)
    assert_close(y, expected, dtype)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((y * weights.to(dtype)).sum(), given)
    for gradient, right in zip(found, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        assert_close(gradient, right, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("model", gates.MODELS)
def test_models(model: str):
    """All models have about as many parameters, and read the past only; gates remember at first."""
    examples = {"input_values": torch.randn(2, 37, 14), "labels": torch.randn(2, 37, 4)}
    network = gates.build(model, examples).eval()
    assert 45_000 < sum(each.numel() for each in network.parameters()) < 55_000
    x = examples["input_values"]
    logits = network(input_values=x, use_cache=False).logits
    changed = torch.cat([x[:, :20], torch.randn(2, 17, 14)], dim=1)
    torch.testing.assert_close(network(input_values=changed, use_cache=False).logits[:, :20], logits[:, :20])
    mixer = network.base_model.layers[-1].mixer
    if isinstance(mixer, gates.GatedMixer):
        f = mixer.f_proj(torch.randn(99, gates.HIDDEN_SIZE)).sigmoid()
        assert f.mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("problem", gates.PROBLEMS)
def test_runs(problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run is JSON that ends in its score; those of other seeds take the better rate of the first seed."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(gates, "VALIDATION", 9)
    row = gates.Row(problem, "DLR + gated delta", 1, rates.BETTER)
    with pytest.raises(ValueError, match="seed 0"):
        gates.measure(row, 5, [])
    lines = [row._asdict() | {"seed": 0, "rate": rate, "score": -rate} for rate in rates.RATES]
    found = gates.measure(row, 5, lines)
    assert json.loads(json.dumps(found))["curve"][-1] == [5, found["score"]]
    assert found["learning_rate"] == min(rates.RATES)


def lines_of(scores: dict[str, float], problems: list[str]) -> list[dict[str, Any]]:
    """All rows, where the models named gain these scores on these problems, and the others 0.1."""
    return [
        row._asdict() | {"score": scores.get(row.model, 0.1) if row.problem in problems else 0.1, "cpu_seconds": 9}
        for row in gates.ROWS
    ]


HYBRID, SHIFTS = gates.HYBRIDS[1], ["context_shift, L = 32", "context_shift, L = 64"]
# The score of a hybrid on some problems, and whether it is worth building.
VERDICTS = [
    (0.5, ["mips", *SHIFTS], "is worth building"),
    (0.29, ["mips", *SHIFTS], "is not worth building"),
    (0.5, SHIFTS, "is not worth building"),
    (0.5, ["mips", SHIFTS[0]], "is not worth building"),
    (0.5, list(gates.PROBLEMS), "is worth building"),
]


@pytest.mark.parametrize(("score", "problems", "words"), VERDICTS)
def test_verdict(score: float, problems: list[str], words: str):
    """A gain of more than 0.2 on two of three tasks decides, once all runs are done."""
    lines = lines_of({HYBRID: score}, problems)
    assert gates.verdict(lines).endswith(f"{words}.")
    assert "Undecided" in gates.verdict(lines[1:])


def test_table(tmp_path: Path):
    """Means over seeds, of the better rate of the first one; nothing without results."""
    assert gates.table(tmp_path) == ""
    lines = lines_of({}, [])
    for line, score in zip([each for each in lines if each["model"] == "DLR"], itertools.count(), strict=False):
        line["score"] = float(score)
    (tmp_path / "gates.json").write_text(json.dumps(lines), encoding="utf-8")
    assert "| mips | 0.100 (0.100-0.100, 3 seeds) |" in gates.table(tmp_path)
    assert "6.000 (1.000-9.000, 3 seeds)" in gates.table(tmp_path)
