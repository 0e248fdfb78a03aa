"""Which page a folder gets, by the class of its model."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_dlr.inference import HEADS, check_device, read_config

from .answers import Answerer
from .choices import ChoiceAnswerer, QuestionAnswerer
from .labels import row_answerer
from .language import GapAnswerer, TextWriter
from .regions import RegionAnswerer

PAGES: dict[str, Callable[[str | os.PathLike[str], str], Answerer]] = {
    **dict.fromkeys(HEADS, row_answerer),
    "DLRForCausalLM": TextWriter,
    "DLRForMaskedLM": GapAnswerer,
    "DLRForMultipleChoice": ChoiceAnswerer,
    "DLRForQuestionAnswering": QuestionAnswerer,
    "DLRForSemanticSegmentation": RegionAnswerer,
    "StripedHyenaModelForCausalLM": TextWriter,
}


def check_folder(folder: str | os.PathLike[str]) -> Callable[[str | os.PathLike[str], str], Answerer]:
    """What makes the page of a folder; its weights are not read.

    Args:
        folder: where `modeling-dlr train` or ``save_pretrained`` has saved a model of this library.

    Raises:
        ValueError: for what is no folder of a model that answers a reader.
    """
    config, head = read_config(Path(folder))
    if head not in PAGES:
        raise ValueError(f"{folder} holds {head}, which answers no reader: give a folder of one of {', '.join(PAGES)}.")
    if head not in HEADS and head != "DLRForSemanticSegmentation":
        _check_text_model(Path(folder), config, head)
    return PAGES[head]


def answerer_of(folder: str | os.PathLike[str], device: str = "cpu") -> Answerer:
    """The model of a folder, as a page asks it.

    Args:
        folder: as `check_folder` takes it.
        device: such as "cpu" or "cuda".

    Raises:
        ValueError: for what is no folder of a model that answers a reader, and a device that is not there.
    """
    check_device(device)
    make = check_folder(folder)
    try:
        return make(folder, device)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} could not be loaded: {' '.join(str(error).split())}") from error


def _check_text_model(folder: Path, config: Any, head: str) -> None:
    """Refuse a model of real values, and one without a tokenizer."""
    if getattr(config, "input_size", None) is not None:
        raise ValueError(
            f"{folder} holds {head} of real values, which nobody types: give a folder of a model of texts."
        )
    known = config.model_type == "stripedhyena"  # the tokenizer of Evo needs no file
    if not known and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(f"{folder} has no tokenizer: save yours there with tokenizer.save_pretrained.")
