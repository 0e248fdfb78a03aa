"""Check that a folder has a model, and read what its files declare, before anything is built from them."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from modeling_dlr import DLRConfig, StripedHyenaConfig

from .bounded_files import read_json
from .errors import InputError, reason_of
from .file_kinds import unreadable_entries

# Configuration fields that are tensor sizes, numbers of modules with a tensor each, and factors of sizes.
# Smaller values need no check here: building is fast, and the tensors are compared afterwards.
_SIZES = {"hidden_size", "vocab_size", "input_size", "state_size", "inner_mlp_size"}
_COUNTS = {"num_hidden_layers", "num_layers", "layer_types"}
_FACTORS = {"num_scales", "num_kernel_channels", "num_attention_heads", "attention_ff_ratio"}
_SMALL = 1_000
_MODEL_TYPES = (DLRConfig.model_type, StripedHyenaConfig.model_type)


def check_model_folder(folder: Path, *, loaded: bool = False) -> None:
    """Refuse a folder without a model of this package, or with files that cannot be read in bounded time and memory.

    Args:
        folder: the folder to check.
        loaded: check only files that are read when the model is loaded; a training run may have left others.

    Raises:
        InputError: with the reason.
    """
    try:
        exists = {name: (folder / name).is_file() for name in ("config.json", "adapter_config.json")}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder!s:.200} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if exists["adapter_config.json"]:
        raise InputError(
            f"{folder} holds an adapter of PEFT and no whole model: save the model with it merged, "
            "model.merge_and_unload().save_pretrained(...)."
        )
    if not exists["config.json"]:
        raise InputError(f"{folder} holds no model: there is no config.json. Name a folder that save_pretrained wrote.")
    unreadable = list(unreadable_entries(folder, loaded=loaded))
    if unreadable:
        more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        raise InputError(f"{folder} has files that no model needs: {'; '.join(unreadable[:3])}{more}. Remove it.")
    written = read_json(folder / "config.json")
    if not isinstance(written, dict):
        raise InputError(f"{folder / 'config.json'} must hold a mapping, got a {type(written).__name__}.")
    kind = written.get("model_type")
    if kind not in _MODEL_TYPES:
        what = f"this is a {kind!s:.40} model" if kind else "its config.json names no model_type"
        raise InputError(
            f"{folder} holds no model of this package: {what}, and only {' and '.join(map(repr, _MODEL_TYPES))} are."
        )
    _refuse_other_sizes(folder, written)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json without interpreting it; empty if it cannot be read."""
    try:
        config = read_json(folder / "config.json")
    except InputError:
        return {}
    return config if isinstance(config, dict) else {}


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Read name and shape of every tensor in the files that `from_pretrained` loads; empty without such files.

    Raises:
        InputError: for an index that cannot be read, or that names a file outside the folder.
        SafetensorError: for an incomplete file.
    """
    shapes = {}
    for shard in _shards(folder):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shapes[name] = list(tensors.get_slice(name).get_shape())
    return shapes


def _shards(folder: Path) -> list[Path]:
    """The weight file, or the files that the index lists."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        return [folder / SAFE_WEIGHTS_NAME] if (folder / SAFE_WEIGHTS_NAME).is_file() else []
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    beside = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    if not isinstance(names, dict) or not all(isinstance(name, str) and name in beside for name in names.values()):
        raise InputError(f"{index} must map the name of each weight to a .safetensors file beside it.")
    return [folder / name for name in sorted(set(names.values()))]


def check_weights(folder: Path) -> None:
    """Refuse a folder without complete weights.

    Raises:
        InputError: with the reason.
    """
    try:
        shapes = saved_shapes(folder)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"The weights in {folder} are not whole ({reason_of(error)}): save the model again."
        ) from error
    if not shapes:
        raise InputError(f"{folder} holds no weights: there is no {SAFE_WEIGHTS_NAME}. Save the model again.")


def _refuse_other_sizes(folder: Path, written: dict[str, Any]) -> None:
    """Refuse large sizes in the configuration that the weights do not have, before memory is allocated."""
    try:
        shapes = saved_shapes(folder)
    except (SafetensorError, OSError):
        shapes = {}  # without weights, sizes only create lists of that length
    kernel, layers = written.get("kernel_parameters"), written.get("layer_types")
    given = written | (kernel if isinstance(kernel, dict) else {})
    if isinstance(layers, list) and "linear_attention" not in layers:
        given.pop("state_size", None)  # attention layers alone have no states
    given["layer_types"] = len(layers) if isinstance(layers, list) else 0
    lengths = {length for shape in shapes.values() for length in shape}
    for name in sorted((_SIZES | _COUNTS | _FACTORS) & given.keys()):
        size = given[name]
        if not isinstance(size, int) or (size <= _SMALL and not (shapes and name in _COUNTS)):
            continue
        if name in _SIZES:
            fits = not shapes or not {size, size // 2, 2 * size}.isdisjoint(lengths)
        else:
            fits = size <= (len(shapes) if name in _COUNTS else max(lengths, default=0))
        if not fits:
            raise InputError(
                f"{folder / 'config.json'} says {name} {size:,}, which does not fit its {len(shapes)} weights: save "
                "the model again."
            )
