"""Softmax attention over all steps or over chunks, the baseline of the DLR paper (arXiv 2212.00768, §5), and its cache.

Full attention uses the cache layers of transformers. Local attention reads the chunk of a step and the previous one
(and the next one if bidirectional), so its cache keeps less than two chunks of keys, however long the sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, DynamicLayer

from .configuration_dlr import DLRConfig
from .layout_dlr import Layout, per_document, sort_steps, take_steps, without_padding
from .ops_dlr import at_least_float32
from .precision_dlr import in_float64

# The position of padding, and of the chunks before the first and after the last one.
PADDING_POSITION = -1


class LocalAttentionLayer(DynamicLayer):
    """The keys and values, [B, heads, S, head_size], that later steps of local attention read.

    Each row holds its last steps that are not padding, the newest one last; S is at most two chunks less one step. Rows
    with fewer steps begin with unused keys.

    Args:
        max_cache_len: the size of a `StaticCache`; ignored, because this layer keeps only its chunks.
    """

    _layer_type = kind = "local_attention"
    is_sliding = True
    is_croppable = False

    def __init__(self, max_cache_len: int | None = None):
        super().__init__()
        self.cumulative_length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, window: int, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add new keys and values, and drop those that no later step reads.

        Args:
            key_states: [B, heads, L, head_size]; padding comes last in each row.
            value_states: likewise.
            window: steps per chunk.
            counts: [B, 1], the number of steps that are not padding; None if no step is padding.

        Returns:
            Keys and values [B, heads, S + L, head_size]: the kept ones, and the new ones.
        """
        keys, values = super().update(key_states, value_states)
        length, stop = key_states.shape[2], keys.shape[2]
        self.cumulative_length += length
        last = torch.arange(max(0, stop - 2 * window + 1), stop, device=keys.device).unsqueeze(0)
        if counts is not None:
            last = (last - length + counts).clamp(min=0)
        # Copies, because slices would keep the memory of all keys.
        self.keys, self.values = take_steps(keys, last, dim=2), take_steps(values, last, dim=2)
        return keys, values

    def get_seq_length(self) -> int:
        """The number of steps so far, with padding and with dropped steps."""
        return self.cumulative_length

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: dropped keys cannot be restored.

        Raises:
            NotImplementedError: unless ``tokens_to_remove`` is 0.
        """
        if tokens_to_remove:
            raise NotImplementedError(
                f"Local attention drops old keys, so its cache cannot remove {abs(tokens_to_remove)} steps: copy the "
                "cache before steps that you may want to undo."
            )


# pyrefly: ignore[bad-assignment] - the mapping is typed by the layers of transformers alone
STATIC_LAYER_TYPE_MAPPING["local_attention"] = LocalAttentionLayer


def check_not_exported(cache: Cache | None) -> None:
    """Refuse a cache of keys while exporting.

    Raises:
        ValueError: if there is one; its number of steps would become a constant.
    """
    if cache is not None and torch.compiler.is_exporting():
        raise ValueError(
            "Attention layers cannot be exported with a cache, whose length would become a constant: export with "
            "use_cache=False, or a model without attention layers, whose state has a constant size."
        )


def visible(queries: Tensor, keys: Tensor, causal: bool, window: int | None = None) -> Tensor:
    """The keys that each query reads.

    Args:
        queries: [..., L], positions. Padding has a negative position. It reads every key, because a softmax over no key
            is NaN; its output is not used.
        keys: [..., K], positions; negative ones are not read.
        causal: whether later positions are not read.
        window: steps per chunk, to read only the chunk of the query and those beside it; None reads all.

    Returns:
        [..., L, K], True where the query reads the key.
    """
    queries, keys = queries.unsqueeze(-1), keys.unsqueeze(-2)
    reads = keys >= 0
    if causal:
        reads = reads & (keys <= queries)
    if window is not None:
        reads = reads & ((queries // window - keys // window).abs() <= 1)
    return reads | (queries < 0)


def attend(q: Tensor, k: Tensor, v: Tensor, reads: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Softmax attention that returns its weights, which `scaled_dot_product_attention` does not compute as a whole.

    Args:
        q: [B, heads, L, head_size], scaled.
        k: [B, heads, K, head_size].
        v: likewise.
        reads: [B or 1, 1, L, K], True where a query reads a key; None reads all of L = K steps.
        causal: if ``reads`` is None, later steps are not read.

    Returns:
        The output [B, heads, L, head_size], and the weights [B, heads, L, K].
    """
    scores = at_least_float32(q @ k.transpose(-1, -2))
    if reads is None and causal:
        reads = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if reads is not None:
        scores = scores.masked_fill(~reads, -torch.inf)
    weights = scores.softmax(-1).to(v.dtype)
    return weights @ v, weights


class Windows(NamedTuple):
    """Overlapping windows of ``width`` blocks of a sequence. Each window begins one block after the one before.

    Attributes:
        size: steps per block.
        width: blocks per window.
        count: number of windows; the sequence is padded at its end.
        before: number of steps to pad before the sequence.
    """

    size: int
    width: int
    count: int
    before: int = 0

    def of(self, x: Tensor, fill: int = 0) -> Tensor:
        """Cut [B, h, K, d] into [B, h, count, width · size, d], padded by ``fill``."""
        blocks = self.count + self.width - 1
        added = (0, 0, self.before, blocks * self.size - self.before - x.shape[2])
        x = functional.pad(x, added, value=fill).unflatten(2, (blocks, self.size))
        return torch.cat([x[:, :, i : i + self.count] for i in range(self.width)], dim=3)

    def of_positions(self, positions: Tensor) -> Tensor:
        """Cut positions [B, K] into [B, count, width · size]."""
        return self.of(positions[:, None, :, None], fill=PADDING_POSITION)[:, 0, ..., 0]


class DLRAttention(nn.Module):
    """Multi-head softmax attention with rotary positions (arXiv 2104.09864) and a learned scale of the queries.

    Positions count the steps that are not padding. Local attention reads the chunk of ``attention_window`` steps that
    holds the step, the one before it and, if bidirectional, the one after it, in O(L · window) time and memory. With
    ``attn_implementation="eager"`` the weights are returned, which takes O(L²) memory in local attention, too.

    Args:
        config: of the model. If ``attention_ff_ratio`` e > 0, o + FF(o) follows twice after the output projection,
            where FF is LayerNorm, Linear(H, eH), GELU, Linear(eH, H).
        layer_idx: counted from 0; ``config.layer_types[layer_idx]`` is "full_attention" or "local_attention".
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__()
        H, inner = config.hidden_size, config.hidden_size * config.attention_ff_ratio
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled them
        kind, self.theta = config.layer_types[layer_idx], config.rope_parameters["rope_theta"]
        self.config, self.layer_idx = config, layer_idx
        self.causal = not config.bidirectional
        self.local, self.window = kind == "local_attention", config.attention_window
        self.head_size = H // config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(H, H) for _ in range(4))
        self.query_scale = nn.Parameter(torch.full((1,), self.head_size**-0.5))
        self.feed_forwards = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(H), nn.Linear(H, inner), nn.GELU(), nn.Linear(inner, H))
            for _ in range(2 if inner else 0)
        )

    @property
    def shows_weights(self) -> bool:
        """Whether the weights are computed and returned."""
        return self.config._attn_implementation == "eager"

    def forward(
        self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, H] to [B, L, H], undefined at padding; and the weights or None.

        The weights are [B, heads, L, K], over the keys in the cache and those of these steps.

        Raises:
            ValueError: if there is a cache while exporting, which would fix its number of steps.
        """
        check_not_exported(cache)
        if layout.documents is not None:
            return per_document(hidden_states, layout.documents, lambda x, alone: self._attend(x, alone)[0]), None
        return self._attend(hidden_states, layout, cache)

    def _attend(
        self, hidden_states: Tensor, layout: Layout, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if layout.current_mask is not None:
            hidden_states = without_padding(hidden_states, layout.current_mask)
        attend_by_kind = self._attend_locally if self.local else self._attend_fully
        y, weights = attend_by_kind(hidden_states, layout, cache)
        o = self.o_proj(y.transpose(1, 2).flatten(2))
        for feed_forward in self.feed_forwards:
            o = o + feed_forward(o)
        return o, weights

    def _attend_fully(self, hidden_states: Tensor, layout: Layout, cache: Cache | None) -> tuple[Tensor, Tensor | None]:
        """[B, L, H] to [B, heads, L, head_size] and weights."""
        length = hidden_states.shape[1]
        positions = layout.positions(length, hidden_states.device)
        if layout.mask is not None:
            positions = positions.masked_fill(~layout.mask, PADDING_POSITION)
        q, k, v = self._project(hidden_states, positions[:, layout.past :])
        if cache is not None:  # a static cache returns also its unused places
            k, v = (x[:, :, : layout.past + length] for x in cache.update(k, v, self.layer_idx))
        if layout.mask is None and layout.past == 0:
            return self._softmax(q, k, v)
        return self._softmax(q, k, v, visible(positions[:, layout.past :], positions, self.causal))

    def _attend_locally(
        self, hidden_states: Tensor, layout: Layout, cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, H] to [B, heads, L, head_size] and weights."""
        if layout.mask is None:
            return self._attend_chunks(hidden_states, layout.past, None, cache)
        # Chunks begin at the first step that is not padding, so padding moves to the end for the time being.
        past, current = layout.mask[:, : layout.past], layout.mask[:, layout.past :]
        order = sort_steps(current)
        packed = take_steps(hidden_states, order.steps)
        y, weights = self._attend_chunks(packed, past.sum(1, keepdim=True), current.sum(1, keepdim=True), cache)
        if weights is not None:
            cached, new = weights.tensor_split([weights.shape[3] - current.shape[1]], dim=3)
            weights = take_steps(torch.cat([cached, take_steps(new, order.places, dim=3)], dim=3), order.places, dim=2)
        return take_steps(y, order.places, dim=2), weights

    def _attend_chunks(
        self, hidden_states: Tensor, past: Tensor | int, counts: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        """The same for rows with ``past`` earlier steps [B, 1]; steps after the first ``counts`` [B, 1] are padding."""
        length, window = hidden_states.shape[1], self.window
        steps = torch.arange(length, device=hidden_states.device).unsqueeze(0)
        queries_at = past + steps if counts is None else (past + steps).masked_fill(steps >= counts, PADDING_POSITION)
        q, k, v = self._project(hidden_states, queries_at)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx, window=window, counts=counts)
        cached = k.shape[2] - length
        keys_at = torch.cat([past + torch.arange(-cached, 0, device=k.device).unsqueeze(0), queries_at], dim=1)
        within_chunk = isinstance(length, int) and length <= window  # one that torch.export leaves open is no int
        if within_chunk or self.shows_weights:
            reads_all = within_chunk and counts is None and cached == 0
            return self._softmax(q, k, v, None if reads_all else visible(queries_at, keys_at, self.causal, window))
        return self._softmax_of_blocks(q, k, v, queries_at, keys_at), None

    def _softmax_of_blocks(self, q: Tensor, k: Tensor, v: Tensor, queries_at: Tensor, keys_at: Tensor) -> Tensor:
        """Attention in blocks of queries as long as a chunk, each with the keys of the blocks around it.

        Blocks are chunks if the cache has no keys. Otherwise they may begin inside a chunk, and read two blocks back.
        """
        (B, _, length, _), size, cached = q.shape, self.window, k.shape[2] - q.shape[2]
        # For a symbolic length of torch.export: one too many, and never 1, which it would fix.
        count = -(-length // size) if isinstance(length, int) else length // size + 2
        back, ahead = 2 if cached else 1, 0 if self.causal else 1
        own, around = Windows(size, 1, count), Windows(size, back + 1 + ahead, count, back * size - cached)
        reads = visible(own.of_positions(queries_at), around.of_positions(keys_at), self.causal, size)
        blocks = [windows.of(x).transpose(1, 2) for x, windows in ((q, own), (k, around), (v, around))]
        q, k, v, reads = (x.flatten(0, 1) for x in (*blocks, reads.expand(B, -1, -1, -1)))
        y, _ = self._softmax(q, k, v, reads)
        return y.unflatten(0, blocks[0].shape[:2]).transpose(1, 2).flatten(2, 3)[:, :, :length]

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, reads: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attention of [B, heads, L, head_size]; ``reads`` [B or 1, L, K] is True for keys to read, None reads all."""
        mask, causal = (None, self.causal) if reads is None else (reads.unsqueeze(1), False)
        if self.shows_weights:
            return attend(q, k, v, mask, causal)
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=1.0), None

    def _project(self, hidden_states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated and scaled queries, rotated keys, and values, each [B, heads, L, head_size]."""
        q, k, v = (
            projection(hidden_states).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, positions, self.theta), rotate(k, positions, self.theta)
        return (q * self.query_scale).to(v.dtype), k.to(v.dtype), v


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotate each pair (x[2m], x[2m+1]) by position · theta^(-2m/d) (arXiv 2104.09864, eq. 34).

    Args:
        x: [B, heads, L, d].
        positions: [B or 1, L].
        theta: the base of the frequencies.

    Returns:
        [B, heads, L, d] in at least float32. The angles are float64: in float32 their error grows with the position.
    """
    d, exact = x.shape[-1], in_float64(positions)
    frequencies = theta ** (torch.arange(0, d, 2, device=exact.device).to(exact) / -d)
    a, b = at_least_float32(x).unflatten(-1, (-1, 2)).unbind(-1)
    angles = exact[:, None, :, None] * frequencies
    cos, sin = angles.cos().to(a), angles.sin().to(a)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
