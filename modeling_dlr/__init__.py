"""Diagonal linear RNNs and diagonal state spaces for long sequences, as Hugging Face models.

Importing this package registers its classes with the Auto classes of transformers.
"""

import transformers

import modeling_dlr.quiet_import  # noqa: F401 - before the imports that it is about

from .auto_dlr import AUTO_CLASSES
from .cache_dlr import detach_cache
from .configuration_dlr import DLRConfig
from .configuration_striped_hyena import StripedHyenaConfig
from .heads_dlr import (
    DLRForMultipleChoice,
    DLRForQuestionAnswering,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
)
from .kernels_dlr import DLRKernel, DSSKernel, S4DKernel, SGConvKernel
from .modeling_dlr import DLRForCausalLM, DLRForMaskedLM, DLRModel, DLRPreTrainedModel
from .modeling_striped_hyena import (
    STRIPED_HYENA_CLASSES,
    StripedHyenaForSequenceClassification,
    StripedHyenaForTokenClassification,
    StripedHyenaModel,
    StripedHyenaModelForCausalLM,
    StripedHyenaPreTrainedModel,
)
from .signal_heads_dlr import (
    DLRForAudioClassification,
    DLRForAudioFrameClassification,
    DLRForImageClassification,
    DLRForSemanticSegmentation,
)

__version__ = "1.0.0rc1"

transformers.AutoConfig.register("dlr", DLRConfig, exist_ok=True)
for _auto_class, _model_class in AUTO_CLASSES.items():
    getattr(transformers, _auto_class).register(DLRConfig, _model_class, exist_ok=True)
transformers.AutoConfig.register("stripedhyena", StripedHyenaConfig, exist_ok=True)
for _auto_class, _model_class in STRIPED_HYENA_CLASSES.items():
    getattr(transformers, _auto_class).register(StripedHyenaConfig, _model_class, exist_ok=True)

__all__ = [
    "DLRConfig",
    "DLRForAudioClassification",
    "DLRForAudioFrameClassification",
    "DLRForCausalLM",
    "DLRForImageClassification",
    "DLRForMaskedLM",
    "DLRForMultipleChoice",
    "DLRForQuestionAnswering",
    "DLRForSemanticSegmentation",
    "DLRForSequenceClassification",
    "DLRForSequencePairClassification",
    "DLRForTokenClassification",
    "DLRKernel",
    "DLRModel",
    "DLRPreTrainedModel",
    "DSSKernel",
    "S4DKernel",
    "SGConvKernel",
    "StripedHyenaConfig",
    "StripedHyenaForSequenceClassification",
    "StripedHyenaForTokenClassification",
    "StripedHyenaModel",
    "StripedHyenaModelForCausalLM",
    "StripedHyenaPreTrainedModel",
    "detach_cache",
]
