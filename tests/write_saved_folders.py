"""Write the folders of tests/golden/folders: tiny models, and what each of them computes.

    python tests/write_saved_folders.py FOLDER

The folders in the repository were written by the code of commit 2769f79: later code must load them.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tiny import perturbed

from modeling_dlr import DLRConfig, StripedHyenaConfig

TOKENS: dict[str, Any] = {"hidden_size": 4, "num_hidden_layers": 2, "state_size": 5, "vocab_size": 11}
NAMES: dict[str, Any] = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "pad_token_id": 0}

# The Auto class of each folder and the fields of its configuration.
FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dlr": (
        "AutoModelForSequenceClassification",
        TOKENS | NAMES | {"bidirectional": True, "output_gate": "glu", "kernel_parameters": {"read_out": "prod"}},
    ),
    "dss": (
        "AutoModelForSequenceClassification",
        {"hidden_size": 4, "num_hidden_layers": 2, "state_size": 5, "input_size": 3, "num_labels": 1}
        | {"norm_type": "batch", "pooling": "max", "residual_type": "decay"}
        | {"kernel_parameters": {"kernel_type": "dss", "separate_time_steps": True}},
    ),
    "s4d": (
        "AutoModelForSequenceClassification",
        TOKENS
        | NAMES
        | {"problem_type": "multi_label_classification", "norm_type": "scalar_layer", "norm_position": "post"}
        | {"num_kernel_channels": 2, "kernel_parameters": {"kernel_type": "s4d", "discretization": "bilinear"}},
    ),
    "sgconv": (
        "AutoModelForSequenceClassification",
        TOKENS | NAMES | {"channel_gate_act": "gelu", "kernel_parameters": {"kernel_type": "sgconv", "num_scales": 3}},
    ),
    "attention": (
        "AutoModelForSequenceClassification",
        TOKENS
        | NAMES
        | {"layer_types": ["dlr", "full_attention", "local_attention"], "num_hidden_layers": 3}
        | {"num_attention_heads": 2, "attention_window": 3, "attention_ff_ratio": 2, "pooling": "last"},
    ),
    "causal_lm": (
        "AutoModelForCausalLM",
        TOKENS | {"tie_word_embeddings": True, "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": [2, 3]},
    ),
    "striped_hyena": (
        "AutoModelForCausalLM",
        {"vocab_size": 11, "hidden_size": 8, "num_layers": 3, "attn_layer_idxs": [1], "num_attention_heads": 2}
        | {"state_size": 3, "inner_mlp_size": 7, "max_sequence_len": 8192},
    ),
}


def inputs_of(config: transformers.PreTrainedConfig, batch: int = 2, length: int = 10) -> dict[str, torch.Tensor]:
    """Random inputs, of which the second row has three steps of padding on the right."""
    if getattr(config, "input_size", None) is not None:
        inputs = {"input_values": torch.randn(batch, length, config.input_size, dtype=torch.float64)}
    else:
        inputs = {"input_ids": torch.randint(1, config.vocab_size, (batch, length))}
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1, -3:] = 0
    return inputs | {"attention_mask": mask}


def main(target: Path) -> None:
    """Write a folder for each row of `FOLDERS`, without the code."""
    for seed, (name, (auto_class, fields)) in enumerate(FOLDERS.items()):
        torch.manual_seed(seed)
        config = (StripedHyenaConfig if name == "striped_hyena" else DLRConfig)(**fields)
        config.notes = {"seed": seed}  # no field: a configuration keeps it
        model = perturbed(getattr(transformers, auto_class).from_config(config)).double().eval()
        inputs = inputs_of(config)
        with torch.no_grad():
            outputs = model(**inputs)
        model.save_pretrained(target / name)
        for code in (target / name).glob("*.py"):
            code.unlink()
        save_file(inputs | {"logits": outputs.logits.contiguous()}, target / name / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
