"""Libraries that know nothing of this one work with its models: PEFT, torchao, sentence-transformers, any script."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import assert_same_tensors, parameters_of, perturbed
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig
from torchao.utils import TorchAOBaseTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
)

from modeling_dlr import DLRConfig, DLRForCausalLM, DLRForMaskedLM, DLRForSequenceClassification, DLRModel
from modeling_dlr.kernels_dlr import Kernel
from modeling_dlr.tokenization import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZES: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 5,
}
HYBRID = {"layer_types": ["dlr", "local_attention"], "attention_window": 5, "attention_ff_ratio": 2}
TEXTS = ["long convolutions", "a", "the recurrence of a diagonal state space", "one more", "né", "0123456789"]

# Models for adapters and quantisation: their class, PEFT's name of the task, and their fields.
MODELS: dict[str, tuple[type[PreTrainedModel], str, dict[str, Any]]] = {
    "classifier": (DLRForSequenceClassification, "SEQ_CLS", {"bidirectional": True, "output_gate": "glu"}),
    "hybrid language model": (DLRForCausalLM, "CAUSAL_LM", HYBRID | {"tie_word_embeddings": True}),
}
by_model = pytest.mark.parametrize(("model_class", "task", "fields"), MODELS.values(), ids=MODELS.keys())

# PEFT asks transformers whether gradients are checkpointed by the name that was used before 5.x.
peft_warns = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def batch_of(texts: list[str]) -> dict[str, Tensor]:
    return dict(TOKENIZER(texts, padding=True, return_tensors="pt"))


def saved(model_class: type[PreTrainedModel], fields: dict[str, Any], folder: Path) -> PreTrainedModel:
    """A model of moved parameters, saved with its tokenizer."""
    model = perturbed(model_class(DLRConfig(**SIZES | fields)).eval())
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return model


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    """Of a padded batch, at the steps that count."""
    batch = batch_of(TEXTS)
    logits = model.eval()(**batch).logits
    return logits if logits.dim() == 2 else logits[batch["attention_mask"].bool()]


@peft_warns
@by_model
def test_lora(model_class: type[PreTrainedModel], task: str, fields: dict[str, Any], tmp_path: Path):
    """PEFT adapts all linear layers: trained, saved, put on the base again and merged, they answer the same."""
    base = saved(model_class, fields, tmp_path / "base")
    before = logits_of(base)
    linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    model = get_peft_model(base, LoraConfig(task_type=task, target_modules="all-linear", r=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained if ".lora_" in name}
    assert adapted == linear - {"classifier", "lm_head"}
    assert not [name for name in trained if "kernel" in name]
    kernels = parameters_of(nn.ModuleList(module for module in base.modules() if isinstance(module, Kernel)))
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.5)
    batch = batch_of(TEXTS)
    labels = batch["input_ids"] if task == "CAUSAL_LM" else torch.tensor([0, 1] * 3)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(**batch, labels=labels).loss.backward()
        optimizer.step()
    expected = logits_of(model)
    assert (expected - before).abs().max() > 0.01
    assert_same_tensors(
        parameters_of(nn.ModuleList(module for module in base.modules() if isinstance(module, Kernel))), kernels
    )
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(model_class.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(again), expected, rtol=0, atol=1e-6)
    merged = again.merge_and_unload()
    assert type(merged) is model_class
    torch.testing.assert_close(logits_of(merged), expected, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        logits_of(model_class.from_pretrained(tmp_path / "merged")), logits_of(merged), rtol=0, atol=1e-6
    )


@peft_warns
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "apart"])
@pytest.mark.parametrize("model_class", [DLRForCausalLM, DLRForMaskedLM, DLRForSequenceClassification])
def test_lora_with_new_tokens(model_class: type[PreTrainedModel], tied: bool, tmp_path: Path):
    """PEFT trains a few rows of the embedding, which it wraps together with the projection that shares it."""
    base = saved(model_class, {"bidirectional": model_class is DLRForMaskedLM, "tie_word_embeddings": tied}, tmp_path)
    before, batch = logits_of(base), batch_of(TEXTS)
    rows = LoraConfig(target_modules=["out_proj"], r=2, trainable_token_indices={"embed_tokens": [111, 114]})
    model = get_peft_model(base, rows)
    labels = torch.tensor([0, 1] * 3) if model_class is DLRForSequenceClassification else batch["input_ids"]
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    model.train()(**batch, labels=labels).loss.backward()
    optimizer.step()
    expected = logits_of(model)
    assert (expected - before).abs().max() > 0.01
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(model_class.from_pretrained(tmp_path), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(again), expected, rtol=0, atol=1e-6)


@peft_warns
def test_wrapped_batch_norm_leaves_padding_out():
    """A norm that PEFT trains, and wraps for it, still learns which steps are padding."""
    base = DLRForSequenceClassification(DLRConfig(**SIZES, norm_type="batch")).train()
    wrapped = get_peft_model(deepcopy(base), LoraConfig(target_modules=["out_proj"], r=2, modules_to_save=["norm"]))
    assert torch.equal(wrapped.train()(**batch_of(TEXTS)).logits, base(**batch_of(TEXTS)).logits)


@by_model
def test_int8_projections(model_class: type[PreTrainedModel], task: str, fields: dict[str, Any], tmp_path: Path):
    """torchao keeps projections in 8 bits and leaves kernels as they are; saved, the quantised model is the same."""
    model = saved(model_class, fields, tmp_path / "whole")
    quantised = model_class.from_pretrained(
        tmp_path / "whole", quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2))
    )
    in_8_bits = {name for name, value in quantised.named_parameters() if isinstance(value, TorchAOBaseTensor)}
    assert in_8_bits >= {f"model.layers.{i}.mixer.out_proj.weight" for i in range(2)}
    assert in_8_bits <= {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    rest = {name: value for name, value in parameters_of(model).items() if name not in in_8_bits}
    assert {"kernel.weights", "mixer.D"} <= {".".join(name.split(".")[-2:]) for name in rest}
    assert_same_tensors({name: dict(quantised.named_parameters())[name].detach() for name in rest}, rest)
    expected, actual = logits_of(model), logits_of(quantised)
    assert 0 < (actual - expected).abs().max() < 0.05 * expected.abs().max()
    quantised.save_pretrained(tmp_path / "quantised")
    torch.testing.assert_close(
        logits_of(model_class.from_pretrained(tmp_path / "quantised")), actual, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("fields", [{"bidirectional": True}, HYBRID], ids=["bidirectional", "hybrid"])
def test_sentence_transformer(fields: dict[str, Any], tmp_path: Path):
    """An encoder of sentences on a saved folder: its embeddings ignore padding, it trains, and comes back the same."""
    saved(DLRModel, fields, tmp_path / "backbone")
    transformer = Transformer(str(tmp_path / "backbone"))
    encoder = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
    before = encoder.encode(TEXTS, show_progress_bar=False)
    alone = np.concatenate([encoder.encode([text], show_progress_bar=False) for text in TEXTS])
    np.testing.assert_allclose(before, alone, rtol=0, atol=1e-5)
    pairs = Dataset.from_dict({"anchor": TEXTS, "positive": [text[::-1] for text in TEXTS]})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), num_train_epochs=1, per_device_train_batch_size=3, learning_rate=0.01,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    SentenceTransformerTrainer(
        encoder, arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(encoder)
    ).train()
    after = encoder.encode(TEXTS, show_progress_bar=False)
    assert np.abs(after - before).max() > 1e-3
    encoder.save_pretrained(str(tmp_path / "encoder"))
    again = SentenceTransformer(str(tmp_path / "encoder"))
    np.testing.assert_allclose(again.encode(TEXTS, show_progress_bar=False), after, rtol=0, atol=1e-6)


def _labelled(tokenizer: Any) -> list[dict[str, Any]]:
    return [dict(tokenizer(text)) | {"labels": i % 3} for i, text in enumerate(TEXTS)]


def _tagged(tokenizer: Any) -> list[dict[str, Any]]:
    return [{**tokenizer(text), "labels": [i % 3 for i in tokenizer(text).input_ids]} for text in TEXTS]


def _plain(tokenizer: Any) -> list[dict[str, Any]]:
    return [dict(tokenizer(text)) for text in TEXTS]


def _answered(tokenizer: Any) -> list[dict[str, Any]]:
    return [dict(tokenizer(text)) | {"start_positions": 0, "end_positions": len(text) - 1} for text in TEXTS]


# Scripts for any Auto model: its class, the data, the collator, and what the command line says of the configuration.
SCRIPTS: dict[str, tuple[Any, Callable[[Any], list[dict[str, Any]]], Callable[[Any], Any], dict[str, Any]]] = {
    "text classification": (AutoModelForSequenceClassification, _labelled, DataCollatorWithPadding, {"num_labels": 3}),
    "token classification": (
        AutoModelForTokenClassification, _tagged, DataCollatorForTokenClassification, {"num_labels": 3},
    ),
    "masked language modelling": (AutoModelForMaskedLM, _plain, DataCollatorForLanguageModeling, {}),
    "causal language modelling": (
        AutoModelForCausalLM, _plain, lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False), {},
    ),
    "question answering": (AutoModelForQuestionAnswering, _answered, DataCollatorWithPadding, {}),
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_for_any_model(script: str, tmp_path: Path):
    """A script that is told nothing but `--model_name_or_path` trains, evaluates and saves a DLR folder."""
    auto_class, examples, collator, options = SCRIPTS[script]
    bidirectional = auto_class is not AutoModelForCausalLM
    saved(DLRModel, {"bidirectional": bidirectional}, tmp_path / "folder")
    model_name_or_path = str(tmp_path / "folder")

    config = AutoConfig.from_pretrained(model_name_or_path, **options)
    tokenizer = AutoTokenizer.from_pretrained(model_name_or_path)
    model = auto_class.from_pretrained(model_name_or_path, config=config)
    arguments = TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=2, learning_rate=0.01,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, report_to="none",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    data = examples(tokenizer)
    trainer = Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, data_collator=collator(tokenizer),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "trained"))

    assert np.isfinite(loss)
    again = auto_class.from_pretrained(tmp_path / "trained")
    assert_same_tensors(again.state_dict(), trainer.model.state_dict())
    assert type(AutoTokenizer.from_pretrained(tmp_path / "trained")) is type(tokenizer)
