"""One row per model: the Auto class of transformers that finds it."""

from .heads_dlr import (
    DLRForMultipleChoice,
    DLRForQuestionAnswering,
    DLRForSequenceClassification,
    DLRForSequencePairClassification,
    DLRForTokenClassification,
)
from .modeling_dlr import DLRForCausalLM, DLRForMaskedLM, DLRModel, DLRPreTrainedModel
from .signal_heads_dlr import (
    DLRForAudioClassification,
    DLRForAudioFrameClassification,
    DLRForImageClassification,
    DLRForSemanticSegmentation,
)

AUTO_CLASSES: dict[str, type[DLRPreTrainedModel]] = {
    "AutoModel": DLRModel,
    "AutoModelForAudioClassification": DLRForAudioClassification,
    "AutoModelForAudioFrameClassification": DLRForAudioFrameClassification,
    "AutoModelForCausalLM": DLRForCausalLM,
    "AutoModelForImageClassification": DLRForImageClassification,
    "AutoModelForMaskedLM": DLRForMaskedLM,
    "AutoModelForMultipleChoice": DLRForMultipleChoice,
    "AutoModelForNextSentencePrediction": DLRForSequencePairClassification,
    "AutoModelForQuestionAnswering": DLRForQuestionAnswering,
    "AutoModelForSemanticSegmentation": DLRForSemanticSegmentation,
    "AutoModelForSequenceClassification": DLRForSequenceClassification,
    "AutoModelForTokenClassification": DLRForTokenClassification,
}
for _auto_class, _model_class in AUTO_CLASSES.items():
    _model_class.register_for_auto_class(_auto_class)
