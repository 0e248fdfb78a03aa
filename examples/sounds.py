"""Tell sounds apart by their raw samples: which of four tones is in the noise."""

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from modeling_dlr import DLRConfig, DLRForAudioClassification
from modeling_dlr.processing import sound_extractor
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
rate, tones = 4000, {"a": 440.0, "c": 523.3, "e": 659.3, "g": 784.0}
rng = np.random.default_rng(0)


def row(_: int) -> dict[str, object]:
    """An eighth of a second of one tone, at any phase, in noise that is twice as strong."""
    label = int(rng.integers(len(tones)))
    time = np.arange(rate // 8) / rate
    tone = np.sin(2 * np.pi * (list(tones.values())[label] * time + rng.random()))
    return {"samples": (tone + 1.4 * rng.standard_normal(len(time))).astype(np.float32), "labels": label}


# A folder of recordings takes this place: soundfile.read or scipy.io.wavfile.read gives the samples of each.
data = Dataset.from_list(list(map(row, range(500)))).train_test_split(100, seed=0)
extractor = sound_extractor(rate)  # mean 0, variance 1, and padding with a mask


def collate(rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    """A batch of recordings, which may have different lengths."""
    samples = [np.array(row["samples"]) for row in rows]
    batch = extractor(samples, sampling_rate=rate, padding=True, return_tensors="pt")
    return dict(batch) | {"labels": torch.tensor([row["labels"] for row in rows])}


config = DLRConfig(
    input_size=1, bidirectional=True, hidden_size=48, num_hidden_layers=2, id2label=dict(enumerate(tones)),
)  # fmt: skip
args = TrainingArguments(
    "outputs/sounds", learning_rate=4e-3, warmup_steps=10, lr_scheduler_type="cosine", num_train_epochs=5,
    per_device_train_batch_size=16, remove_unused_columns=False, save_strategy="no", report_to="none",
)  # fmt: skip
trainer = Trainer(
    DLRForAudioClassification(config),
    args,
    train_dataset=data["train"],
    data_collator=collate,
    processing_class=extractor,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()
found = trainer.predict(data["test"])
accuracy = (found.predictions.argmax(-1) == found.label_ids).mean()
print(f"accuracy on {len(data['test'])} recordings: {accuracy:.3f}")
trainer.save_model()
