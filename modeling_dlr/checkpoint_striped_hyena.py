"""Checks of a checkpoint before its weights are read: its revision, and the names and shapes of its tensors."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers.utils import logging

# Repositories that are right at one revision only, whose commit begins with these characters, if they are known.
RIGHT_REVISION = "1.1_fix"
RIGHT_COMMITS: dict[str, str | None] = {
    "togethercomputer/evo-1-8k-base": None,
    "togethercomputer/evo-1-131k-base": "c206aab",
}

# Names that are shown in an error.
_SHOWN = 4

logger = logging.get_logger(__name__)


def warn_of_revision(name: str, revision: str) -> None:
    """Warn when a repository is loaded at a revision with wrong weights; a local folder is never warned of."""
    if name not in RIGHT_COMMITS or os.path.isdir(name):  # noqa: PTH112
        return
    commit = RIGHT_COMMITS[name]
    if revision != RIGHT_REVISION and (commit is None or not revision.startswith(commit)):
        logger.warning(
            f"{name} is known to be right only at the revision {RIGHT_REVISION!r}, got {revision!r}: in others "
            f"projections are permuted wrongly, and they generate badly. Pass revision={RIGHT_REVISION!r}."
        )


def saved_shapes(state_dict: Mapping[str, Tensor] | None, files: Sequence[str] | None) -> dict[str, list[int]] | None:
    """The shapes of saved tensors by name, from the headers of safetensors files; None for files of another kind."""
    if state_dict is not None:
        return {name: list(value.shape) for name, value in state_dict.items()}
    if not files or not all(str(file).endswith(".safetensors") for file in files):
        return None
    shapes = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def check_shapes(model: Any, saved: Mapping[str, list[int]], name: str, any_shape: bool) -> None:
    """Refuse weights that are not those of a model, before any of them is read.

    A classifier may be missing, left over, or of another shape: it is drawn anew, and transformers warns of it.

    Args:
        model: whose weights are to be loaded.
        saved: shapes of the saved tensors by name, with or without the prefix of the backbone.
        name: of the folder or repository.
        any_shape: whether tensors of another shape are drawn anew, too.

    Raises:
        ValueError: naming the tensors that are missing, left over, or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    own = {key.removeprefix(prefix): list(value.shape) for key, value in model.state_dict().items()}
    found = {key.removeprefix(prefix): shape for key, shape in saved.items()}
    output = "unembed.weight"
    optional = {output} if model.config.tie_embeddings or output not in own else set()
    missing = own.keys() - found.keys() - optional
    unexpected = found.keys() - own.keys() - optional
    other = {key for key in own.keys() & found.keys() if own[key] != found[key]}
    shapes = [f"{key} of {found[key]} instead of {own[key]}" for key in sorted(other - _drawn_anew(other))]
    refuse_weights(name, missing, unexpected, [] if any_shape else shapes)


def _drawn_anew(names: Collection[str]) -> set[str]:
    """Weights of a classifier, and rotary frequencies, which nothing reads."""
    return {key for key in names if key.startswith("classifier.") or key.endswith("rotary_emb.inv_freq")}


def refuse_weights(
    name: str, missing: Collection[str], unexpected: Collection[str], shapes: Collection[str] = ()
) -> None:
    """Refuse a checkpoint in which weights of the backbone are missing, left over, or of another shape.

    Raises:
        ValueError: with the first names of each kind.
    """
    kinds = {
        "missing": sorted(set(missing) - _drawn_anew(missing)),
        "left over": sorted(set(unexpected) - _drawn_anew(unexpected)),
        "of another shape": list(shapes),
    }
    found = [
        f"{', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''} {kind}"
        for kind, names in kinds.items()
        if names
    ]
    if found:
        raise ValueError(
            f"The weights of {name} must be those that its config.json describes, but there are {'; '.join(found)}: "
            "use the configuration and all weight files of one and the same model."
        )
