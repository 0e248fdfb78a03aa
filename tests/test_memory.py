"""What `modeling-dlr plan` says: the bytes that autograd keeps, the peaks that are measured, and how they divide."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import plan as benchmark
import pytest
import render
import torch
from measure import load, machine
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from modeling_dlr import DLRConfig
from modeling_dlr.cli import app
from modeling_dlr.memory import BYTES, Pass, activations, head_bytes, kernel_bytes, saved_per_step
from modeling_dlr.plans import find_config, fitting, model_class, parameter_bytes, plans, usual_head

B, L, H = 2, 512, 16


def built(layers: int, head: str = "language", dtype: str = "float32", **fields: Any) -> Any:
    torch.manual_seed(0)
    kind = fields.pop("layer_type", None)
    types = {} if kind is None else {"layer_types": [kind] * layers}
    sizes = {"hidden_size": H, "num_hidden_layers": layers, "state_size": 8, "vocab_size": 16, "bidirectional": True}
    config = DLRConfig(**sizes | types | fields)
    return model_class(config, head)(config).to(getattr(torch, dtype)).train()


def loss_of(model: Any, head: str, batch: int = B, length: int = L) -> torch.Tensor:
    tokens = torch.randint(5, 16, (batch, length))
    labels = {"language": tokens, "pooled": tokens[:, 0] % 2, "steps": tokens % 2}[head]
    return model(input_ids=tokens, labels=labels).loss


def kept_bytes(model: Any, head: str = "language") -> int:
    """What autograd keeps of a forward pass, beside parameters; every storage once."""
    own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, head)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return size


GATED = {"num_kernel_channels": 2, "channel_gate_act": "sigmoid"}
FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"bidirectional": False},
    "scalar": {"norm_type": "scalar_layer"},
    "batch": {"norm_type": "batch"},
    "post": {"norm_position": "post"},
    "glu": {"output_gate": "glu"},
    "geglu": {"output_gate": "geglu"},
    "dropout": {"hidden_dropout_prob": 0.1},
    "channel dropout": {"hidden_dropout_prob": 0.1, "dropout_type": "channel"},
    "channels": {"num_kernel_channels": 2},
    "gates": GATED,
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "no activation": {"hidden_act": None},
    "decay": {"residual_type": "decay"},
    "dss": {"kernel_parameters": {"kernel_type": "dss"}},
    "s4d": {"kernel_parameters": {"kernel_type": "s4d"}},
    "sgconv": {"kernel_parameters": {"kernel_type": "sgconv"}},
    "short kernel": {"kernel_parameters": {"max_length": 100}},
    "full attention": {"layer_type": "full_attention"},
    "local attention": {"layer_type": "local_attention", "attention_window": 64},
    "feed forward": {"layer_type": "full_attention", "attention_ff_ratio": 2},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_layer_keeps_what_is_said(name: str, dtype: str):
    """The third layer adds as many bytes as its formula, up to what does not grow with the steps."""
    three, two = (built(layers, dtype=dtype, **FIELDS[name]) for layers in (3, 2))
    work = Pass(B, L, dtype=dtype)
    kind = three.config.layer_types[0]
    said = saved_per_step(three.config, kind, work) * B * L + kernel_bytes(three.config, kind, work)
    assert said == pytest.approx(kept_bytes(three) - kept_bytes(two), rel=0.03 if dtype == "bfloat16" else 0.02)


class Peak(TorchDispatchMode):
    """The most bytes of tensors that operations made and that are alive."""

    def __init__(self, model: Any):
        super().__init__()
        self.own = {each.untyped_storage()._cdata for each in [*model.parameters(), *model.buffers()]}
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place = storage._cdata
                if place not in self.alive and place not in self.own:
                    self.alive[place] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, place, None)
        self.most = max(self.most, sum(self.alive.values()))
        return found


PEAKS = [
    ("language", False, {}),
    ("language", True, {}),
    ("pooled", False, {"bidirectional": False}),
    ("steps", False, {"output_gate": "glu", "hidden_dropout_prob": 0.1}),
    ("language", False, {"vocab_size": 700}),
    ("language", True, GATED | {"norm_type": "batch"}),
    ("pooled", True, {"layer_type": "local_attention", "attention_window": 64}),
]


@pytest.mark.parametrize(("head", "checkpointing", "fields"), PEAKS)
def test_peaks(head: str, checkpointing: bool, fields: dict[str, Any]):
    """Of tensors that are alive at once, forward and backward, within 15 %."""
    model = built(4, head, hidden_size=64, **fields)
    if checkpointing:
        model.activation_checkpointing_enable()
    loss_of(model, head, 4, 8).backward()
    gc.collect()
    with Peak(model) as peak:
        loss_of(model, head, 4, 2048).backward()
    said = activations(model.config, Pass(4, 2048, checkpointing=checkpointing, head=head))
    assert said.peak == pytest.approx(peak.most, rel=0.15)


@pytest.mark.parametrize("head", ["language", "steps", "pooled"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters(head: str, dtype: str):
    """All of them, without making one: kernels stay in float32."""
    model = built(3, head, dtype)
    size = sum(each.numel() * each.element_size() for each in model.parameters())
    assert parameter_bytes(model.config, Pass(B, L, dtype=dtype, head=head))[0] == size


def test_how_it_divides():
    """Batches divide activations, shards parameters too, steps the activations of one sequence."""
    config = DLRConfig(hidden_size=64, num_hidden_layers=4)
    alone, batches, shards, steps, both = plans(config, Pass(8, 4096), 4)[:5]
    few = activations(config, Pass(2, 4096))
    assert (alone.work.batch, batches.work.batch, steps.work.batch) == (8, 2, 8)
    assert batches.activations == shards.activations == few.peak
    assert shards.optimizer == both.optimizer == alone.optimizer / 4
    assert alone.gathered == steps.gathered == 0 < shards.gathered
    one = plans(config, Pass(1, 4096), 4)
    assert one[1].activations == one[0].activations > 2 * one[3].activations
    assert [plan.work.checkpointing for plan in one] == [False] * 5 + [True] * 5
    assert len(plans(config, Pass(1, 4096, training=False), 4)) == 5
    assert fitting(one, one[3].total).way == "steps"
    assert fitting(one, 1) is None


def test_a_gpu_transforms_all_channels_at_once():
    config = DLRConfig(hidden_size=64, num_hidden_layers=1)
    on = {device: activations(config, Pass(1, 2**16, device=device)).peak for device in ("cpu", "cuda")}
    assert on["cuda"] > 1.1 * on["cpu"]


def test_numbers_have_sizes():
    assert {name: torch.finfo(getattr(torch, name)).bits // 8 for name in BYTES} == BYTES


def test_results_are_within_the_goal():
    """Every measured row, and the formulas as they are now give what the file says."""
    lines = load(benchmark.RESULTS / "plan.json")
    assert len(lines) >= 12
    for line in lines:
        row = benchmark.Row(**{name: line[name] for name in benchmark.Row._fields})
        assert line["ratio"] == pytest.approx(1, abs=0.15), row
        assert benchmark.computed(row) / 2**20 == pytest.approx(line["computed_mb"], rel=0.01), row


def test_results_fill_the_table():
    row = benchmark.ROWS[0]
    line = row._asdict() | {"peak_mb": 2.0, "computed_mb": 1.9, "ratio": 0.95} | machine()
    assert "95%" in render.render_table("plan", [line])


@pytest.mark.slow
@pytest.mark.parametrize("place", [1, 2, 9, 11])
def test_measured_again(place: int):
    """The memory of a process, as the operating system counts it."""
    assert benchmark.measure(benchmark.ROWS[place])["ratio"] == pytest.approx(1, abs=0.15)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"TERM": "dumb", "COLUMNS": "200"})


def test_command():
    """Both tables, and the first way that fits."""
    result = run("dlr-tiny", "--length", 65536, "--batch", 8, "--devices", 4, "--memory", 4)
    assert result.exit_code == 0, result.output
    assert result.output.count("| steps, parameters in shards |") == 3
    assert "fits 4 GB" in result.output
    assert "Nothing fits" in run("dlr-tiny", "--length", 65536, "--memory", 0.001).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlr-tinny", "--length", 8], "dlr-tinny"),
        (["dlr-audio-16k", "--length", 8, "--head", "language"], "another head"),
        (["dlr-tiny", "--length", 0], "length"),
    ],
)
def test_mistakes(arguments: list[object], said: str):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_configurations_and_heads(tmp_path: Any):
    """By name, folder or file; the head is that of the saved model, or the usual one."""
    model = built(1, "steps")
    model.save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "config.json"):
        assert find_config(str(name)).hidden_size == H
        assert usual_head(find_config(str(name))) == "steps"
    assert usual_head(find_config("dlr-tiny")) == "language"
    assert usual_head(find_config("dlr-audio-16k")) == "pooled"
    assert head_bytes(model.config, Pass(1, 8, training=False, head="pooled")) == 0
