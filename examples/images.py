"""Classify images, read pixel by pixel: drawn circles, squares and triangles of any size, place and brightness."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import Trainer, TrainingArguments, pipeline, set_seed

from modeling_dlr import DLRConfig, DLRForImageClassification
from modeling_dlr.processing import pixel_processor
from modeling_dlr.training import optimizer_for_trainer

set_seed(0)
shapes, size = ["circle", "square", "triangle"], 16
rng = np.random.default_rng(0)


def draw() -> tuple[Image.Image, int]:
    """An image and the number of its shape."""
    label, radius = int(rng.integers(3)), int(rng.integers(3, 7))
    x, y = (int(rng.integers(radius, size - radius)) for _ in range(2))
    image = Image.new("L", (size, size), int(rng.integers(0, 80)))
    ink, box = int(rng.integers(150, 255)), (x - radius, y - radius, x + radius, y + radius)
    pen = ImageDraw.Draw(image)
    if shapes[label] == "circle":
        pen.ellipse(box, fill=ink)
    elif shapes[label] == "square":
        pen.rectangle(box, fill=ink)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=ink)
    return image, label


processor = pixel_processor(size, size)  # other images are scaled to this size


def collate(rows: list[tuple[Image.Image, int]]) -> dict[str, torch.Tensor]:
    """A batch of images, [B, 3, h, w]."""
    images, labels = zip(*rows, strict=True)
    return dict(processor(list(images), return_tensors="pt")) | {"labels": torch.tensor(labels)}


train, test = [draw() for _ in range(800)], [draw() for _ in range(100)]
config = DLRConfig(
    input_size=1,  # grey; 3 is for colour
    bidirectional=True, hidden_size=64, num_hidden_layers=2, id2label=dict(enumerate(shapes)),
)  # fmt: skip
args = TrainingArguments(
    "outputs/images", learning_rate=4e-3, warmup_steps=20, lr_scheduler_type="cosine", num_train_epochs=5,
    per_device_train_batch_size=16, remove_unused_columns=False, save_strategy="no", report_to="none",
)  # fmt: skip
trainer = Trainer(
    DLRForImageClassification(config),
    args,
    train_dataset=train,
    data_collator=collate,
    processing_class=processor,
    optimizer_cls_and_kwargs=optimizer_for_trainer(args, state_learning_rate=1e-3),
)
trainer.train()
found = trainer.predict(test)
accuracy = (found.predictions.argmax(-1) == found.label_ids).mean()
print(f"accuracy on {len(test)} images: {accuracy:.3f}")
trainer.save_model()

classify = pipeline("image-classification", model=trainer.model, image_processor=processor)
image, label = test[0]
print(shapes[label], classify(image))
