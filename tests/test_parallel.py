"""Parallelism that cuts sequences is refused on every way that it comes, while it is on."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import ParallelismConfig
from tiny import EXAMPLES, tiny_config
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import (
    _disable_context_parallel_dispatcher,
    _enable_context_parallel_dispatcher,
)

from modeling_dlr import DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES

IDS = torch.ones(2, 8, dtype=torch.long)
REFUSAL = r"{} gives each process a part of every sequence, .*sp_size=1 and cp_size=1"


@pytest.fixture
def model() -> DLRModel:
    return DLRModel(tiny_config()).eval()


@pytest.fixture
def two_processes() -> Iterator[DeviceMesh]:
    """The mesh of this process and of another one that is not there."""
    distributed.init_process_group("fake", rank=0, world_size=2)
    try:
        yield init_device_mesh("cpu", (2,))
    finally:
        distributed.destroy_process_group()


def use(monkeypatch: pytest.MonkeyPatch, **sizes: int) -> None:
    """What an Accelerator with these sizes leaves in the process."""
    config = ParallelismConfig(**sizes)
    monkeypatch.setitem(AcceleratorState._shared_state, "parallelism_config", config)


@pytest.mark.parametrize("size", ["sp_size", "cp_size"])
@pytest.mark.parametrize("auto_class", EXAMPLES)
def test_accelerate(auto_class: str, size: str, monkeypatch: pytest.MonkeyPatch):
    """Every model refuses the sizes of Accelerate, which looks for recurrent layers by another name."""
    example = EXAMPLES[auto_class]
    model = AUTO_CLASSES[auto_class](tiny_config(**example.fields)).eval()
    inputs = example.inputs(model.config, 2, 7)
    use(monkeypatch, **{size: 2})
    with pytest.raises(ValueError, match=REFUSAL.format("Accelerate's ParallelismConfig")):
        model(**inputs)
    use(monkeypatch, tp_size=2, dp_shard_size=2)
    model(**inputs)


@pytest.mark.parametrize("size", ["sp_size", "cp_size"])
def test_ready_for_accelerate(size: str, model: DLRModel, monkeypatch: pytest.MonkeyPatch):
    """A model that splits sequences over as many processes accepts the sizes; others are refused."""
    model.sequence_parts = 2
    use(monkeypatch, **{size: 2})
    model(IDS)
    use(monkeypatch, **{size: 4})
    with pytest.raises(ValueError, match=REFUSAL.format("Accelerate's ParallelismConfig")):
        model(IDS)


def test_attention_layers(monkeypatch: pytest.MonkeyPatch):
    """Layers of attention alone are refused, too: their positions are counted from the start of what they are given."""
    model = DLRModel(tiny_config(hidden_size=8, layer_types=["full_attention"] * 2)).eval()
    assert not model.supports_context_parallel
    use(monkeypatch, cp_size=2)
    with pytest.raises(ValueError, match=REFUSAL.format("Accelerate's ParallelismConfig")):
        model(IDS)


def test_compiled(model: DLRModel, monkeypatch: pytest.MonkeyPatch):
    """So does a program that is compiled under it, in one graph."""
    use(monkeypatch, sp_size=2)
    with pytest.raises(Exception, match="Accelerate's ParallelismConfig"):
        torch.compile(model, backend="eager", fullgraph=True)(IDS)


GROUPS = {"engine": (SimpleNamespace(), None), "mesh": (None, SimpleNamespace())}


@pytest.mark.parametrize(("mpu", "mesh"), GROUPS.values(), ids=GROUPS)
def test_deepspeed(mpu: object, mesh: object, model: DLRModel, monkeypatch: pytest.MonkeyPatch):
    """DeepSpeed's groups are asked where it has made any."""
    groups = SimpleNamespace(mpu=mpu, mesh_device=mesh, _get_sequence_parallel_world_size=lambda: 2)
    monkeypatch.setitem(sys.modules, "deepspeed.utils.groups", groups)
    with pytest.raises(ValueError, match=REFUSAL.format(r"DeepSpeed's sequence parallelism \(Ulysses\)")):
        model(IDS)
    groups._get_sequence_parallel_world_size = lambda: 1
    model(IDS)
    groups.mpu = groups.mesh_device = None
    groups._get_sequence_parallel_world_size = lambda: pytest.fail("DeepSpeed has not begun")
    model(IDS)


def test_ulysses_without_an_engine(model: DLRModel, monkeypatch: pytest.MonkeyPatch):
    """So are those that Ulysses makes by itself."""
    made = SimpleNamespace(_SEQUENCE_PARALLEL_GROUP=None)
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.sequence_parallel.parallel_state_sp", made)
    model(IDS)
    made._SEQUENCE_PARALLEL_GROUP = object()
    with pytest.raises(ValueError, match=REFUSAL.format(r"DeepSpeed's sequence parallelism \(Ulysses\)")):
        model(IDS)


def test_context_parallel(model: DLRModel, two_processes: DeviceMesh):
    """torch's context cuts the inputs in place: inside it the model refuses them, outside it does not."""
    ids = IDS.clone()
    with context_parallel(two_processes, buffers=[ids], buffer_seq_dims=[1]):
        assert ids.shape == (2, 4)
        with pytest.raises(ValueError, match=REFUSAL.format("torch's context_parallel")):
            model(ids)
    model(ids)


def test_dispatcher_of_context_parallel(model: DLRModel):
    """So it does while the newer interface, which leaves cutting to the caller, is switched on."""
    _enable_context_parallel_dispatcher()
    try:
        with pytest.raises(ValueError, match=REFUSAL.format("torch's context_parallel")):
            model(IDS)
    finally:
        _disable_context_parallel_dispatcher()
    model(IDS)
