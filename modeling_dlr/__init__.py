"""Diagonal linear RNNs and diagonal state spaces for long sequences, as Hugging Face models.

Importing this package registers its classes with the Auto classes of transformers.
"""

import transformers

from .configuration_dlr import DLRConfig
from .kernels_dlr import DLRKernel, DSSKernel, S4DKernel, SGConvKernel
from .modeling_dlr import (
    AUTO_CLASSES,
    DLRForSequenceClassification,
    DLRForTokenClassification,
    DLRModel,
    DLRPreTrainedModel,
)

__version__ = "0.1.0"

transformers.AutoConfig.register("dlr", DLRConfig, exist_ok=True)
for _auto_class, _model_class in AUTO_CLASSES.items():
    getattr(transformers, _auto_class).register(DLRConfig, _model_class, exist_ok=True)

__all__ = [
    "DLRConfig",
    "DLRForSequenceClassification",
    "DLRForTokenClassification",
    "DLRKernel",
    "DLRModel",
    "DLRPreTrainedModel",
    "DSSKernel",
    "S4DKernel",
    "SGConvKernel",
]
