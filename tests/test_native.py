"""What transformers expects of a model of its own, for every head."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BIDIRECTIONAL, EXAMPLES, VOCABULARY, assert_same_tensors, perturbed, tiny_config
from torch import nn
from transformers import (
    AutoConfig,
    DataCollatorForLanguageModeling,
    GenerationMixin,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from modeling_dlr import DLRConfig, DLRForCausalLM, DLRForMaskedLM, DLRModel
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.tokenization import byte_tokenizer

by_auto_class = pytest.mark.parametrize("auto_class", AUTO_CLASSES)
HYBRID = {"hidden_size": 8, "layer_types": ["dlr", "local_attention"]}


def build(auto_class: str, **fields: Any) -> PreTrainedModel:
    return perturbed(AUTO_CLASSES[auto_class](tiny_config(**EXAMPLES[auto_class].fields | fields)).eval())


def answer(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


@by_auto_class
def test_configuration_round_trip(auto_class: str, tmp_path: Path):
    """The configuration of a saved model is the same through AutoConfig, a dict, JSON and a copy."""
    model = build(auto_class, **HYBRID)
    model.save_pretrained(tmp_path)
    config = model.config
    loaded = AutoConfig.from_pretrained(tmp_path)
    for other in (loaded, DLRConfig.from_dict(config.to_dict()), copy.deepcopy(config)):
        assert type(other) is DLRConfig
        assert other.layer_types == ["dlr", "local_attention"]
        assert other.to_dict().keys() == config.to_dict().keys()
    differing = {key for key, value in loaded.to_dict().items() if value != config.to_dict()[key]}
    assert differing <= {"_name_or_path", "architectures", "dtype"}


@by_auto_class
def test_recorded_hidden_states(auto_class: str):
    """Hidden states are recorded by argument and by configuration: one of the embeddings and one per block."""
    model = build(auto_class)
    inputs = EXAMPLES[auto_class].inputs(model.config, 2, 7)
    by_argument = model(**inputs, output_hidden_states=True).hidden_states
    model.config.output_hidden_states = True
    by_configuration = model(**inputs).hidden_states
    assert len(by_argument) == len(by_configuration) == model.config.num_hidden_layers + 1
    assert all(torch.equal(one, other) for one, other in zip(by_argument, by_configuration, strict=True))
    assert len({state.shape for state in by_argument}) == 1


@by_auto_class
def test_backbone_is_found_by_its_prefix(auto_class: str):
    """A head calls its backbone `model`, by which transformers finds it."""
    model = build(auto_class)
    assert model.base_model_prefix == "model"
    assert type(model.base_model) is DLRModel
    assert (model.base_model is model) == (auto_class == "AutoModel")


@by_auto_class
def test_names_for_sharding(auto_class: str):
    """What must not be split, and what the default FSDP plan wraps, are modules that exist."""
    model = build(auto_class)
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules or []) <= kinds
    names = dict(model.base_model.named_modules())
    assert {"layers.0", "norm"} <= names.keys()
    if model.config.vocab_size is not None:
        assert "embed_tokens" in names


@by_auto_class
def test_embeddings(auto_class: str):
    """Models of tokens hand out their embedding, language models their output, and models of values have neither."""
    model = build(auto_class)
    if model.config.vocab_size is None:
        assert not any(isinstance(module, nn.Embedding) for module in model.modules())
    else:
        assert model.get_input_embeddings() is model.base_model.embed_tokens
    language = isinstance(model, (DLRForCausalLM, DLRForMaskedLM))
    assert (model.get_output_embeddings() is not None) == language
    assert isinstance(model, GenerationMixin) == model.can_generate() == isinstance(model, DLRForCausalLM)


@by_auto_class
def test_built_on_the_meta_device(auto_class: str, tmp_path: Path):
    """A model is built without memory or numbers, and loading fills every parameter and buffer."""
    model = build(auto_class, **HYBRID)
    with torch.device("meta"):
        empty = AUTO_CLASSES[auto_class](copy.deepcopy(model.config))
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    assert empty.state_dict().keys() == model.state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[auto_class].from_pretrained(tmp_path, device_map="cpu")
    assert_same_tensors(loaded.state_dict(), model.state_dict())


CASTS: dict[str, Any] = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "to": lambda module: module.to("cpu", torch.bfloat16),
    "type": lambda module: module.type(torch.float16),
}


@pytest.mark.parametrize("kernel", ["dlr", "dss", "s4d", "sgconv"])
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_a_cast_to_half_leaves_kernels_exact(cast: Any, kernel: str):
    """However a model is cast to a half type, its kernels stay as they are; what is not a kernel is cast."""
    model = perturbed(DLRModel(tiny_config(kernel_parameters={"kernel_type": kernel})))
    expected = {name: value.clone() for name, value in model.state_dict().items() if ".kernel." in name}
    kernels = [layer.mixer.kernel(40).detach() for layer in model.layers]
    cast(model)
    assert model.dtype in (torch.float16, torch.bfloat16)
    assert_same_tensors({name: value for name, value in model.state_dict().items() if ".kernel." in name}, expected)
    for layer, before in zip(model.layers, kernels, strict=True):
        assert torch.equal(layer.mixer.kernel(40), before)


def test_other_casts_of_kernels():
    """Casts to float64 and back, and moves to and from the meta device, treat kernels like everything else."""
    model = DLRModel(tiny_config())
    for change, dtype, device in (
        (model.double, torch.float64, "cpu"),
        (model.bfloat16, torch.float64, "cpu"),
        (model.float, torch.float32, "cpu"),
        (lambda: model.to("meta", torch.bfloat16), torch.float32, "meta"),
        (lambda: model.to_empty(device="cpu"), torch.float32, "cpu"),
    ):
        change()
        for parameter in model.layers[0].mixer.kernel.parameters():
            assert (parameter.dtype, parameter.device.type) == (dtype, device)


@by_auto_class
def test_offloaded_to_disk(auto_class: str, tmp_path: Path):
    """Accelerate can keep blocks on disk: the outputs are the same."""
    model = build(auto_class)
    model.save_pretrained(tmp_path / "model")
    prefix = "" if auto_class == "AutoModel" else "model."
    places = {name: "cpu" for name, _ in model.named_children() if name not in ("model", "layers")}
    places |= {f"{prefix}{name}": "cpu" for name, _ in model.base_model.named_children() if name != "layers"}
    places |= {f"{prefix}layers.0": "cpu", f"{prefix}layers.1": "disk"}
    loaded = AUTO_CLASSES[auto_class].from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    )
    inputs = EXAMPLES[auto_class].inputs(model.config, 2, 7)
    torch.testing.assert_close(answer(loaded, inputs), answer(model, inputs), rtol=0, atol=0)


@by_auto_class
def test_copies(auto_class: str):
    """A model can be copied and pickled, and the copy has the same outputs."""
    model = build(auto_class)
    inputs = EXAMPLES[auto_class].inputs(model.config, 2, 7)
    expected = answer(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - made in the line itself
        assert torch.equal(answer(other, inputs), expected)


@by_auto_class
def test_same_seed_same_model(auto_class: str):
    """The same seed gives the same weights, and evaluation is deterministic."""
    config = build(auto_class).config
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(AUTO_CLASSES[auto_class](copy.deepcopy(config)).eval())
    assert_same_tensors(models[0].state_dict(), models[1].state_dict())
    inputs = EXAMPLES[auto_class].inputs(config, 2, 7)
    assert torch.equal(answer(models[0], inputs), answer(models[0], inputs))


@by_auto_class
def test_extra_outputs_of_tokenizers(auto_class: str):
    """What tokenizers and collators emit besides does not disturb any head that reads tokens."""
    model = build(auto_class)
    inputs = EXAMPLES[auto_class].inputs(model.config, 2, 7)
    if "input_ids" not in inputs:
        return
    extra = {"token_type_ids": torch.zeros_like(inputs["input_ids"])}
    assert torch.equal(answer(model, inputs | extra), answer(model, inputs))


def rows_of(auto_class: str, config: DLRConfig, amount: int) -> list[dict[str, torch.Tensor]]:
    """Examples of a data set, of which the first two have every other label ignored where labels are per step."""
    arguments = EXAMPLES[auto_class].arguments(config, amount, 7)
    if "labels" in arguments and arguments["labels"].dim() > 1:
        arguments["labels"][:2, ..., ::2] = -100
    elif "labels" in arguments:
        arguments["labels"][0] = -100
    return [dict(zip(arguments, values, strict=True)) for values in zip(*arguments.values(), strict=True)]


@pytest.mark.parametrize("auto_class", [name for name in EXAMPLES if name != "AutoModel"])
def test_accumulated_gradients(auto_class: str, tmp_path: Path):
    """Under the Trainer a step of 8 examples is the same as one of 4 times 2, however many labels are ignored."""
    first = build(auto_class)
    rows, moved = rows_of(auto_class, first.config, 8), []
    for batch_size in (8, 2):
        model = copy.deepcopy(first)
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", optim="sgd", learning_rate=1.0, lr_scheduler_type="constant",
            per_device_train_batch_size=batch_size, gradient_accumulation_steps=8 // batch_size, max_steps=1,
            max_grad_norm=0.0, save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
        moved.append(model.state_dict())
    assert_same_tensors(moved[1], moved[0], tolerance=1e-5)
    assert any((value - moved[0][name]).abs().max() > 1e-3 for name, value in first.state_dict().items())


def test_predictions_hold_no_cache(tmp_path: Path):
    """A model that returns its state from every forward pass still gives the Trainer its logits alone."""
    model = build("AutoModelForAudioClassification", use_cache=True)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    rows = rows_of("AutoModelForAudioClassification", model.config, 5)
    predictions = Trainer(model, arguments).predict(rows).predictions
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == (5, 4)


def test_values_for_a_half_model():
    """A bfloat16 model reads values of float32, as feature extractors give them."""
    model = build("AutoModelForAudioClassification").bfloat16()
    logits = answer(model, EXAMPLES["AutoModelForAudioClassification"].inputs(model.config, 2, 7))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("auto_class", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
@pytest.mark.parametrize(("block", "head", "drops"), [(0.0, 0.5, True), (0.5, None, True), (0.5, 0.0, False)])
def test_dropout_of_a_head(auto_class: str, block: float, head: float | None, drops: bool):
    """Before the projection of a head classifier_dropout counts, and hidden_dropout_prob where it is not given."""
    model = build(auto_class, hidden_dropout_prob=block, classifier_dropout=head)
    inputs = EXAMPLES[auto_class].inputs(model.config, 4, 7)
    expected = answer(model, inputs)
    model.dropout.train()  # and nothing else
    assert torch.equal(answer(model, inputs), expected) != drops


def test_warning_of_padding_without_a_mask(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Tokens of padding without a mask are warned of, with a mask they are not."""
    logger = logging.get_logger("transformers.modeling_utils")
    logger.warning_once.cache_clear()
    monkeypatch.setattr(logger, "propagate", False)
    model, ids = build("AutoModelForSequenceClassification"), torch.tensor([[3, 4, 5], [3, 0, 0]])
    logger.addHandler(caplog.handler)
    try:
        model(input_ids=ids, attention_mask=ids.ne(0))
        assert not caplog.records
        model(input_ids=ids)
    finally:
        logger.removeHandler(caplog.handler)
    assert ["attention_mask" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("head", [DLRForCausalLM, DLRForMaskedLM])
def test_language_model_in_the_trainer(head: type[PreTrainedModel], tmp_path: Path):
    """The stock Trainer and collator train a language model on text: the loss falls."""
    tokenizer = byte_tokenizer()
    fields = BIDIRECTIONAL if head is DLRForMaskedLM else VOCABULARY
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "state_size": 8, "initializer_range": 0.02}
    model = head(tiny_config(**fields | sizes))
    texts = [{"input_ids": tokenizer("abracadabra " * 3)["input_ids"]} for _ in range(32)]
    masked = head is DLRForMaskedLM
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", learning_rate=0.02, num_train_epochs=10, logging_steps=4,
        per_device_train_batch_size=8, gradient_accumulation_steps=2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=masked, seed=0)
    trainer = Trainer(model, arguments, train_dataset=texts, data_collator=collate)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.5 * losses[0], losses


def test_smoothed_labels(tmp_path: Path):
    """The Trainer smooths the labels of the next token of a causal model, and of the token itself of a masked one."""
    for auto_class, shift in (("AutoModelForCausalLM", 1), ("AutoModelForMaskedLM", 0)):
        model = build(auto_class)
        inputs = EXAMPLES[auto_class].arguments(model.config, 3, 7)
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, label_smoothing_factor=0.1
        )
        loss = Trainer(model, arguments).compute_loss(model, dict(inputs))
        logits, targets = answer(model, {"input_ids": inputs["input_ids"]})[:, : 7 - shift], inputs["labels"][:, shift:]
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)
        torch.testing.assert_close(loss, expected)
