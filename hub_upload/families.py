"""The families of models that a folder may hold, by the model_type of its config.json."""

from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from modeling_dlr import DLRConfig, StripedHyenaConfig
from modeling_dlr.auto_dlr import AUTO_CLASSES
from modeling_dlr.modeling_striped_hyena import STRIPED_HYENA_CLASSES

from .model_folder import read_config


class Family(NamedTuple):
    """Its configuration, and its model for each Auto class."""

    config_class: type[PreTrainedConfig]
    auto_classes: dict[str, type[Any]]


FAMILIES: dict[str, Family] = {
    DLRConfig.model_type: Family(DLRConfig, dict(AUTO_CLASSES)),
    StripedHyenaConfig.model_type: Family(StripedHyenaConfig, dict(STRIPED_HYENA_CLASSES)),
}


def family_of(folder: Path) -> Family:
    """The family of a folder; that of DLR if its config.json names none of these."""
    return FAMILIES.get(str(read_config(folder).get("model_type")), FAMILIES[DLRConfig.model_type])


def auto_class_of(folder: Path) -> str:
    """The Auto class of the saved head; "AutoModel" if the head is not one of ours."""
    saved = (read_config(folder).get("architectures") or [""])[0]
    models: dict[str, type[PreTrainedModel]] = family_of(folder).auto_classes
    return next((name for name, model in models.items() if model.__name__ == saved), "AutoModel")
