"""Embed texts so that those with one meaning lie close together, with sentence-transformers."""

import itertools
import random

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import set_seed

from modeling_dlr import DLRConfig, DLRModel
from modeling_dlr.tokenization import byte_tokenizer

set_seed(0)

# Questions about one of 24 subjects, asked in several ways.
orders = ["cancel", "change", "track", "pay for"]
things = ["my flight", "the hotel", "a train ticket", "this parcel", "the rent", "my insurance"]
forms = ["how do I {} {}?", "I want to {} {}", "please help me {} {}", "can somebody {} {} for me?"]
subjects = list(itertools.product(orders, things))
pairs = []
for subject in subjects:
    one, other = itertools.tee(random.sample(forms[:3], k=3))  # the last form is for the test
    next(other)
    pairs += [(a.format(*subject), b.format(*subject)) for a, b in zip(one, other, strict=False)]
train = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]})

# Any saved folder of this library, with or without a head, takes the place of this one.
tokenizer = byte_tokenizer()
config = DLRConfig(
    bidirectional=True, hidden_size=64, num_hidden_layers=2, vocab_size=len(tokenizer),
    pad_token_id=tokenizer.pad_token_id,
)  # fmt: skip
DLRModel(config).save_pretrained("outputs/sentence_embeddings/backbone")
tokenizer.save_pretrained("outputs/sentence_embeddings/backbone")

transformer = Transformer("outputs/sentence_embeddings/backbone")
encoder = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")])
args = SentenceTransformerTrainingArguments(
    "outputs/sentence_embeddings/run", num_train_epochs=80, per_device_train_batch_size=24, learning_rate=4e-3,
    warmup_steps=10, save_strategy="no", report_to="none",
)  # fmt: skip
SentenceTransformerTrainer(encoder, args, train_dataset=train, loss=MultipleNegativesRankingLoss(encoder)).train()
encoder.save_pretrained("outputs/sentence_embeddings/encoder")

# A way to ask that was never trained on finds the same subject, asked in another way.
asked = encoder.encode([forms[3].format(*subject) for subject in subjects], convert_to_tensor=True)
known = encoder.encode([forms[0].format(*subject) for subject in subjects], convert_to_tensor=True)
nearest = encoder.similarity(asked, known).argmax(1).cpu()
accuracy = (nearest == torch.arange(len(subjects))).float().mean().item()
print(f"right subject first: {accuracy:.3f} of {len(subjects)}")
