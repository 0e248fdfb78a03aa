"""The recurrent state as a layer of a transformers cache: of constant size, however long the sequence."""

import torch
from torch import Tensor
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, Cache, CacheLayerMixin

from .decoding_dlr import Block, LookaheadTables, begin_block, next_output, state_after
from .kernels_dlr import Snapshot
from .ops_dlr import State


class DLRCacheLayer(CacheLayerMixin):
    """The state of one DLR layer, [B, H, N] complex: ``keys`` holds its real and ``values`` its imaginary part.

    Defining it makes `DynamicCache(config=...)` and `StaticCache(config=...)` use it for layers of type "dlr". States
    are replaced, never written into, so gradients flow through a carried state; `detach_cache` cuts them. While tokens
    come one by one, ``keys`` and ``values`` are the state at the start of a ``block``, which has what came since.
    """

    _layer_type = kind = "dlr"
    supports_early_init = False  # the shape of a state is that of the first one

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cumulative_length = 0
        self.block: Block | None = None
        self.made_from: Snapshot | None = None  # the tensors from which the tables of the block were made

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take a first state."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states, value_states
        self.block = self.made_from = None
        self.is_initialized = True

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """Real and imaginary part after all steps so far, or None before the first; in a block it takes a product."""
        if self.keys is None or self.values is None:
            return None
        start = State(self.keys, self.values)
        return start if self.block is None else state_after(self.block, start)

    def __getstate__(self) -> dict:
        """What a copy and a pickle hold: the state as it is now, without a block and its tables."""
        keys, values = self.contents() or (None, None)
        return self.__dict__ | {"keys": keys, "values": values, "block": None, "made_from": None}

    def update(self, key_states: Tensor, value_states: Tensor, steps: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Replace the state by the one ``steps`` steps later; real and imaginary part, each [B, H, N]."""
        self.lazy_initialization(key_states, value_states)
        self.cumulative_length += steps
        return key_states, value_states

    def is_in_block_of(self, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether the next token belongs to a block whose tables were made from these tensors, as they are now."""
        block, made_from = self.block, self.made_from
        if block is None or made_from is None or block.is_full or not block.is_writable:
            return False
        return made_from.is_untouched(tensors)

    def begin_block(self, tables: LookaheadTables, made_from: tuple[Tensor, ...], u: Tensor) -> None:
        """Begin a block with the present state, or a state of zero.

        Args:
            tables: of the layer's kernel and skip.
            made_from: the tensors from which they were made.
            u: the next input, [B, H], for the shape and type of the state.
        """
        contents = self.contents()
        zero = u.new_zeros(*u.shape, tables.decay.shape[-1])
        state = State(zero, zero) if contents is None else State(*(part.detach() for part in contents))
        self.lazy_initialization(*state)
        self.block, self.made_from = begin_block(tables, state), Snapshot(made_from)

    def decode(self, u: Tensor) -> Tensor:
        """The output of one more step in a block that is not full, u [B, H] to y [B, C, H], without a gradient."""
        assert self.block is not None  # noqa: S101 - `begin_block` came before; this tells the type checker
        self.cumulative_length += 1
        return next_output(self.block, u)

    def get_seq_length(self) -> int:
        """Steps seen so far, padding included."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns of the mask that belong to the next ``query_length`` steps and those before, and their offset."""
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no longest sequence."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.block = self.made_from = None
        self.is_initialized = False
        super().reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what a state has summed up cannot be taken out again."""
        if tokens_to_remove:
            raise ValueError("A recurrent state cannot be cropped: keep a copy of the cache from before those tokens.")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        if self.keys is not None:
            self.batch_select_indices(torch.arange(len(self.keys), device=self.keys.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        if self.keys is None or self.values is None:
            return
        indices = indices.to(self.keys.device)
        self.keys, self.values = self.keys[indices], self.values[indices]
        if self.block is not None:
            self.block.take_sequences(indices)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the sequences of the best beams."""
        self.batch_select_indices(beam_idx)


class HyenaCacheLayer(DLRCacheLayer):
    """The state of one hyena layer: that of its long filter, and ``recent``, the last inputs of its short one."""

    _layer_type = kind = "hyena"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.recent: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, steps: int, recent: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Replace the state by the one ``steps`` steps later; real and imaginary part, and ``recent`` [B, S-1, 3H]."""
        self.recent = recent
        return super().update(key_states, value_states, steps)

    def reset(self) -> None:
        """Forget everything."""
        self.recent = None
        super().reset()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        if self.recent is not None:
            self.recent = self.recent[indices.to(self.recent.device)]
        super().batch_select_indices(indices)


class PoolingCacheLayer(DLRCacheLayer):
    """What a pooling head has seen, a last layer of the cache: ``keys`` holds the value, ``values`` the count."""

    _layer_type = None
    kind = "pooling"


# pyrefly: ignore[bad-assignment] - the mapping is typed by the layers of transformers alone
STATIC_LAYER_TYPE_MAPPING["dlr"] = DLRCacheLayer
# pyrefly: ignore[bad-assignment] - likewise
STATIC_LAYER_TYPE_MAPPING["hyena"] = HyenaCacheLayer


def kind_of(layer: object) -> str:
    """What a layer of a cache serves: "dlr", "local_attention" or "pooling", as its class declares, or full attention.

    Not its class, for every folder of remote code has classes of its own, and those loaded last are registered.
    """
    return getattr(layer, "kind", "full_attention")


def state_layer(cache: Cache, layer_idx: int) -> DLRCacheLayer:
    """The layer of a cache that holds the state of a layer of the model."""
    # pyrefly: ignore[bad-return] - check_cache has seen to it
    return cache.layers[layer_idx]


def steps_seen(cache: Cache) -> int:
    """How many steps a cache has seen, padding included: by a layer of the model that can say so without its device."""
    layers = [layer for layer in cache.layers if kind_of(layer) != PoolingCacheLayer.kind]
    lengths = [layer.get_seq_length() for layer in layers if isinstance(layer, CacheLayerMixin)]
    return int(next((length for length in lengths if not isinstance(length, Tensor)), lengths[0] if lengths else 0))


def pooling_layer(cache: Cache, num_layers: int) -> PoolingCacheLayer:
    """The layer of a cache after those of the model, where pooling heads keep what they have seen."""
    if len(cache.layers) == num_layers:
        cache.layers.append(PoolingCacheLayer())
    # pyrefly: ignore[bad-return] - the one just appended, or an earlier one
    return cache.layers[num_layers]


def detach_cache(cache: Cache) -> Cache:
    """Cut the gradient between what the cache has seen and what comes next (truncated back-propagation through time).

    >>> import torch
    >>> from modeling_dlr import DLRConfig, DLRModel
    >>> model = DLRModel(DLRConfig(hidden_size=4, num_hidden_layers=1, state_size=3))
    >>> cache = model(torch.ones(1, 5, dtype=torch.long), use_cache=True).cache
    >>> detach_cache(cache).layers[0].keys.requires_grad
    False
    """
    for layer in cache.layers:
        if isinstance(layer, CacheLayerMixin) and layer.keys is not None and layer.values is not None:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
            if isinstance(layer, HyenaCacheLayer) and layer.recent is not None:
                layer.recent = layer.recent.detach()
    return cache


def check_cache(
    cache: Cache,
    layer_types: list[str],
    batch_size: int,
    state_shape: tuple[int, int],
    state_dtype: torch.dtype,
    head_shape: tuple[int, int],
) -> None:
    """Refuse a cache that is not of this model and batch, before anything is computed.

    Args:
        cache: to go on from.
        layer_types: of the model.
        batch_size: B.
        state_shape: (H, N) of the model.
        state_dtype: in which it computes states.
        head_shape: (heads, head_size) of its attention layers.

    Raises:
        TypeError: for what is no cache of transformers.
        ValueError: naming what does not fit.
    """
    if not isinstance(cache, Cache):
        raise TypeError(
            f"cache must be a cache of transformers, got a {type(cache).__name__}: make one with "
            "DynamicCache(config=model.config)."
        )
    kinds = [kind_of(layer) for layer in cache.layers]
    if kinds not in (layer_types, [*layer_types, "pooling"]):
        raise ValueError(
            f"This cache has layers {[type(layer).__name__ for layer in cache.layers]}, but the model has "
            f"{layer_types}: make it with DynamicCache(config=model.config), or pass use_cache=True and go on from the "
            "one returned."
        )
    layers = cache.layers[: len(layer_types)]
    lengths = [layer.get_seq_length() for layer in layers if isinstance(layer, CacheLayerMixin)]
    # Not by a set, for whose sake torch.compile would compile every length anew.
    if all(isinstance(length, int) for length in lengths) and any(length != lengths[0] for length in lengths):
        raise ValueError(
            f"The layers of this cache have seen {lengths} steps, as when only some were cropped or reset: make a new "
            "cache, or go on from a copy of an earlier one."
        )
    for layer, kind in zip(cache.layers, kinds, strict=True):
        if not isinstance(layer, CacheLayerMixin) or layer.keys is None or layer.keys.numel() == 0:
            continue
        shape = tuple(layer.keys.shape)
        if shape[0] != batch_size:
            raise ValueError(
                f"This cache holds a batch of {shape[0]} sequences, got {batch_size}: go on with the same batch, or "
                "make a new cache."
            )
        if kind in ("dlr", "hyena") and shape[1:] != state_shape:
            raise ValueError(
                f"This cache holds states of (hidden_size, state_size) = {shape[1:]}, but the model has {state_shape}: "
                "it belongs to another model."
            )
        if kind in ("dlr", "hyena") and layer.keys.dtype != state_dtype:
            raise ValueError(
                f"This cache holds states in {layer.keys.dtype}, but the model computes them in {state_dtype}: make a "
                "new cache after changing the type of a model."
            )
        if kind.endswith("attention") and (shape[1], shape[3]) != head_shape:
            raise ValueError(
                f"This cache holds keys of (heads, head_size) = {(shape[1], shape[3])}, but the model has "
                f"{head_shape}: it belongs to another model."
            )
