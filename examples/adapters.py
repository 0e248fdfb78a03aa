"""Adapt a model to a second task by LoRA: a few added weights are trained, and can be merged or taken off."""

import random

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, set_seed

from modeling_dlr import DLRConfig, DLRForSequenceClassification
from modeling_dlr.tokenization import byte_tokenizer

set_seed(0)
tokenizer = byte_tokenizer()
colours, animals = ["red", "green", "blue"], ["cat", "dog", "cow"]


def batch(count: int, words: list[str]) -> dict[str, torch.Tensor]:
    """Texts with a colour and an animal; the label is which of ``words`` is in each."""
    pairs = [(random.choice(colours), random.choice(animals)) for _ in range(count)]  # noqa: S311
    texts = [f"we saw a {colour} {animal} today" for colour, animal in pairs]
    labels = [words.index(next(word for word in pair if word in words)) for pair in pairs]
    return dict(tokenizer(texts, padding=True, return_tensors="pt")) | {"labels": torch.tensor(labels)}


def train(model: torch.nn.Module, words: list[str], steps: int, rate: float) -> None:
    """Train the parameters that are not frozen."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate)
    model.train()
    for _ in range(steps):
        model(**batch(16, words)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def accuracy(model: torch.nn.Module, words: list[str]) -> float:
    """On 200 new texts."""
    new = batch(200, words)
    labels = new.pop("labels")
    with torch.inference_mode():
        return (model.eval()(**new).logits.argmax(-1) == labels).float().mean().item()


# A model of colours, which is then frozen.
config = DLRConfig(
    bidirectional=True, hidden_size=48, num_hidden_layers=2, num_labels=3, vocab_size=len(tokenizer), pad_token_id=0
)
model = DLRForSequenceClassification(config)
train(model, colours, 100, 4e-3)
model.save_pretrained("outputs/adapters/base")
print(f"base, colours: {accuracy(model, colours):.3f}")

# An adapter for animals. PEFT also trains the classifier anew; kernels stay as they are.
lora = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=8, lora_alpha=16)
adapted = get_peft_model(model, lora)
adapted.print_trainable_parameters()
train(adapted, animals, 150, 1e-2)
adapted.save_pretrained("outputs/adapters/animals")
score = accuracy(adapted, animals)
print(f"with the adapter, animals: {score:.3f}")

# Load the base and put the adapter on it; merged, it is a model as any other.
base = AutoModelForSequenceClassification.from_pretrained("outputs/adapters/base")
merged = PeftModel.from_pretrained(base, "outputs/adapters/animals").merge_and_unload()
merged_score = accuracy(merged, animals)
print(f"merged, animals: {merged_score:.3f}")
merged.save_pretrained("outputs/adapters/merged")
