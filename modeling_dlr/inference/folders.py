"""A folder of a trained model: its model, what prepares its inputs, and what it answers."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

import modeling_dlr
from modeling_dlr.finetuning import Task
from modeling_dlr.finetuning.names import find_folder
from modeling_dlr.tokenization import evo_tokenizer

# What each head answers, of which input, where no `task.json` says so.
HEADS: dict[str, tuple[Any, Any]] = {
    "DLRForSequenceClassification": ("classes", "text"),
    "DLRForSequencePairClassification": ("pairs", "text"),
    "DLRForTokenClassification": ("tokens", "text"),
    "DLRForAudioClassification": ("classes", "sound"),
    "DLRForAudioFrameClassification": ("tokens", "sound"),
    "DLRForImageClassification": ("classes", "image"),
    "StripedHyenaForSequenceClassification": ("classes", "text"),
    "StripedHyenaForTokenClassification": ("tokens", "text"),
}
# What prepares sound and images, by the name under which a folder has it.
PREPROCESSORS: dict[str, Any] = {
    "ASTFeatureExtractor": transformers.ASTFeatureExtractor,
    "Wav2Vec2FeatureExtractor": transformers.Wav2Vec2FeatureExtractor,
    "SegformerImageProcessor": transformers.SegformerImageProcessorPil,
    "SegformerImageProcessorPil": transformers.SegformerImageProcessorPil,
}
_PROBLEMS = {"regression": "number", "multi_label_classification": "several labels"}


class Loaded(NamedTuple):
    """What a folder holds.

    Attributes:
        folder: with its files: the one that was named, or that of the Hub's cache.
        model: with its head, in evaluation mode.
        processor: its tokenizer, feature extractor or image processor.
        task: what it answers; without columns where nothing says which are read.
        columns_known: whether `task.json` says so.
    """

    folder: Path
    model: Any
    processor: Any
    task: Task
    columns_known: bool


def load_folder(folder: str | os.PathLike[str], device: str = "cpu", revision: str | None = None) -> Loaded:
    """Load the model of a folder or of a repository of the Hub, with code of this package only.

    Args:
        folder: a folder, or OWNER/NAME of a repository.
        device: of the model.
        revision: of the repository.

    Raises:
        ValueError: for what is neither, one of another model, without weights, or without what prepares inputs; and
            for a device that is not there.
    """
    check_device(device)
    path = find_folder(folder, revision)
    config, head = read_config(path)
    if head not in HEADS:
        raise ValueError(
            f"{path} holds {head}, which gives no row a label or a number: give a folder of one of {', '.join(HEADS)}."
        )
    known = (path / "task.json").is_file()
    task = Task.load(path) if known else _task_of(config, head)
    if config.input_size is not None and task.input in ("text", "dna"):
        raise ValueError(f"{path} holds {head} of real values: a table has these only for sound and images.")
    try:
        model = getattr(modeling_dlr, head).from_pretrained(path, config=config)
        processor = _processor_of(path, task, config)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} could not be loaded: {' '.join(str(error).split())}") from error
    return Loaded(path, model.to(device).eval(), processor, task, known)


def load_text_model(
    auto_class: Any, name: str, *, dtype: str = "auto", device: str = "cpu", **of_hub: Any
) -> tuple[Any, Any]:
    """A model of texts from a folder or the Hub, in evaluation mode on its device, and its tokenizer.

    Args:
        auto_class: of transformers.
        name: of the folder or repository.
        dtype: of the weights.
        device: of the model.
        of_hub: ``revision`` and ``trust_remote_code``.
    """
    folder = find_folder(name, of_hub.get("revision"), weights=False)
    model = auto_class.from_pretrained(name, dtype=dtype, **of_hub).to(device).eval()
    return model, _tokenizer_of(folder, model.config, trust_remote_code=of_hub.get("trust_remote_code", False))


def _tokenizer_of(folder: Path, config: Any, *, trust_remote_code: bool = False) -> Any:
    if config.model_type == "stripedhyena" and config.vocab_size == 512 and not (folder / "tokenizer.json").is_file():
        return evo_tokenizer()  # the published one is code that needs trust, and has no token of padding
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(f"{folder} has no tokenizer; save yours there with tokenizer.save_pretrained.")
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def config_of(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a folder with a model, of this library or another.

    Raises:
        ValueError: for a folder without one, or one that is damaged or needs code that is not trusted.
    """
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"The model {folder} cannot be loaded: {' '.join(str(error).split())}") from None


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: naming it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device {device!r} here: {str(error).splitlines()[0]}") from None


def read_config(path: Path) -> tuple[Any, str]:
    """The configuration of a folder of this library, and the name of its model's class.

    Raises:
        ValueError: for what is no folder, or one of another model.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}: give one in which a model was saved.")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json: give a folder in which save_pretrained has saved a model.")
    kind = transformers.PretrainedConfig.get_config_dict(path)[0].get("model_type")
    classes = {"dlr": modeling_dlr.DLRConfig, "stripedhyena": modeling_dlr.StripedHyenaConfig}
    if kind not in classes:
        raise ValueError(f"{path} holds a model of type {kind!r}: give a folder of a model of this library.")
    config = classes[kind].from_pretrained(path)
    heads = [name for name in config.architectures or () if name in modeling_dlr.__all__]
    return config, heads[0] if heads else "no model of this library"


def _task_of(config: Any, head: str) -> Task:
    """What a model answers, by its class and its configuration."""
    task, medium = HEADS[head]
    labels = [config.id2label[i] for i in sorted(config.id2label)]
    number = config.problem_type == "regression" or config.num_labels == 1
    if task == "classes":
        task = "number" if number else _PROBLEMS.get(config.problem_type or "", "classes")
    elif task == "tokens" and (number or config.problem_type in _PROBLEMS):
        raise ValueError(f"{head} with problem_type={config.problem_type!r} answers numbers for steps, not one label.")
    columns = {"pairs": ["first", "second"]}.get(task, [medium])
    outside = next((label for label in labels if label in ("O", "outside", "none")), None) if task == "tokens" else None
    unit = "character" if task == "tokens" else None
    names = [] if number and config.num_labels == 1 else labels
    return Task(task, medium, columns, None, names, outside=outside, token_unit=unit)


def _processor_of(path: Path, task: Task, config: Any) -> Any:
    if task.input in ("sound", "image"):
        return preprocessor_of(path, "feature_extractor_type" if task.input == "sound" else "image_processor_type")
    return _tokenizer_of(path, config)


def preprocessor_of(path: Path, key: str) -> Any:
    """By the class that the folder names, for Auto classes of a folder with code ask about that code first."""
    file = path / "preprocessor_config.json"
    if not file.is_file():
        raise ValueError(f"it has no {file.name}; save the feature extractor or image processor there.")
    name = json.loads(file.read_text(encoding="utf-8")).get(key)
    if name not in PREPROCESSORS:
        raise ValueError(f"its {file.name} must name one of {list(PREPROCESSORS)} as {key}, got {name!r}.")
    return PREPROCESSORS[name].from_pretrained(path)
