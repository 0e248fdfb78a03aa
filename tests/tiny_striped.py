"""Tiny StripedHyena models, and the definition of their gated convolution as a plain loop."""

from typing import Any

import numpy as np
import torch
from tiny import AnyModule, perturbed
from torch import Tensor

from modeling_dlr import StripedHyenaConfig

TINY: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 12,
    "num_layers": 3,
    "attn_layer_idxs": [1],
    "num_attention_heads": 2,
    "state_size": 3,
    "inner_mlp_size": 7,
    "num_labels": 4,
}

# One row per published architecture, and what none of them has.
VARIANTS: dict[str, dict[str, Any]] = {
    "Evo": {"mlp_activation": "gelu"},
    "Evo, interpolated": {"use_interpolated_rotary_pos_emb": True, "rotary_emb_scaling_factor": 16},
    "StripedHyena-7B": {
        "proj_groups": 2,
        "use_flash_rmsnorm": True,
        "qkv_proj_bias": False,
        "mha_out_proj_bias": False,
        "tie_embeddings": False,
        "rotary_emb_base": 500000,
    },
    "short filter of 5 taps, in thirds": {"short_filter_length": 5, "column_split_hyena": False},
    "short filter of 1 tap, shared filters": {"short_filter_length": 1, "hyena_filter_groups": 3},
    "nothing but convolutions": {"attn_layer_idxs": [], "short_filter_bias": False, "final_norm": False},
}


def tiny_striped(model_class: type[AnyModule], **changes: Any) -> AnyModule:
    """A model in float64 and evaluation mode, with everything moved off its initial value."""
    return perturbed(model_class(StripedHyenaConfig(**TINY | changes))).double().eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, TINY["vocab_size"], shape)


def gated_convolution(block: torch.nn.Module, x: Tensor, column_split: bool, heads: int) -> np.ndarray:
    """The mixer of one block after its projections, [L, 3H] to [L, H] float64: step by step, in complex numbers."""
    weights = {name: value.detach().double().numpy() for name, value in block.filter.named_parameters()}
    p, taps = x.detach().double().numpy(), weights["short_filter_weight"][:, 0]
    bias = weights.get("short_filter_bias", np.zeros(p.shape[1]))
    (L, C), S = p.shape, taps.shape[1]
    H = C // 3
    q = np.zeros((L, C))
    for t in range(L):
        q[t] = bias
        for s in range(S):
            if t - S + 1 + s >= 0:
                q[t] += taps[:, s] * p[t - S + 1 + s]
    parts = np.zeros((3, L, H))
    for c in range(H):
        head, i, d = c // (H // heads), c % (H // heads), H // heads
        for part in range(3):
            parts[part, :, c] = q[:, head * 3 * d + part * d + i] if column_split else q[:, part * H + c]
    poles, residues = (weights[name][:, :, 0, 0] + 1j * weights[name][:, :, 0, 1] for name in ("poles", "residues"))
    shared = H // len(poles)
    poles, residues = np.repeat(poles, shared, axis=0), np.repeat(residues, shared, axis=0)
    gate, u = parts[0], parts[1] * parts[2]
    state, y = np.zeros(poles.shape, dtype=complex), np.zeros((L, H))
    for t in range(L):
        state = poles * state + u[t][:, None]
        y[t] = ((residues * state).sum(1).real + weights["D"] * u[t]) * gate[t]
    return y
