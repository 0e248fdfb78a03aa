"""`StripedHyenaConfig`: the fields of Evo-1 and StripedHyena-7B, by the names that their files have on the Hub.

This file imports no torch. Annotations of fields must stay types (no postponed annotations): `strict` reads them.
"""

# First, because it checks the version of transformers.
from .configuration_base_dlr import BaseConfig

# isort: split
from reprlib import repr as short
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .kernel_parameters_dlr import NOT_NEGATIVE, PROBABILITY, SIZE, Range, config_field

# Keys of the published files that do not change results: options of kernels, training and caches of fixed size.
UNREAD = frozenset({
    "column_split", "inference_mode", "log_intermediate_values", "make_vocab_size_divisible_by", "max_sequence_len",
    "model_parallel_size", "num_filters", "pipe_parallel_size", "prefill_style", "print_activations", "smeared_gqa",
    "split_k0", "use_flash_attention_2", "use_flash_attn", "use_flash_depthwise", "use_flashfft",
})  # fmt: skip


@strict
class StripedHyenaConfig(BaseConfig):
    """Configuration of a StripedHyena: gated long convolutions with a few attention layers between them.

    Fields have the names of the published files. Those of transformers are aliases (``num_hidden_layers`` of
    ``num_layers``, ``rms_norm_eps`` of ``eps``). Other keys of the published files are kept and not read.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        StrictDataclassError: of huggingface_hub, for a value of the wrong type or out of range, or a contradiction.

    >>> config = StripedHyenaConfig(hidden_size=64, num_layers=4, num_attention_heads=4, attn_layer_idxs=[2])
    >>> config.num_hidden_layers, config.layer_types
    (4, ['hyena', 'hyena', 'full_attention', 'hyena'])
    """

    model_type = "stripedhyena"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_mlp_size",
        "hidden_act": "mlp_activation",
        "rms_norm_eps": "eps",
        "rope_theta": "rotary_emb_base",
        "max_position_embeddings": "max_seqlen",
        "tie_word_embeddings": "tie_embeddings",
    }

    vocab_size: int = config_field(512, "number of tokens", SIZE)
    hidden_size: int = config_field(4096, "width of the hidden states", SIZE, "H")
    num_layers: int = config_field(32, "number of blocks", Range(1, 10_000))
    attn_layer_idxs: list[int] | None = config_field(None, "blocks that attend, counted from 0; None is no block")
    hyena_layer_idxs: list[int] | None = config_field(None, "blocks that convolve; None is all others")
    state_size: int = config_field(8, "complex poles of a channel", SIZE, "N")
    hyena_filter_groups: int = config_field(1, "channels that share the poles and residues of one filter", SIZE)
    short_filter_length: int = config_field(3, "length of the short filter", SIZE, "S")
    short_filter_bias: bool = config_field(True, "the short filter has a bias")
    column_split_hyena: bool = config_field(
        True, "projections hold x2, x1 and v of one head after the other; False: of all heads together"
    )
    num_attention_heads: int = config_field(32, "heads of queries, and of `column_split_hyena`", SIZE)
    proj_groups: int = config_field(1, "query heads that share one head of keys and values", SIZE)
    qkv_proj_bias: bool = config_field(True, "queries, keys and values have a bias")
    mha_out_proj_bias: bool = config_field(True, "the output of attention has a bias")
    rotary_emb_base: float | int = config_field(10000, "base of the rotary frequencies", Range(0, open_minimum=True))
    use_interpolated_rotary_pos_emb: bool = config_field(False, "divide positions by rotary_emb_scaling_factor")
    rotary_emb_scaling_factor: float | int = config_field(1, "divisor of positions", Range(0, open_minimum=True))
    inner_mlp_size: int | None = config_field(
        None, "width of the MLP; None is 8H/3, rounded up to a multiple of inner_size_multiple_of", SIZE
    )
    inner_size_multiple_of: int = config_field(64, "inner_mlp_size, if computed, is a multiple of this", SIZE)
    mlp_activation: Literal["gelu", "silu"] = config_field("silu", "activation of the MLP's gate")
    eps: float | int = config_field(
        1e-6, "added to the mean of squares in every norm, or to its root; see use_flash_rmsnorm", NOT_NEGATIVE
    )
    use_flash_rmsnorm: bool = config_field(
        False, "add eps to the mean of squares (StripedHyena-7B), not to its root (Evo)"
    )
    final_norm: bool = config_field(True, "normalise before the projection to the vocabulary")
    tie_embeddings: bool = config_field(True, "share the weights of the embedding with that projection")
    max_seqlen: int = config_field(8192, "length of the sequences in pretraining; longer ones are accepted", SIZE)
    initializer_range: float | int = config_field(0.02, "standard deviation of new weights", NOT_NEGATIVE)
    classifier_dropout: float | int = config_field(0.0, "dropout before a classifier", PROBABILITY)
    pooling: Literal["mean", "last", "first", "max", "mean_max"] = config_field(
        "mean", "how a sequence classifier reduces the steps, without padding, to one"
    )
    use_cache: bool = config_field(True, "return the states as cache from every forward pass")

    def __post_init__(self, **kwargs):
        if self.inner_mlp_size is None:
            multiple = self.inner_size_multiple_of * (kwargs.get("model_parallel_size") or 1)
            self.inner_mlp_size = -(-(8 * self.hidden_size // 3) // multiple) * multiple
        super().__post_init__(**kwargs)

    @classmethod
    def known_names(cls) -> frozenset[str]:
        """As in `BaseConfig`, and the keys of the published files that nothing reads."""
        return super().known_names() | UNREAD

    @property
    def layer_types(self) -> list[str]:
        """What mixes the steps in each block: "hyena" or "full_attention"."""
        attends = set(self.attn_layer_idxs or ())
        return ["full_attention" if i in attends else "hyena" for i in range(self.num_layers)]

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads // self.proj_groups

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_attention_heads

    def validate_layer_type(self):
        """Every block convolves or attends. Blocks after the last, which published files list, are ignored."""
        attend, convolve = set(self.attn_layer_idxs or ()), set(self.hyena_layer_idxs or ())
        wrong = sorted(i for i in attend if not 0 <= i < self.num_layers)
        if wrong:
            raise ValueError(
                f"attn_layer_idxs must lie in 0 … num_layers-1 = {self.num_layers - 1}, got {wrong}: leave these out."
            )
        if self.hyena_layer_idxs is None:
            return
        both = sorted(attend & convolve)
        neither = [i for i in range(self.num_layers) if i not in attend | convolve]
        if both or neither:
            raise ValueError(
                "every block must be in one of attn_layer_idxs and hyena_layer_idxs, but "
                f"{short(both)} are in both and {short(neither)} in neither: leave hyena_layer_idxs out."
            )

    def validate_heads(self):
        """Heads have equally many channels, and an even number for rotary positions; groups have equally many heads."""
        H, heads, groups = self.hidden_size, self.num_attention_heads, self.proj_groups
        if H % heads or (self.attn_layer_idxs and H % (2 * heads)):
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, and of twice as many where a block attends, "
                f"got {H} and {heads}."
            )
        if heads % groups:
            raise ValueError(f"num_attention_heads must be a multiple of proj_groups, got {heads} and {groups}.")

    def validate_filters(self):
        """Groups have equally many channels, and every channel has a filter."""
        if self.hidden_size % self.hyena_filter_groups:
            raise ValueError(
                "hyena_filter_groups channels share a filter, so it must divide hidden_size, got "
                f"{self.hyena_filter_groups} and {self.hidden_size}: published models have 1."
            )
        filters = getattr(self, "num_filters", None)
        if filters not in (None, self.hidden_size):
            raise ValueError(
                f"num_filters must be hidden_size={self.hidden_size}, got {short(filters)}: leave num_filters out."
            )
        if getattr(self, "smeared_gqa", False):
            raise ValueError("smeared_gqa must be False, as in every published model, got True: leave it out.")


StripedHyenaConfig.register_for_auto_class()

__all__ = ["StripedHyenaConfig"]
