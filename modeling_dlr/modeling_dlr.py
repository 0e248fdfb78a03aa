"""The DLR model: mixers, block and backbone, by the conventions of transformers."""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_dlr import DLRAttention
from .cache_dlr import DLRCacheLayer, check_cache, state_layer, steps_seen
from .checks_dlr import check_finite, check_inputs, values_are_cheap, warn_of_empty_rows
from .configuration_dlr import DLRConfig
from .convolution_dlr import convolve
from .decoding_dlr import LookaheadTables, lookahead_tables, may_decode
from .family_dlr import (
    auto_map,
    check_attention_weights,
    check_whole_sequences,
    refuse_checkpointing,
    refuse_several_documents,
    refuse_unknown_arguments,
)
from .kernels_dlr import KERNELS, Kernel, Memo, recurrence_of, runs_as_written, tensors_of
from .layout_dlr import ONE_DOCUMENT_PER_ROW, Layout, Reading, apart, build_layout, take_steps, without_padding
from .norms_dlr import DROPOUTS, OUTPUT_GATES, MaskedBatchNorm, ScalarLayerNorm, build_activation, build_norm, normalise
from .ops_dlr import State, at_least_float32
from .streaming_dlr import stream


class Mixer(nn.Module):
    """What follows the mixing of steps in every layer: activation, dropout, output projection, gate (DLR §3)."""

    def __init__(self, config: DLRConfig, channels: int = 1):
        super().__init__()
        H = config.hidden_size
        self.act = build_activation("hidden_act", config.hidden_act)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.out_proj = nn.Linear(H * channels, H if config.output_gate is None else 2 * H)
        self.gate = OUTPUT_GATES[config.output_gate]()

    def project(self, y: Tensor) -> Tensor:
        """[B, L, C·H] to [B, L, H]."""
        return self.gate(self.out_proj(y))


class DLRMixer(Mixer):
    """Mixes the steps by long convolution with a skip, or by the recurrence it stands for (DLR §3).

    Padding is taken out of the input, so it never reaches another step.
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__(config, config.num_kernel_channels)
        H, gated = config.hidden_size, config.channel_gate_act is not None
        channels = config.num_kernel_channels * (2 if gated else 1)
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled it
        kernel = KERNELS[config.kernel_parameters["kernel_type"]]
        self.kernel = kernel(channels * config.num_directions, H, config.state_size, config.kernel_parameters)
        self.D = nn.Parameter(torch.randn(channels, H))
        self.tables: Memo[LookaheadTables] = Memo()
        self.layer_idx, self.bidirectional = layer_idx, config.bidirectional
        self.channel_gate = build_activation("channel_gate_act", config.channel_gate_act) if gated else None

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; the cache is moved on by these steps."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            y = self.mix(at_least_float32(hidden_states), layout, cache).to(hidden_states.dtype)
        if self.channel_gate is not None:
            value, gate = y.chunk(2, dim=2)
            y = self.channel_gate(gate) * value
        return self.project(self.dropout(self.act(y.flatten(2))))

    def mix(self, u: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None) -> Tensor:
        """K * u + D u: [B, L, H] in at least float32 to [B, L, C, H], document by document."""
        if layout.documents is not None:
            return apart(u, layout.documents, self.mix)
        if not u.shape[1]:  # nothing moves no state, and its gradient is 0 rather than missing
            return self.mix(functional.pad(u, (0, 0, 0, 1)))[:, :0]
        mask = layout.here
        u = without_padding(u, mask)
        if cache is None:
            forward, backward = self.kernel_for(u).chunk(2) if self.bidirectional else (self.kernel_for(u), None)
            if layout.order is None:
                return convolve(u, forward, backward, self.skip(u.dtype))
            y = convolve(take_steps(u, layout.order.steps), forward, backward, self.skip(u.dtype))
            return take_steps(y, layout.order.places)
        layer = state_layer(cache, self.layer_idx)
        if layout.in_blocks or (u.shape[1] == 1 and mask is None and self.begin_block(layer, u[:, 0])):
            return layer.decode(u[:, 0]).unsqueeze(1)
        contents = layer.contents()
        state = None if contents is None else State(*contents)
        y, state = stream(recurrence_of(self.kernel), self.skip(u.dtype), u, state, mask, lambda: self.kernel_for(u))
        layer.update(*state, u.shape[1])
        return y

    def block_tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors from which blocks are made, the kernel's and D; none where this layer has to take steps.

        Steps read the kernel anew for every token. They are for gradients, and for layers in which something besides
        those tensors has a say: hooks, parametrisations, pruning, adapters around the kernel.
        """
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if tracing or torch.is_grad_enabled() or not runs_as_written(self, (DLRMixer,)):
            return ()
        found = tensors_of(self.kernel)
        return (*found, self.D) if found else ()

    def is_in_block(self, layer: DLRCacheLayer) -> bool:
        """Whether the next token belongs to the block that a layer of a cache is in."""
        return layer.is_in_block_of(self.block_tensors())

    def begin_block(self, layer: DLRCacheLayer, u: Tensor) -> bool:
        """Have a layer of a cache in a block that takes u [B, H] as its next token; False where there are no blocks."""
        tensors = self.block_tensors()
        if layer.is_in_block_of(tensors):
            return True
        if not may_decode(tensors):
            return False
        layer.begin_block(self.decoding_tables(), tensors, u)
        return True

    def decoding_tables(self) -> LookaheadTables:
        """The tables of the present kernel and D, computed once while their values stay the same."""
        modes = recurrence_of(self.kernel)
        present = (*(part for part in modes if part is not None), self.D)
        return self.tables.get(present, lambda: lookahead_tables(modes, self.skip(self.D.dtype)))

    def skip(self, dtype: torch.dtype) -> Tensor:
        """D, [C, H].

        Raises:
            ValueError: if it is not finite.
        """
        check_finite([("D", self.D)])
        return self.D.to(dtype)

    def kernel_for(self, u: Tensor) -> Tensor:
        """The kernels of both directions for the steps of u [B, L, H], in its type: [C, H, min(L, max_length)]."""
        return self.kernel(u.shape[1]).to(u.dtype)


class AttentionMixer(Mixer):
    """The papers' baseline in the place of the convolution: attention, its own skip, and the same projection."""

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__(config)
        self.attention = DLRAttention(config, layer_idx)

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; the cache is moved on by these steps."""
        y, _ = self.attention(hidden_states, layout, cache)
        return self.project(hidden_states + self.dropout(self.act(y)))


MIXERS: dict[str, type[DLRMixer] | type[AttentionMixer]] = {
    "dlr": DLRMixer,
    "full_attention": AttentionMixer,
    "local_attention": AttentionMixer,
}


class DLRBlock(GradientCheckpointingLayer):
    """Norm, mixer, residual: there is no MLP in the papers' block.

    Args:
        config: of the model.
        layer_idx: counted from 0; the decaying residual depends on it.
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__()
        self.norm, self.norm_type = build_norm(config), config.norm_type
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled it
        self.mixer = MIXERS[config.layer_types[layer_idx]](config, layer_idx)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.norm_first = config.norm_position == "pre"
        self.branch_scale = (layer_idx + 1) ** -0.5 if config.residual_type == "decay" else None

    def forward(
        self, hidden_states: Tensor, layout: Layout = ONE_DOCUMENT_PER_ROW, cache: Cache | None = None
    ) -> Tensor:
        """[B, L, H] to [B, L, H]; the cache is moved on by these steps."""
        if self.norm_first:
            branch = self.mixer(normalise(self.norm_type, self.norm, hidden_states, layout.here), layout, cache)
            return self._residual(hidden_states, self.dropout(branch))
        branch = self.mixer(hidden_states, layout, cache)
        return normalise(self.norm_type, self.norm, self._residual(hidden_states, self.dropout(branch)), layout.here)

    def _residual(self, hidden_states: Tensor, branch: Tensor) -> Tensor:
        if self.branch_scale is None:
            return hidden_states + branch
        return (1 - self.branch_scale**2) ** 0.5 * hidden_states + self.branch_scale * branch


@auto_docstring
class DLRPreTrainedModel(PreTrainedModel):
    config: DLRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_context_parallel = False
    _no_split_modules = ["DLRBlock"]
    _keep_in_fp32_modules_strict = ["kernel"]
    _can_record_outputs = {"hidden_states": DLRBlock, "attentions": OutputRecorder(DLRAttention, index=1)}
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):  # noqa: PLR0912 - one branch per kind of module
        """Draw fresh values for every parameter that was not loaded; None for initializer_range is the official way."""
        official = self.config.initializer_range is None
        if isinstance(module, Kernel):
            for name, value in module.initial_values().items():
                init.copy_(module.get_parameter(name), value)
            for name, value in module.initial_buffers().items():
                init.copy_(module.get_buffer(name), value)
        elif isinstance(module, DLRMixer):
            init.normal_(module.D)
        elif isinstance(module, DLRAttention):
            init.constant_(module.query_scale, module.head_size**-0.5)
        elif isinstance(module, ScalarLayerNorm):
            init.ones_(module.scale)
            init.zeros_(module.shift)
        elif isinstance(module, MaskedBatchNorm):
            for ones in (module.weight, module.running_var):
                init.ones_(ones)
            for zeros in (module.bias, module.running_mean, module.num_batches_tracked):
                init.zeros_(zeros)
        elif isinstance(module, nn.Linear) and official:
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding) and official:
            init.normal_(module.weight)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """As in transformers, with the code beside the weights, loadable under every Auto class of the family."""
        # Imported here, where it is needed: that file imports this one. It also makes the code of every head travel
        # with any of them, for transformers copies what the text of a file imports.
        from .auto_dlr import AUTO_CLASSES

        self.config.auto_map = auto_map(type(self.config), AUTO_CLASSES)
        super().save_pretrained(save_directory, *args, **kwargs)


# What forwards read, each described once: `auto_docstring` takes it from here or from a docstring, not from both.
VALUES_ARGS = r"""
    input_values (`torch.FloatTensor` of shape `(batch_size, sequence_length, input_size)`, *optional*):
        Real-valued input of a model with `input_size`; `(batch_size, sequence_length)` when `input_size` is 1.
"""
DOCUMENTS_ARGS = r"""
    position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
        Only read for where they restart: several documents in a row, each computed as if it were alone.
    cu_seq_lens_q (`torch.LongTensor` of shape `(num_documents + 1,)`, *optional*):
        Where the documents of a single row begin, and its end: 0, l₁, l₁ + l₂, …; wins over `attention_mask`.
"""
READING_ARGS = r"""
    reading (`Reading`, *optional*):
        What `read` says of these inputs, from a head that has already looked at it.
"""


@auto_docstring
class DLRModel(DLRPreTrainedModel):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        if config.vocab_size is not None:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        elif config.input_size is not None:
            self.input_projection = nn.Linear(config.input_size, config.hidden_size)
            self.main_input_name = "input_values"
        self.layer_types = list(config.layer_types or [])
        self.attends = any(kind != "dlr" for kind in self.layer_types)
        self.layers = nn.ModuleList([DLRBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.no_cache_because = self._why_no_cache()
        self.post_init()

    def _why_no_cache(self) -> str | None:
        """Why this model cannot go on from a state, or None if it can."""
        if self.config.bidirectional:
            return "bidirectional=True reads the future"
        reasons = [module.no_recurrence_because for module in self.modules() if isinstance(module, Kernel)]
        return next((reason for reason in reasons if reason is not None), None)

    def read(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        input_values: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
    ) -> Reading:
        """Refuse, before any work, what this model cannot compute; how it reads what it can. See `forward`.

        Raises:
            ValueError: for inputs, a cache, or boundaries of documents that do not fit the model or each other; and
                where this process holds only a part of each sequence.
            IndexError: for a token outside the vocabulary.
        """
        check_whole_sequences()
        sizes = self.config.vocab_size, self.config.input_size, self.config.hidden_size
        inputs = check_inputs(input_ids, inputs_embeds, input_values, *sizes)
        batch_size, length = inputs.shape[:2]
        if input_ids is not None and length and values_are_cheap(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        streams = self._streams(cache, use_cache, batch_size)
        past = 0 if cache is None else steps_seen(cache)
        layout = build_layout(inputs, attention_mask, position_ids, cu_seq_lens_q, past, self.attends)
        if layout.documents is not None and streams:
            refuse_several_documents()
        if not streams:  # in a stream a row may begin later
            warn_of_empty_rows(length, layout.here)
        if cache is not None and length == 1 and self._is_in_blocks(cache, layout):
            layout = layout._replace(in_blocks=True)
        elif not torch.compiler.is_compiling():
            self._check_finite()
        return Reading(batch_size, length, layout, streams)

    def _is_in_blocks(self, cache: Cache, layout: Layout) -> bool:
        """Whether every recurrent layer decodes the next token in the block that it is in already.

        Asked here, of all layers, so that a parameter that is not finite is refused before any state has moved.
        """
        if layout.here is not None:
            return False
        for i, kind in enumerate(self.layer_types):
            mixer = self.layers[i].mixer
            if kind == "dlr" and not (isinstance(mixer, DLRMixer) and mixer.is_in_block(state_layer(cache, i))):
                return False
        return True

    def _check_finite(self) -> None:
        """Refuse parameters of recurrent layers that are not finite, by the names that they have in the model."""
        for path, module in self.layers.named_modules(prefix=f"{self.base_model_prefix}.layers"):
            if isinstance(module, Kernel):
                check_finite(module.named_parameters(path))
            elif isinstance(module, DLRMixer):
                check_finite(module.named_parameters(path, recurse=False))

    def _streams(self, cache: Cache | None, use_cache: bool | None, batch_size: int) -> bool:
        """Whether a state goes on from here: a cache that is handed in, or one that is asked for and can be."""
        if cache is None and not (self.config.use_cache if use_cache is None else use_cache):
            return False
        if self.no_cache_because is not None:
            raise ValueError(
                f"This model cannot be used with a cache: {self.no_cache_because}. Pass use_cache=False, which "
                "computes every step anew."
            )
        if self.gradient_checkpointing and self.training:
            if cache is None:
                return False
            refuse_checkpointing()
        if cache is not None:
            H, heads = self.config.hidden_size, self.config.num_attention_heads
            dtype = torch.promote_types(self.dtype, torch.float32)
            check_cache(cache, self.layer_types, batch_size, (H, self.config.state_size), dtype, (heads, H // heads))
        return True

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring(custom_args=VALUES_ARGS + DOCUMENTS_ARGS + READING_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: torch.LongTensor | None = None,
        reading: Reading | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        refuse_unknown_arguments(type(self), kwargs)
        if reading is None:
            reading = self.read(
                input_ids,
                attention_mask,
                position_ids,
                cache,
                inputs_embeds,
                input_values,
                use_cache,
                cu_seq_lens_q,
            )
        if self.attends and kwargs.get("output_attentions", self.config.output_attentions):
            check_attention_weights(self.config._attn_implementation, reading.layout.documents is not None)
        if cache is None and reading.streams:
            cache = DynamicCache(config=self.config)
        hidden_states = self._embed(input_ids, inputs_embeds, input_values, reading.layout.here)
        for layer in self.layers:
            hidden_states = layer(hidden_states, reading.layout, cache=cache)
        if self.config.norm_position == "pre":
            hidden_states = normalise(self.config.norm_type, self.norm, hidden_states, reading.layout.here)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, cache=cache)

    def _embed(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, input_values: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """What enters the first block, [B, L, H]. Padding enters as zeros: 0 · NaN would reach every gradient."""
        if input_values is None:
            return without_padding(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds, mask)
        values = input_values.unsqueeze(-1) if input_values.dim() == 2 else input_values
        return self.input_projection(without_padding(values, mask).to(self.dtype))


__all__ = ["DLRModel", "DLRPreTrainedModel"]
