"""Images with a label for every pixel, in colour."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import modeling_dlr
from modeling_dlr.finetuning.signals import read_image
from modeling_dlr.inference import preprocessor_of

from .answers import Answer, Answerer, Field, Regions, percent, require


class RegionAnswerer(Answerer):
    """Colours the pixels of an image by their labels."""

    asks = (Field("image", "image"),)
    shows = ("regions",)
    instruction = "Choose an image: the model gives every pixel a label."

    def __init__(self, folder: str | os.PathLike[str], device: str):
        self.processor = preprocessor_of(Path(folder), "image_processor_type")
        model: Any = modeling_dlr.DLRForSemanticSegmentation.from_pretrained(folder)
        self.model = model.to(device).eval()

    def __call__(self, *values: Any) -> Answer:
        """Label the pixels of the image at a path, at its own size."""
        (path,) = values
        require(path, "Give an image first.")
        image = read_image(path).convert("RGB")
        inputs = self.processor(image, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            output = self.model(**inputs)
        sizes = [(image.height, image.width)]
        labels = self.processor.post_process_semantic_segmentation(output, target_sizes=sizes)[0].cpu().numpy()
        masks = {self.model.config.id2label[int(label)]: labels == label for label in np.unique(labels)}
        shares = ", ".join(f"{name} {percent(float(mask.mean()))}" for name, mask in masks.items())
        return Answer(f"Of the pixels: {shares}.", regions=Regions(np.asarray(image), masks))
