"""What every family of models here does alike: it refuses unknown arguments, and names its classes in config.json."""

from collections.abc import Iterable, Mapping
from inspect import signature

from .kernel_parameters_dlr import did_you_mean

# What a forward accepts and does not read: of transformers' own decorators (the first two rows), the Trainer, collators
# that pack rows, tokenizers, and PEFT. A language model's loss reads shift_labels, every loss num_items_in_batch.
PASSED_ALONG = {
    *("output_attentions", "output_hidden_states", "return_dict"),
    *("debug_io", "debug_io_dir", "prune_layers"),
    *("num_items_in_batch", "shift_labels"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"),
    *("token_type_ids", "special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length"),
    "task_ids",
}


def refuse_unknown_arguments(model_class: type, names: Iterable[str]) -> None:
    """Refuse arguments that no forward reads, before they are ignored without a word.

    Args:
        model_class: whose forwards, its own and those it inherits, read the others.
        names: of the arguments that are left when a forward has taken its own.

    Raises:
        TypeError: naming the argument and the nearest one that there is.
    """
    for name in names:
        if name not in PASSED_ALONG:
            forwards = [vars(cls)["forward"] for cls in model_class.__mro__[:-1] if "forward" in vars(cls)]
            read = {parameter for forward in forwards for parameter in signature(forward).parameters}
            own = sorted(read - {"self", "input", "kwargs", name})
            hint = did_you_mean(name, [*own, *PASSED_ALONG]) or f"it takes {', '.join(own)}."
            raise TypeError(f"{model_class.__name__} has no argument {name!r}: {hint}")


def auto_map(config_class: type, auto_classes: Mapping[str, type]) -> dict[str, str]:
    """Where a folder with the code of these classes has the one for each Auto class, as config.json says it."""
    places = {"AutoConfig": config_class, **auto_classes}
    return {auto: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for auto, cls in places.items()}
