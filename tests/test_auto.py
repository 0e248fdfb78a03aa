"""Saving and loading: with the package through the Auto classes, and without it as remote code."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from remote_worker import ask
from safetensors.torch import load_file, save_file
from tiny import EXAMPLES, HEADS, VOCABULARY, assert_same_tensors, perturbed, tiny_config
from transformers import Trainer, TrainingArguments
from without_package import run_without_package

from modeling_dlr import DLRForSequenceClassification, DLRModel, DLRPreTrainedModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.processing import pixel_processor, sound_extractor
from modeling_dlr.tokenization import byte_tokenizer

CODE = {path.name for path in Path(sys.modules[DLRModel.__module__].__file__ or "").parent.glob("*_dlr.py")}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "values": {"input_size": 3},
    "bidirectional": {"bidirectional": True, "output_gate": "glu"},
    "official block": {"norm_type": "scalar_layer", "norm_position": "post"},
    "statistics": {"norm_type": "batch", "kernel_parameters": {"kernel_type": "dss", "separate_time_steps": True}},
    "norm of SGConv": {"num_kernel_channels": 2, "kernel_parameters": {"kernel_type": "sgconv"}},
}

# Language models predict tokens, and a causal one looks one way: these are refused (test_heads.py).
CANNOT_BE = [
    ("AutoModelForCausalLM", "input_size"),
    ("AutoModelForMaskedLM", "input_size"),
    ("AutoModelForCausalLM", "bidirectional", "output_gate"),
]

HYBRID = {
    "layer_types": ["dlr", "local_attention"],
    "hidden_size": 4,
    "num_attention_heads": 2,
    "vocab_size": 261,
}

# What pipelines are asked where the package is not: the Auto class of the folder, what is saved beside the model, a
# question, and options.
QUESTIONS: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "text-classification": ("AutoModelForSequenceClassification", byte_tokenizer(), "Grüße, 世界", {"top_k": None}),
    "text-generation": ("AutoModelForCausalLM", byte_tokenizer(), "né", {"max_new_tokens": 5, "do_sample": False}),
    "audio-classification": ("AutoModelForAudioClassification", sound_extractor(8000), [0.5, -1.0, 0.25] * 9, {}),
    "image-segmentation": (
        "AutoModelForSemanticSegmentation",
        pixel_processor(3, 5),
        [[[9 * x, 40 * y, 200] for x in range(7)] for y in range(6)],
        {},
    ),
}

# One kernel of parameters only, and one that has a buffer.
by_kernel = pytest.mark.parametrize("kernel", [{}, {"kernel_type": "sgconv"}], ids=["DLR", "SGConv"])
by_auto_class = pytest.mark.parametrize("auto_class", AUTO_CLASSES)


def model_of(auto_class: str, **fields: Any) -> DLRPreTrainedModel:
    fields = EXAMPLES[auto_class].fields | fields
    if fields.get("input_size") is not None:
        fields = {name: value for name, value in fields.items() if name not in VOCABULARY}
    return perturbed(AUTO_CLASSES[auto_class](tiny_config(**fields)).eval())


def load(auto_class: str, folder: Path, **options: Any) -> DLRPreTrainedModel:
    return getattr(transformers, auto_class).from_pretrained(folder, **options)


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@by_auto_class
@pytest.mark.parametrize("fields", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_round_trip(auto_class: str, fields: dict[str, Any], tmp_path: Path):
    """A saved model comes back of the same class, to the bit and ready to train."""
    if (auto_class, *fields) in CANNOT_BE:
        return
    model = model_of(auto_class, **fields)
    model.save_pretrained(tmp_path)
    loaded = load(auto_class, tmp_path)
    assert type(loaded) is AUTO_CLASSES[auto_class]
    assert_same_tensors(state_of(loaded), state_of(model))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


@by_auto_class
def test_folder(auto_class: str, tmp_path: Path):
    """A saved folder holds safetensors, the configuration and the code, and its auto_map names every Auto class."""
    model_of(auto_class).save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    generates = {"generation_config.json"} if auto_class == "AutoModelForCausalLM" else set()
    assert files == {"config.json", "model.safetensors"} | generates | CODE
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == [AUTO_CLASSES[auto_class].__name__]
    assert config["auto_map"] == {"AutoConfig": "configuration_dlr.DLRConfig"} | {
        name: f"{model.__module__.split('.')[-1]}.{model.__name__}" for name, model in AUTO_CLASSES.items()
    }


@by_auto_class
def test_sharded(auto_class: str, tmp_path: Path):
    """A model saved in many small files comes back to the bit."""
    model = model_of(auto_class)
    model.save_pretrained(tmp_path, max_shard_size=200)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_tensors(state_of(load(auto_class, tmp_path)), state_of(model))


@by_auto_class
@by_kernel
def test_saved_in_half(auto_class: str, kernel: dict[str, Any], tmp_path: Path):
    """A bfloat16 model comes back in bfloat16 to the bit, and its kernels, whose angles need more, in float32."""
    model = model_of(auto_class, kernel_parameters=kernel)
    exact = state_of(model)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    expected = {name: value if ".kernel." in name else value.to(torch.bfloat16) for name, value in exact.items()}
    assert_same_tensors(state_of(load(auto_class, tmp_path)), expected)


@by_auto_class
@by_kernel
def test_loaded_in_half(auto_class: str, kernel: dict[str, Any], tmp_path: Path):
    """A float32 model loaded in bfloat16 keeps its kernels in float32, to the bit, and so does its own copy."""
    model = model_of(auto_class, kernel_parameters=kernel)
    model.save_pretrained(tmp_path / "first")
    half = load(auto_class, tmp_path / "first", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "second")
    for loaded in (half, load(auto_class, tmp_path / "second")):
        for name, value in model.state_dict().items():
            expected = value if ".kernel." in name else value.to(torch.bfloat16)
            torch.testing.assert_close(loaded.state_dict()[name], expected, rtol=0, atol=0, msg=name)


@by_auto_class
@by_kernel
def test_saved_in_double(auto_class: str, kernel: dict[str, Any], tmp_path: Path):
    """A float64 model comes back in float64 to the bit, its kernels included."""
    model = perturbed(model_of(auto_class, kernel_parameters=kernel).double())
    model.save_pretrained(tmp_path)
    assert_same_tensors(state_of(load(auto_class, tmp_path)), state_of(model))


@pytest.mark.parametrize("head", HEADS)
def test_new_head_on_a_trained_backbone(head: str, tmp_path: Path):
    """A head on a saved backbone is drawn afresh, and leaves the backbone as it was."""
    backbone = perturbed(DLRModel(tiny_config(hidden_size=100, num_labels=63)))
    backbone.save_pretrained(tmp_path)
    model = HEADS[head].from_pretrained(tmp_path)
    assert_same_tensors(state_of(model.model), state_of(backbone))
    for values in (model.classifier.weight, model.classifier.bias):
        assert values.abs().max() <= 0.1
        assert values.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.2)


@pytest.mark.parametrize("head", HEADS)
def test_backbone_of_a_saved_head(head: str, tmp_path: Path):
    """The backbone of a saved head loads by itself, to the bit, and so does another kind of head on top of it."""
    model = perturbed(HEADS[head](tiny_config()))
    model.save_pretrained(tmp_path)
    assert_same_tensors(state_of(DLRModel.from_pretrained(tmp_path)), state_of(model.model))
    for other in HEADS.values():
        assert_same_tensors(state_of(other.from_pretrained(tmp_path).model), state_of(model.model))


def test_norm_of_sgconv_is_computed_where_it_is_missing(tmp_path: Path):
    """A checkpoint without the norms of its kernels, as official ones are, gets those of the kernels that it has."""
    model = model_of("AutoModel", num_kernel_channels=2, kernel_parameters={"kernel_type": "sgconv"})
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    norms = {name for name in state if name.endswith("kernel.norm")}
    assert len(norms) == 2
    save_file({name: state[name] for name in state.keys() - norms}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load("AutoModel", tmp_path)
    for name, value in loaded.state_dict().items():
        if name in norms:
            kernel = loaded.get_submodule(name.removesuffix(".norm"))
            torch.testing.assert_close(value, (kernel(640) * value).norm(dim=-1, keepdim=True))
        else:
            assert torch.equal(value, state[name])


def test_another_number_of_labels(tmp_path: Path):
    """A head of another size is refused, and drawn afresh when asked for."""
    model = model_of("AutoModelForSequenceClassification")
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load("AutoModelForSequenceClassification", tmp_path, num_labels=7)
    loaded = load("AutoModelForSequenceClassification", tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded(input_ids=torch.ones(1, 7, dtype=torch.long)).logits.shape == (1, 7)
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_configuration_is_not_shared(tmp_path: Path):
    """Saving two models of one configuration, the smaller last, still leaves each folder complete."""
    config = tiny_config()
    for name, model_class in (("head", DLRForSequenceClassification), ("backbone", DLRModel)):
        model_class(config).save_pretrained(tmp_path / name)
    saved = [json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8")) for name in ("head", "backbone")]
    assert saved[0]["auto_map"] == saved[1]["auto_map"]
    assert [entry["architectures"] for entry in saved] == [["DLRForSequenceClassification"], ["DLRModel"]]


def test_trainer_saves_the_code(tmp_path: Path):
    """What the Trainer saves is what save_pretrained saves, and the Trainer's own record beside it."""
    model = model_of("AutoModelForSequenceClassification")
    model.save_pretrained(tmp_path / "model")
    trainer = Trainer(model, TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    trainer.save_model(str(tmp_path / "trainer"))
    by_model, by_trainer = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("model", "trainer")
    )
    assert by_trainer.keys() - by_model.keys() == {"training_args.bin"}
    code = CODE | {"model.safetensors"}
    assert {name: by_trainer[name] for name in code} == {name: by_model[name] for name in code}
    assert_same_tensors(state_of(load("AutoModelForSequenceClassification", tmp_path / "trainer")), state_of(model))


def test_remote_code(tmp_path: Path):
    """Without the package, a saved folder loads under every Auto class, runs in a pipeline, and can be saved again."""
    (tmp_path / "expected").mkdir()
    for auto_class, example in EXAMPLES.items():
        tokens = "vocab_size" in example.fields
        model = model_of(auto_class, **({"vocab_size": 261} if tokens else {}))
        model.save_pretrained(tmp_path / "models" / auto_class)
        inputs = example.inputs(model.config, 2, 63)
        if tokens:
            mask = torch.ones_like(inputs["input_ids"])
            mask[1, ..., 7:] = 0
            inputs["attention_mask"] = mask
        with torch.no_grad():
            answer = model(**inputs)[0].contiguous()
        save_file(inputs | {"answer": answer}, tmp_path / "expected" / f"{auto_class}.safetensors")

    model_of("AutoModel", **HYBRID).save_pretrained(tmp_path / "models" / "hybrid")
    byte_tokenizer().save_pretrained(tmp_path / "models" / "hybrid")
    questions = []
    for task, (auto_class, processor, question, options) in QUESTIONS.items():
        folder = tmp_path / "models" / auto_class
        processor.save_pretrained(folder)
        questions.append((task, auto_class, question, options, ask(task, folder, question, **options)))
    (tmp_path / "questions.json").write_text(json.dumps(questions), encoding="utf-8")

    worker = Path(__file__).with_name("remote_worker.py")
    run_without_package(tmp_path, worker, *(tmp_path / name for name in ("models", "expected", "again")))
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(AUTO_CLASSES)


def test_only_safetensors_are_read(tmp_path: Path):
    """A folder with pickled weights instead of safetensors is refused: pickles can run code."""
    model = model_of("AutoModel")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load("AutoModel", tmp_path, use_safetensors=True)
