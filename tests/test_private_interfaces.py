"""What this package uses of other libraries beyond their public interfaces: one test for each, which names it.

The table "Private interfaces" of CONTRIBUTING.md has the same rows. When a test here fails after an upgrade, its name
says which interface has changed, and the table says what uses it.
"""

import contextlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

ROOT = Path(__file__).resolve().parent.parent


def output_capturing():
    """A block's first output is recorded as a hidden state, and the last one is the final hidden state."""
    from tiny import tiny_config

    from modeling_dlr import DLRModel

    model = DLRModel(tiny_config())
    outputs = model(torch.ones(1, 5, dtype=torch.long), output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert outputs.hidden_states[-1] is outputs.last_hidden_state


def forward_decorators():
    """They take return_dict and use_cache from the configuration, rename the old cache, and keep the signature."""
    from transformers.utils.deprecation import deprecate_kwarg
    from transformers.utils.generic import can_return_tuple, maybe_autocast, merge_with_config_defaults

    class Model:
        config = SimpleNamespace(use_cache=True, return_dict=False)

        @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
        @can_return_tuple
        @merge_with_config_defaults
        def forward(self, x, cache=None, use_cache=None):
            return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=(x, use_cache), cache=cache)

    with pytest.warns(FutureWarning, match="past_key_values"):
        assert Model().forward(1, past_key_values=2) == ((1, True), 2)
    assert list(inspect.signature(Model.forward).parameters) == ["self", "x", "cache", "use_cache"]
    with torch.autocast("cpu", torch.bfloat16), maybe_autocast("cpu", enabled=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def output_cache_names():
    """Outputs name the cache `cache`, and read it by the older name, too."""
    output = transformers.modeling_outputs.CausalLMOutputWithPast(cache=1)
    assert output.past_key_values == output["past_key_values"] == output.cache == 1


def cache_layer_registry():
    """A cache layer with a `_layer_type` is used for layers of that type, static caches by an entry of our own."""
    from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING, CacheLayerMixin

    from modeling_dlr.cache_dlr import DLRCacheLayer

    assert issubclass(DLRCacheLayer, CacheLayerMixin)
    # The class is that of the folder or package that was imported last.
    for mapping in (DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING):
        assert mapping["dlr"].__name__ == "DLRCacheLayer"
    assert set(inspect.signature(CacheLayerMixin.lazy_initialization).parameters) == {
        "self",
        "key_states",
        "value_states",
    }


def gradient_checkpointing_layer():
    """A block computes its forward pass again where checkpointing is on."""
    from tiny import tiny_config

    from modeling_dlr import DLRModel

    model, counts = DLRModel(tiny_config(num_hidden_layers=1)).train(), []
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.layers[0].mixer.register_forward_pre_hook(lambda *_: counts.append(1))
    model(torch.ones(1, 5, dtype=torch.long)).last_hidden_state.sum().backward()
    assert len(counts) == 2


def initialization():
    """Loaded parameters are left alone by the functions that draw fresh ones."""
    from transformers import initialization as init

    loaded, fresh = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    loaded._is_hf_initialized = True
    for parameter in (loaded, fresh):
        with torch.no_grad():
            init.zeros_(parameter)
    assert loaded.tolist() == [1, 1]
    assert fresh.tolist() == [0, 0]


def model_flags():
    """Class attributes by which transformers knows a model's parts."""
    from modeling_dlr import (
        DLRForCausalLM,
        DLRPreTrainedModel,
        StripedHyenaModelForCausalLM,
        StripedHyenaPreTrainedModel,
    )

    classes = (DLRPreTrainedModel, DLRForCausalLM, StripedHyenaPreTrainedModel, StripedHyenaModelForCausalLM)
    named = {name for cls in classes for name in vars(cls) if re.match(r"_[a-z]", name)}
    ours = {"_init_weights", "_auto_class", "_abc_impl"}
    known = inspect.getsource(transformers.modeling_utils) + inspect.getsource(transformers.generation.utils)
    assert [name for name in named - ours if name not in known] == []


def checkpoint_files(tmp_path):
    """Loading gets the weight files, how names are mapped, and a model that holds no weights yet."""
    from tiny_striped import tiny_striped

    from modeling_dlr import StripedHyenaModel

    class Seen(StripedHyenaModel):
        @staticmethod
        def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *_):
            seen = {parameter.device.type for parameter in model.parameters()}, state_dict, checkpoint_files
            assert seen == ({"meta"}, None, [str(tmp_path / "model.safetensors")])
            assert load_config.pretrained_model_name_or_path == tmp_path
            assert not load_config.is_quantized
            assert not load_config.ignore_mismatched_sizes
            assert load_config.weight_mapping[0].rename_source_key("a.b") == ("a.c", "b$")
            return StripedHyenaModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config)

    tiny_striped(StripedHyenaModel).float().save_pretrained(tmp_path)
    Seen.from_pretrained(tmp_path, key_mapping={"b$": "c"})


def model_names():
    """Tables of names by which the Trainer, the pipelines and the server know what a model does."""
    from transformers.models.auto import modeling_auto

    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["dlr"] == "DLRForCausalLM"
    assert modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["dlr"] == "DLRForSemanticSegmentation"


def attention_implementation():
    """A configuration says which attention its model uses."""
    from tiny import tiny_config

    from modeling_dlr import DLRModel

    model = DLRModel(tiny_config())
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


def auto_docstring():
    """It writes the arguments of a forward into its docstring, and reports none that it does not know."""
    from modeling_dlr import DLRForSequenceClassification

    assert "cache" in (DLRForSequenceClassification.forward.__doc__ or "")


def transformers_kwargs():
    """The keyword arguments that every model of transformers may take are among those we know."""
    from transformers.processing_utils import Unpack
    from transformers.utils import TransformersKwargs

    from modeling_dlr.checks_dlr import PASSED_ALONG

    assert Unpack[TransformersKwargs] is not None
    known = PASSED_ALONG | {"position_ids", "output_router_logits", "is_causal"}
    assert TransformersKwargs.__annotations__.keys() <= known


def strict_configurations():
    """A strict configuration checks the types and ranges of its fields."""
    from huggingface_hub.errors import StrictDataclassError

    from modeling_dlr import DLRConfig

    with pytest.raises(StrictDataclassError):
        DLRConfig(hidden_size="8")
    with pytest.raises(StrictDataclassError):
        DLRConfig(hidden_size=0)


def configuration_internals():
    """Names that belong to generation, and those that transformers sets of itself on a configuration."""
    from modeling_dlr import DLRConfig
    from modeling_dlr.configuration_base_dlr import PRIVATE

    assert {"max_length", "num_beams"} <= transformers.GenerationConfig._get_default_generation_params().keys()
    notes = {name.removesuffix("_internal") for name in vars(DLRConfig()) if name.startswith("_")}
    # What has a property is written and read by it.
    assert {name for name in notes if not {name, name[1:]} & set(dir(DLRConfig))} <= PRIVATE


def model_card_internals():
    """The history of a Trainer becomes the rows of a card."""
    from transformers.modelcard import TrainingSummary, extract_hyperparameters_from_trainer, parse_log_history

    history = [{"loss": 1.0, "epoch": 1.0, "step": 2}, {"eval_loss": 0.5, "epoch": 1.0, "step": 2}]
    history.append({"train_runtime": 1.0, "train_loss": 1.0, "epoch": 1.0, "step": 2})
    _, lines, _ = parse_log_history(history)
    summary = TrainingSummary(model_name="m", eval_lines=lines, hyperparameters={"seed": 1}, source=None)
    assert "0.5" in summary.to_model_card()
    trainer = SimpleNamespace(args=transformers.TrainingArguments("unused", report_to="none", use_cpu=True))
    assert extract_hyperparameters_from_trainer(trainer)["learning_rate"] == trainer.args.learning_rate


def dynamic_modules(tmp_path: Path):
    """The code that travels with a file is what the text of the file imports from beside it."""
    from transformers.dynamic_module_utils import get_relative_imports

    (tmp_path / "one.py").write_text("from .two import x\nimport three\n", encoding="utf-8")
    assert get_relative_imports(tmp_path / "one.py") == ["two"]


def processors():
    """The image processor that needs no torchvision, and the one for sound."""
    from modeling_dlr.processing import pixel_processor, sound_extractor

    assert type(pixel_processor(2, 2)).__name__ == "SegformerImageProcessorPil"
    assert type(sound_extractor(8000)).__name__ == "Wav2Vec2FeatureExtractor"


def hub_client():
    """What makes the client of the Hub, and what it looks at and cuts short of every request and answer."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http, parse_ratelimit_headers
    from huggingface_hub.utils._runtime import is_xet_available

    before = _http._GLOBAL_CLIENT_FACTORY
    with before() as client:
        assert client.event_hooks.keys() == {"request", "response"}
        assert client.timeout is not None
    set_client_factory(dict)
    assert _http._GLOBAL_CLIENT_FACTORY is dict
    set_client_factory(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        assert not is_xet_available()
    assert parse_ratelimit_headers({"ratelimit": '"api";r=0;t=55'}).reset_in_seconds == 55


def unsafe_globals(tmp_path: Path):
    """The names in a checkpoint that is no plain data, without running any of them."""
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    torch.save({"path": Path("x")}, tmp_path / "x.pt")
    assert [name for name in get_unsafe_globals_in_checkpoint(tmp_path / "x.pt") if "pathlib" in name] != []
    with safe_globals([(str, "pathlib.PosixPath"), (str, "pathlib.PurePosixPath")]):
        pass


def onednn_product():
    """oneDNN's product of matrices, where the processor has AVX-512."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    x, w = torch.randn(5, 3), torch.randn(4, 3)
    torch.testing.assert_close(torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], ""), x @ w.T)


def assert_async():
    """An assertion on a device, which nothing waits for."""
    torch._assert_async(torch.tensor(True), "message")
    with pytest.raises(RuntimeError, match="message"):
        torch._assert_async(torch.tensor(False), "message")


def parallel_sequences():
    """Where Accelerate keeps its sizes, and how torch's context parallelism is switched on."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import ParallelismConfig
    from torch.distributed.tensor.experimental._context_parallel import _attention as ring

    Accelerator(cpu=True)
    assert "parallelism_config" in AcceleratorState._shared_state
    assert {"sp_size", "cp_size"} <= vars(ParallelismConfig()).keys()
    assert not ring.custom_ops.keys() <= ring.DTensor._op_dispatcher._custom_op_handlers.keys()


def weak_dictionary():
    """A dictionary whose keys are tensors, told apart by identity, which it does not keep alive."""
    from torch.utils.weak import WeakIdKeyDictionary

    one, same = torch.zeros(1), torch.zeros(1)
    dictionary = WeakIdKeyDictionary()
    dictionary[one] = 1
    assert one in dictionary
    assert same not in dictionary
    del one
    assert len(dictionary) == 0


@contextlib.contextmanager
def group_of_one():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@group_of_one()
def default_store():
    """What all processes of the default group can read and write."""
    found = torch.distributed.distributed_c10d._get_default_store()
    found.compare_set("key", "", "first")
    found.compare_set("key", "", "second")
    assert (found.check(["key"]), found.get("key")) == (True, b"first")


def trainer_inputs():
    """The Trainer asks it for a context and for the inputs; which rows a process reads can be changed afterwards."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler
    from transformers import Trainer

    sampler = BatchSamplerShard(BatchSampler(range(8), 2, drop_last=False), num_processes=4, process_index=3)
    sampler.num_processes, sampler.process_index = 2, 1
    assert (list(sampler), len(sampler), sampler.total_length) == ([[2, 3], [6, 7]], 2, 4)

    method = Trainer._prepare_context_parallel_inputs
    assert list(inspect.signature(method).parameters) == ["self", "model", "inputs"]
    for caller in (Trainer.training_step, Trainer.prediction_step):
        assert "cp_context, inputs = self._prepare_context_parallel_inputs(model, inputs)" in inspect.getsource(caller)


@group_of_one()
def flat_mesh():
    """A mesh of several dimensions as one of a single dimension."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "context"))
    assert mesh._flatten().mesh.tolist() == [0]


def trainer_parts():
    """What the files of a checkpoint are called, how a callback is saved in it, and what the Trainer may report to."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
    from transformers.trainer_callback import ExportableState, TrainerControl

    assert (TRAINER_STATE_NAME, OPTIMIZER_NAME) == ("trainer_state.json", "optimizer.pt")
    assert (SCALER_NAME, SCHEDULER_NAME) == ("scaler.pt", "scheduler.pt")
    assert isinstance(TrainerControl(), ExportableState)
    assert isinstance(get_available_reporting_integrations(), list)


def datasets_hasher():
    """A hash of settings by their values, the same in every process."""
    from datasets.fingerprint import Hasher

    assert Hasher.hash({"a": 1}) == Hasher.hash({"a": 1}) != Hasher.hash({"a": 2})


def module_internals():
    """Where a module keeps its parameters and hooks, and what every cast of one calls."""
    module = nn.BatchNorm1d(2)
    assert list(module._parameters) == ["weight", "bias"]
    assert "running_mean" in module._buffers
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    module.register_forward_pre_hook(lambda *_: None)
    module.register_forward_hook(lambda *_: None)
    assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 1
    cast = []
    module._apply(lambda tensor: cast.append(tensor) or tensor)
    assert len(cast) == 5


def tensor_version():
    """torch's count of the changes of a tensor in place."""
    x = torch.zeros(2)
    before = x._version
    x.add_(1)
    assert x._version > before


def graph_task():
    """A backward pass has a number, and -1 is none."""
    seen = []
    x = torch.ones(1, requires_grad=True)
    y = 2 * x
    y.register_hook(lambda grad: seen.append(torch._C._current_graph_task_id()))
    y.sum().backward()
    assert torch._C._current_graph_task_id() == -1 < seen[0]


INTERFACES: dict[str, Callable] = {
    function.__name__: function
    for function in (
        *(output_capturing, forward_decorators, output_cache_names, cache_layer_registry, gradient_checkpointing_layer),
        *(
            initialization,
            model_flags,
            checkpoint_files,
            model_names,
            attention_implementation,
            auto_docstring,
            transformers_kwargs,
        ),
        *(
            strict_configurations,
            configuration_internals,
            model_card_internals,
            dynamic_modules,
            processors,
            hub_client,
        ),
        *(unsafe_globals, onednn_product, assert_async, parallel_sequences, tensor_version, graph_task),
        *(weak_dictionary, default_store, trainer_inputs, flat_mesh, module_internals, trainer_parts, datasets_hasher),
    )
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interface(name: str, tmp_path: Path):
    function = INTERFACES[name]
    function(**{"tmp_path": tmp_path} if "tmp_path" in inspect.signature(function).parameters else {})
