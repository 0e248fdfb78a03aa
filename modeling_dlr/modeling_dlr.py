"""The DLR model: mixer, block, backbone and text heads, by the conventions of transformers."""

import os
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checks_dlr import check_inputs, check_no_empty_row
from .configuration_dlr import DLRConfig
from .convolution_dlr import convolve
from .kernel_parameters_dlr import refuse_unknown_names
from .kernels_dlr import KERNELS, Kernel
from .losses_dlr import loss_by_problem_type
from .norms_dlr import MaskedBatchNorm, ScalarLayerNorm, build_norm, normalise
from .ops_dlr import at_least_float32


class GEGLU(nn.Module):
    """a · gelu(b) for the two halves a, b of the last dimension (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., 2H] to [..., H]."""
        value, gate = x.chunk(2, dim=-1)
        return value * functional.gelu(gate)


class ChannelDropout(nn.Dropout):
    """Drops whole channels of a sequence: what is dropped at one step is dropped at all."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        return functional.dropout1d(input.transpose(1, 2), self.p, self.training).transpose(1, 2)


OUTPUT_GATES: dict[str | None, type[nn.Module]] = {None: nn.Identity, "glu": nn.GLU, "geglu": GEGLU}
DROPOUTS: dict[str, type[nn.Dropout]] = {"element": nn.Dropout, "channel": ChannelDropout}


def build_activation(field: str, name: str | None) -> nn.Module:
    """The activation that transformers knows under ``name``; None is the identity."""
    if name is None:
        return nn.Identity()
    refuse_unknown_names(field, [name], ACT2FN)
    return ACT2FN[name]


class DLRMixer(nn.Module):
    """Mixes the steps: long convolution with skip, activation, dropout, output projection, gate (DLR §3).

    Padding is taken out of the input, so it never reaches another step.
    """

    def __init__(self, config: DLRConfig):
        super().__init__()
        H, gated = config.hidden_size, config.channel_gate_act is not None
        channels = config.num_kernel_channels * (2 if gated else 1)
        # pyrefly: ignore[unsupported-operation] - None only until __post_init__ has filled it
        kernel = KERNELS[config.kernel_parameters["kernel_type"]]
        self.kernel = kernel(channels * config.num_directions, H, config.state_size, config.kernel_parameters)
        self.D = nn.Parameter(torch.randn(channels, H))
        self.bidirectional = config.bidirectional
        self.channel_gate = build_activation("channel_gate_act", config.channel_gate_act) if gated else None
        self.act = build_activation("hidden_act", config.hidden_act)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.out_proj = nn.Linear(H * config.num_kernel_channels, H if config.output_gate is None else 2 * H)
        self.gate = OUTPUT_GATES[config.output_gate]()

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, H] to [B, L, H]; ``mask`` [B, L] is True where the step counts."""
        if mask is not None:
            hidden_states = hidden_states.masked_fill(~mask.unsqueeze(-1), 0)
        y = self.convolve(hidden_states)
        if self.channel_gate is not None:
            value, gate = y.chunk(2, dim=2)
            y = self.channel_gate(gate) * value
        return self.gate(self.out_proj(self.dropout(self.act(y.flatten(2)))))

    def convolve(self, hidden_states: Tensor) -> Tensor:
        """K * u + D u in at least float32, whatever type the rest of the model runs in; [B, L, H] to [B, L, C, H]."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            u = at_least_float32(hidden_states)
            kernels = self.kernel(u.shape[1]).to(u.dtype)
            forward, backward = kernels.chunk(2) if self.bidirectional else (kernels, None)
            y = convolve(u, forward, backward, self.D.to(u.dtype))
        return y.to(hidden_states.dtype)


class DLRBlock(GradientCheckpointingLayer):
    """Norm, mixer, residual: there is no MLP in the papers' block.

    Args:
        config: of the model.
        layer_idx: counted from 0; the decaying residual depends on it.
    """

    def __init__(self, config: DLRConfig, layer_idx: int):
        super().__init__()
        self.norm = build_norm(config)
        self.mixer = DLRMixer(config)
        self.dropout = DROPOUTS[config.dropout_type](config.hidden_dropout_prob)
        self.norm_first = config.norm_position == "pre"
        self.branch_scale = (layer_idx + 1) ** -0.5 if config.residual_type == "decay" else None

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, H] to [B, L, H]."""
        if self.norm_first:
            branch = self.mixer(normalise(self.norm, hidden_states, mask), mask)
            return self._residual(hidden_states, self.dropout(branch))
        branch = self.mixer(hidden_states, mask)
        return normalise(self.norm, self._residual(hidden_states, self.dropout(branch)), mask)

    def _residual(self, hidden_states: Tensor, branch: Tensor) -> Tensor:
        if self.branch_scale is None:
            return hidden_states + branch
        return (1 - self.branch_scale**2) ** 0.5 * hidden_states + self.branch_scale * branch


@auto_docstring
class DLRPreTrainedModel(PreTrainedModel):
    config: DLRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DLRBlock"]
    _keep_in_fp32_modules_strict = ["kernel"]
    _can_record_outputs = {"hidden_states": DLRBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Draw fresh values for every parameter that was not loaded; None for initializer_range is the official way."""
        official = self.config.initializer_range is None
        if isinstance(module, Kernel):
            for name, value in module.initial_values().items():
                init.copy_(module.get_parameter(name), value)
            for name, value in module.initial_buffers().items():
                init.copy_(module.get_buffer(name), value)
        elif isinstance(module, DLRMixer):
            init.normal_(module.D)
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
        self.config.auto_map = {
            "AutoConfig": f"{_last_name(type(self.config).__module__)}.DLRConfig",
            **{auto: f"{_last_name(cls.__module__)}.{cls.__name__}" for auto, cls in AUTO_CLASSES.items()},
        }
        super().save_pretrained(save_directory, *args, **kwargs)


def _last_name(module: str) -> str:
    return module.rsplit(".", 1)[-1]


@auto_docstring
class DLRModel(DLRPreTrainedModel):
    def __init__(self, config: DLRConfig):
        super().__init__(config)
        if config.vocab_size is not None:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        elif config.input_size is not None:
            self.input_projection = nn.Linear(config.input_size, config.hidden_size)
            self.main_input_name = "input_values"
        self.layers = nn.ModuleList([DLRBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        input_values (`torch.FloatTensor` of shape `(batch_size, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`; `(batch_size, sequence_length)` when `input_size` is 1.
        """
        config = self.config
        check_inputs(
            input_ids,
            inputs_embeds,
            input_values,
            attention_mask,
            config.vocab_size,
            config.input_size,
            config.hidden_size,
        )
        if input_ids is not None and input_ids.device.type != "meta":
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        hidden_states = self._embed(input_ids, inputs_embeds, input_values)
        mask = None if attention_mask is None else attention_mask.bool()
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return BaseModelOutput(last_hidden_state=normalise(self.norm, hidden_states, mask))

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, input_values: Tensor | None) -> Tensor:
        if inputs_embeds is not None:
            return inputs_embeds
        if input_ids is not None:
            return self.embed_tokens(input_ids)
        assert input_values is not None  # noqa: S101 - check_inputs has seen to it; this tells the type checker
        values = input_values.unsqueeze(-1) if input_values.dim() == 2 else input_values
        return self.input_projection(values.to(self.dtype))


def pool_mean(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """[B, L, H] and [B, L] to [B, H]: the mean over the steps that count."""
    states = at_least_float32(hidden_states)
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states.mul(weights).sum(1) / weights.sum(1)).to(hidden_states.dtype)


def pool_max(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """[B, L, H] and [B, L] to [B, H]: the maximum over the steps that count."""
    return hidden_states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)


def pool_first(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """[B, L, H] and [B, L] to [B, H]: the first step that counts."""
    return _pick(hidden_states, mask.int().argmax(1))


def pool_last(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """[B, L, H] and [B, L] to [B, H]: the last step that counts."""
    return _pick(hidden_states, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))


def _pick(hidden_states: Tensor, steps: Tensor) -> Tensor:
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), steps]


POOLINGS = {"mean": pool_mean, "max": pool_max, "first": pool_first, "last": pool_last}


class DLRHead(DLRPreTrainedModel):
    """The one recipe of the heads: features of the hidden states, dropout, a projection, the loss by problem type."""

    output_class: type[SequenceClassifierOutput] | type[TokenClassifierOutput]

    def __init__(self, config: DLRConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = DLRModel(config)
        self.main_input_name = self.model.main_input_name
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        # pyrefly: ignore[bad-argument-type] - None only until __post_init__ has set it
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.loss_function = loss_by_problem_type
        self.post_init()

    @abstractmethod
    def features(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What the projection reads of the hidden states [B, L, H]."""

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Any:
        r"""
        input_values (`torch.FloatTensor` of shape `(batch_size, sequence_length, input_size)`, *optional*):
            Real-valued input of a model with `input_size`; `(batch_size, sequence_length)` when `input_size` is 1.
        labels (`torch.Tensor`, *optional*):
            One label per sequence, or per step for token classification: integers are classes (-100 is ignored),
            floats of `num_labels` values are regression targets or several classes at once (NaN is ignored).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            input_values=input_values,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.dropout(self.features(outputs.last_hidden_state, attention_mask)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config, **kwargs)
        return self.output_class(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


@auto_docstring(custom_intro="DLR with a classification or regression head over the pooled sequence.")
class DLRForSequenceClassification(DLRHead):
    output_class = SequenceClassifierOutput

    def features(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[B, L, H] to [B, H], by ``config.pooling`` over the steps that are not padding."""
        if attention_mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        else:
            mask = attention_mask.to(hidden_states.device).bool()
            check_no_empty_row(mask)
        return POOLINGS[self.config.pooling](hidden_states, mask)


@auto_docstring(custom_intro="DLR with a classification or regression head at every step.")
class DLRForTokenClassification(DLRHead):
    output_class = TokenClassifierOutput

    def features(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The hidden states [B, L, H] as they are."""
        return hidden_states


# One row per head: the Auto class that finds it.
AUTO_CLASSES: dict[str, type[DLRPreTrainedModel]] = {
    "AutoModel": DLRModel,
    "AutoModelForSequenceClassification": DLRForSequenceClassification,
    "AutoModelForTokenClassification": DLRForTokenClassification,
}
for _auto_class, _model_class in AUTO_CLASSES.items():
    _model_class.register_for_auto_class(_auto_class)

__all__ = ["DLRForSequenceClassification", "DLRForTokenClassification", "DLRModel", "DLRPreTrainedModel"]
