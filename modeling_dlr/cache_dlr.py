"""The recurrent state between calls: a layer of a cache of transformers, and the next steps from it.

A state has a constant size, however long the sequence. Tokens that come one by one are decoded in blocks, exactly and
with less work per token: the state is read and written only once in T tokens. At the start of a block one matrix
product gives what the state adds to the next T outputs, Re(W Λ^{j+1} x). Each token in the block adds its share,
K[j] u, to the outputs still to come. At the end x <- Λ^T x + Σ_j Λ^{T-1-j} u_j, again by one product. Poles are raised
to the T-th power at once, so that rounding errors are applied T times less often than by single steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, Cache, CacheLayerMixin

from .layout_dlr import take_steps
from .ops_dlr import Modes, State, advance, evaluate_kernel, final_state, power, response, step
from .precision_dlr import full_float32
from .vandermonde_dlr import Snapshot, table_of_powers

# Most and fewest tokens of a block, and the numbers in a table of powers if poles are not shared (4 MB).
_LONGEST_BLOCK, _SHORTEST_BLOCK, _NUMBERS_PER_TABLE = 128, 8, 2**20


class LookaheadTables(NamedTuple):
    """What decoding needs of the modes of a kernel, computed once. Later changes of the parameters do not change it.

    Attributes:
        decay: Re log Λ, [N] or [H, N].
        angle: Im log Λ, likewise.
        weights_real: Re W, [C, H, N].
        weights_imag: Im W, [C, H, N].
        lookahead: [G, T, 2N], Λ^{j+1} as [Re, -Im] for j = 0 … T-1; G is 1 (shared poles) or H.
        history: [G, T, 2N], Λ^{T-1-j} as [Re, Im].
        kernel_plus_skip: [T, 1, C, H], K[j], and D added to K[0].
    """

    decay: Tensor
    angle: Tensor
    weights_real: Tensor
    weights_imag: Tensor
    lookahead: Tensor
    history: Tensor
    kernel_plus_skip: Tensor


@dataclass
class Block:
    """A block of tokens; `next_output` writes into it.

    Attributes:
        tables: of the kernel.
        outputs: [T, B, C, H], the sums of what the state and the tokens so far add to each output.
        inputs: [T, B, H], the tokens so far.
        position: the number of tokens so far.
    """

    tables: LookaheadTables
    outputs: Tensor
    inputs: Tensor
    position: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it takes another token. Tensors made in inference mode can be written only in inference mode."""
        writable = torch.is_inference_mode_enabled() or not self.inputs.is_inference()
        return writable and self.position < len(self.inputs)

    def take_sequences(self, indices: Tensor) -> None:
        """Keep some sequences, or repeat them, as beam search does."""
        self.outputs, self.inputs = self.outputs.index_select(1, indices), self.inputs.index_select(1, indices)


def lookahead_tables(modes: Modes, skip: Tensor, block_length: int | None = None) -> LookaheadTables:
    """The tables of the modes of a kernel, and of D [C, H], for blocks of ``block_length`` tokens.

    None for ``block_length`` takes 128 where all channels share their poles, and else as many as fit the cache.

    Raises:
        ValueError: if ``block_length`` is not positive, or a pole or weight is not finite.
    """
    N = modes.decay.shape[-1]
    decay, angle = modes.decay.reshape(-1, N), modes.angle.reshape(-1, N)
    fitting = _NUMBERS_PER_TABLE // decay.numel()
    T = min(max(fitting, _SHORTEST_BLOCK), _LONGEST_BLOCK) if block_length is None else block_length
    if T < 1:
        raise ValueError(f"A block has at least one token, got block_length={T}.")
    kernel_plus_skip = evaluate_kernel(modes, T).permute(2, 0, 1).unsqueeze(1).contiguous()
    kernel_plus_skip[0] += skip
    powers = table_of_powers(decay, angle, T + 1, kernel_plus_skip)  # [G, T+1, 2N]
    lookahead = powers[:, 1:].clone()
    lookahead[..., N:].neg_()

    return LookaheadTables(
        modes.decay.clone(),
        modes.angle.clone(),
        modes.weights_real.clone(memory_format=torch.contiguous_format),
        modes.weights_imag.clone(memory_format=torch.contiguous_format),
        lookahead,
        powers[:, :-1].flip(1),
        kernel_plus_skip,
    )


@full_float32
def begin_block(tables: LookaheadTables, state: State) -> Block:
    """Begin a block of tokens from a state [B, H, N]."""
    W_real, W_imag, (T, _, C, H) = tables.weights_real, tables.weights_imag, tables.kernel_plus_skip.shape
    B = len(state.real)
    x_real, x_imag = state.real.unsqueeze(1), state.imag.unsqueeze(1)  # [B, 1, H, N]
    seen = x_real.new_empty(B, C, H, tables.lookahead.shape[-1])  # W x as [Re | Im]
    seen_real, seen_imag = seen.chunk(2, dim=-1)
    torch.mul(W_real, x_real, out=seen_real).addcmul_(W_imag, x_imag, value=-1)
    torch.mul(W_real, x_imag, out=seen_imag).addcmul_(W_imag, x_real)
    if len(tables.lookahead) == 1:
        outputs = (tables.lookahead[0] @ seen.flatten(0, -2).mT).view(T, B, C, H)
    else:
        outputs = torch.einsum("hjn,bchn->jbch", tables.lookahead, seen).contiguous()
    return Block(tables, outputs, seen.new_zeros(T, B, H))


def next_output(block: Block, u: Tensor) -> Tensor:
    """Add a token u [B, H] to a block that is not full, and return its output y [B, C, H]."""
    j = block.position
    block.inputs[j] = u
    coming = block.outputs[j:]
    coming.addcmul_(block.tables.kernel_plus_skip[: len(coming)], u.unsqueeze(1))
    block.position = j + 1
    return coming[0]


@full_float32
def state_after(block: Block, start: State) -> State:
    """The state after the tokens of a block, [B, H, N], from the state at its start."""
    t, T = block.position, len(block.inputs)
    if t == 0:
        return start
    recent = block.tables.history[:, T - t :]  # Λ^{t-1-j} for j = 0 … t-1
    if len(recent) == 1:
        inputs = block.inputs[:t]
        sums = (inputs.flatten(1).mT @ recent[0]).unflatten(0, inputs.shape[1:])
    else:
        sums = torch.einsum("jbh,hjn->bhn", block.inputs[:t], recent)
    moved = advance(power(block.tables.decay, block.tables.angle, t, start.real), start)
    real, imag = sums.chunk(2, dim=-1)
    return State(moved.real.add_(real), moved.imag.add_(imag))


def stream(
    modes: Modes,
    skip: Tensor,
    u: Tensor,
    state: State | None,
    counts: Tensor | None,
    convolve: Callable[[Tensor], Tensor],
) -> tuple[Tensor, State]:
    """The next steps from a state: a step, or a convolution and what the state adds to it.

    Args:
        modes: poles and weights of a kernel with a recurrence.
        skip: D, [C, H].
        u: [B, L, H]; padding comes first in each row and is zero.
        state: after the earlier steps; None is zero.
        counts: [B], the number of steps that are not padding; None if no step is padding.
        convolve: K * u + D u, [B, L, H] to [B, L, C, H].

    Returns:
        y [B, L, C, H], undefined at padding, and the state after these steps.
    """
    L = u.shape[1]
    if L == 1:
        y, after = step(modes, skip, u[:, 0], state)
        if counts is not None:
            before = State(*map(torch.zeros_like, after)) if state is None else state
            real = (counts > 0).view(-1, 1, 1)
            after = State(*(torch.where(real, new, old) for new, old in zip(after, before, strict=True)))
        return y.unsqueeze(1), after
    y = convolve(u)
    if state is not None:
        earlier = response(modes, state, L)
        if counts is not None:
            since = (torch.arange(L, device=u.device) - (L - counts).unsqueeze(1)).clamp(min=0)
            earlier = take_steps(earlier, since)
        y = y + earlier
    return y, final_state(modes, u, state, counts)


class DLRCacheLayer(CacheLayerMixin):
    """The state of one DLR layer, [B, H, N] complex: ``keys`` is its real part, ``values`` its imaginary part.

    `DynamicCache(config=...)` and `StaticCache(config=...)` use it for layers of type "dlr". A state is replaced and
    never written into, so gradients flow through it; `detach_cache` cuts them. While tokens come one by one, ``keys``
    and ``values`` are the state at the start of the ``block`` that holds the tokens since then.
    """

    _layer_type = kind = "dlr"
    supports_early_init = False  # the first state sets the shape

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cumulative_length = 0
        self.block: Block | None = None
        self.made_from: Snapshot | None = None  # the parameters that the tables of the block were computed from

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Set the first state."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states, value_states
        self.block = self.made_from = None
        self.is_initialized = True

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """Real and imaginary part after all steps so far, or None before the first. In a block this is a product."""
        if self.keys is None or self.values is None:
            return None
        start = State(self.keys, self.values)
        return start if self.block is None else state_after(self.block, start)

    def __getstate__(self) -> dict:
        """A copy and a pickle hold the present state, without the block and its tables."""
        keys, values = self.contents() or (None, None)
        return self.__dict__ | {"keys": keys, "values": values, "block": None, "made_from": None}

    def update(self, key_states: Tensor, value_states: Tensor, steps: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Replace the state by a later one, after ``steps`` more steps; real and imaginary part, each [B, H, N]."""
        self.lazy_initialization(key_states, value_states)
        self.cumulative_length += steps
        return key_states, value_states

    def is_in_block_of(self, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether the next token belongs to the present block, and these tensors have not changed since it began."""
        block, made_from = self.block, self.made_from
        return block is not None and made_from is not None and block.is_open and made_from.is_untouched(tensors)

    def begin_block(self, tables: LookaheadTables, made_from: tuple[Tensor, ...], u: Tensor) -> None:
        """Begin a block from the present state, or from zero.

        Args:
            tables: of the layer's kernel and skip.
            made_from: the tensors that the tables were computed from.
            u: the next input, [B, H]; gives the shape and type of the state.
        """
        contents = self.contents()
        zero = u.new_zeros(*u.shape, tables.decay.shape[-1])
        state = State(zero, zero) if contents is None else State(*(part.detach() for part in contents))
        self.lazy_initialization(*state)
        self.block, self.made_from = begin_block(tables, state), Snapshot(made_from)

    def decode(self, u: Tensor) -> Tensor:
        """The output of the next token in the present block, u [B, H] to y [B, C, H], without a gradient."""
        assert self.block is not None  # noqa: S101 - `begin_block` came before; this tells the type checker
        self.cumulative_length += 1
        return next_output(self.block, u)

    def get_seq_length(self) -> int:
        """The number of steps so far, with padding."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The length and offset of the mask for the next ``query_length`` steps and those before."""
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
        """Refuse: steps cannot be removed from a state."""
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
    """The state of one hyena layer: that of its long filter, and ``recent``, the last inputs of its short filter."""

    _layer_type = kind = "hyena"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.recent: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, steps: int, recent: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Replace the state by a later one; real and imaginary part, and ``recent`` [B, S-1, 3H]."""
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
    """The state of a pooling head, the last layer of a cache: ``keys`` is the value, ``values`` the count."""

    _layer_type = None
    kind = "pooling"


# pyrefly: ignore[bad-assignment] - the mapping is typed by the layers of transformers alone
STATIC_LAYER_TYPE_MAPPING["dlr"] = DLRCacheLayer
# pyrefly: ignore[bad-assignment] - likewise
STATIC_LAYER_TYPE_MAPPING["hyena"] = HyenaCacheLayer


def kind_of(layer: object) -> str:
    """The kind of a layer of a cache: "dlr", "hyena", "local_attention" or "pooling", or else "full_attention".

    It is declared by the class. Comparing classes would fail, since every folder of remote code has its own.
    """
    return getattr(layer, "kind", "full_attention")


def pooling_layer(cache: Cache, num_layers: int) -> PoolingCacheLayer:
    """The layer of a cache with the state of a pooling head, after the layers of the model."""
    if len(cache.layers) == num_layers:
        cache.layers.append(PoolingCacheLayer())
    # pyrefly: ignore[bad-return] - by check_cache, or appended above
    return cache.layers[num_layers]


def detach_cache(cache: Cache) -> Cache:
    """Cut the gradient between earlier and later steps (truncated back-propagation through time), and return the cache.

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
) -> int:
    """Refuse a cache of another model or batch.

    Args:
        cache: the given cache.
        layer_types: of the model.
        batch_size: B.
        state_shape: (H, N) of the model.
        state_dtype: type of its states.
        head_shape: (heads, head_size) of its attention layers.

    Returns:
        The number of steps that the cache has seen, with padding.

    Raises:
        TypeError: if it is not a cache of transformers.
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
    # Not by a set, for which torch.compile would compile every length anew.
    known = [length for length in lengths if isinstance(length, int)]  # the others would synchronize
    if any(length != known[0] for length in known):
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
    return int((known or lengths or [0])[0])
