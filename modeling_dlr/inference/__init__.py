"""Use a folder that holds a trained model: `predict` and `embed` rows of tables, as `modeling-dlr` does."""

from .embedding import EMBEDDINGS, Embedder, Pooling, embed, embed_rows
from .engines import check_engine, made_for
from .folders import HEADS, check_device, config_of, load_text_model, preprocessor_of, read_config
from .inputs import inputs_of
from .jobs import Engine
from .parts import Written, check_output, identity, in_chunks, write_in_parts
from .predicting import Predictor, predict

__all__ = [
    "EMBEDDINGS",
    "HEADS",
    "Embedder",
    "Engine",
    "Pooling",
    "Predictor",
    "Written",
    "check_device",
    "check_engine",
    "check_output",
    "config_of",
    "embed",
    "embed_rows",
    "identity",
    "in_chunks",
    "inputs_of",
    "load_text_model",
    "made_for",
    "predict",
    "preprocessor_of",
    "read_config",
    "write_in_parts",
]
