"""Sequences that are longer than one process holds: each process of a mesh has some steps of every sequence."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.utils.weak import WeakIdKeyDictionary
from transformers import Cache

from modeling_dlr.blocks_dlr import DLRMixer
from modeling_dlr.heads_dlr import (
    DLRForMultipleChoice,
    DLRForQuestionAnswering,
    DLRForSequencePairClassification,
    DLRPooledHead,
)
from modeling_dlr.kernels_dlr import KERNELS
from modeling_dlr.layout_dlr import Layout, build_layout
from modeling_dlr.modeling_dlr import DLRForCausalLM, DLRModel, DLRPreTrainedModel

from .collectives import Team, added
from .layers import Whole, pool_channels, split_layers
from .losses import whole_loss

AnyModel = TypeVar("AnyModel", bound=DLRPreTrainedModel)


def context_parallel(model: AnyModel, mesh: DeviceMesh) -> AnyModel:
    """Make a model read sequences of which each process of a mesh has some steps, in place.

    Pass it what `shard_batch` returns. The loss is that of the whole sequences, on every process, and gradients are
    added up over the processes while they are computed, so that every process has those of the whole batch. Logits at
    each step are those of the process's own steps; logits of pooled heads and of question answering are whole.
    The first process sends its weights to the others. There is no cache, and so no generation.

    Args:
        model: with a head or without.
        mesh: of one dimension, such as ``mesh["cp"]`` of a larger one. Data parallelism is on another dimension.

    Returns:
        The model.

    Raises:
        TypeError: if the model or the mesh is of another kind.
        ValueError: on every process, if the mesh has several dimensions, or more processes than the model has channels
            or heads; if a layer was replaced or sharded; or if the processes have different models.
    """
    check_model(model, mesh)
    if mesh.ndim != 1:
        raise ValueError(f"context_parallel needs a mesh of one dimension, got {mesh}: pass one, as in mesh['cp'].")
    if context_of(model) is not None:
        raise ValueError("context_parallel was called for this model already: call it once.")
    _check_layers(model, mesh.size())
    context = Context(mesh)
    _send_weights(model, context.team)
    split_layers(model, context.team)
    context.attach(model)
    return model


def check_model(model: object, mesh: object) -> None:
    """Refuse other objects than a model and a mesh."""
    if not isinstance(model, DLRPreTrainedModel):
        raise TypeError(
            f"This needs a model of DLRConfig, got a {type(model).__name__}: call it before others wrap the model."
        )
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh must be a DeviceMesh, got a {type(mesh).__name__}: make one by init_device_mesh.")


def backbone_of(model: DLRPreTrainedModel) -> DLRModel:
    """The model without its head."""
    return model if isinstance(model, DLRModel) else model.model


def context_of(model: DLRPreTrainedModel) -> "Context | None":
    """What `context_parallel` attached to a model, or None."""
    return backbone_of(model).__dict__.get("context")


def _check_layers(model: DLRPreTrainedModel, processes: int) -> None:
    """Refuse layers that cannot be split over so many processes."""
    config, backbone = model.config, backbone_of(model)
    sizes = {"hidden_size": config.hidden_size}
    if backbone.attends:
        sizes["num_attention_heads"] = config.num_attention_heads
    for name, size in sizes.items():
        if size < processes:
            raise ValueError(f"{name}={size} cannot be split over {processes} processes: use at most {size}.")
    for path, module in backbone.named_modules():
        if isinstance(module, FSDPModule):
            raise ValueError("The model is sharded already: call context_parallel first, and shard afterwards.")
        if isinstance(module, DLRMixer) and type(module.kernel) not in KERNELS.values():
            raise ValueError(
                f"{path}.kernel is a {type(module.kernel).__name__}: call context_parallel before others wrap it."
            )


def _send_weights(model: DLRPreTrainedModel, team: Team) -> None:
    """Send the weights of the first process to the others, after comparing their names and shapes."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    mine = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    every = team.gather((type(model).__name__, mine))
    different = [rank for rank, other in enumerate(every) if other != every[0]]
    if different:
        raise ValueError(
            f"Processes {different} have other models than process 0: build the same {every[0][0]}, with the same "
            "configuration, everywhere."
        )
    for tensor in tensors.values():
        distributed.broadcast(tensor.detach(), group=team.group, group_src=0)


class Report(NamedTuple):
    """What a process tells the others about its part of a batch: an error, or its shape and its arguments."""

    error: str | None
    batch_size: int = 0
    length: int = 0
    given: frozenset[str] = frozenset()


class Context:
    """What a model needs to know of the whole sequences.

    Args:
        mesh: the processes that share them.

    Attributes:
        adds_gradients: whether this adds up gradients; `shard` does it otherwise.
        whole: the batch of the last forward pass.
    """

    def __init__(self, mesh: DeviceMesh):
        self.mesh, self.team = mesh, Team.of(mesh)
        self.adds_gradients, self.hooked = True, WeakIdKeyDictionary()
        self.agreed, self.given = False, frozenset()
        self.documents: dict[str, Tensor | None] = {}
        self.whole = Whole(Layout(), None, [])

    def attach(self, model: DLRPreTrainedModel) -> None:
        """Replace the methods of the backbone and of the head that need whole sequences."""
        backbone = backbone_of(model)
        backbone.__dict__["context"], backbone.sequence_parts = self, self.team.size
        backbone._check_layout = functools.partial(self._share_layout, backbone, backbone._check_layout)
        if isinstance(model, DLRPooledHead):
            model.pool = functools.partial(self._pool, model.config.pooling)
        if isinstance(model, DLRForQuestionAnswering):
            model.predict = functools.partial(self._predict_spans, model.predict)
        self._wrap(backbone, self._run_backbone)
        if model is not backbone:
            self._wrap(model, functools.partial(self._run_head, model))

    def _wrap(self, model: DLRPreTrainedModel, run: Callable[[Callable, dict[str, Any]], Any]) -> None:
        """Replace ``forward`` by ``run``. If it fails on one process before the layers, all learn why."""
        original = model.forward

        @functools.wraps(original)
        def forward(*args, **kwargs):
            self.agreed = False
            try:
                arguments = inspect.signature(original).bind(*args, **kwargs).arguments
                arguments |= arguments.pop("kwargs", {})
                self.given |= {name for name, value in arguments.items() if isinstance(value, Tensor)}
                self._hook_gradients(model)
                return run(original, arguments)
            except Exception as error:
                if not self.agreed:
                    self._agree(Report(f"{type(error).__name__}: {error}"))
                raise
            finally:
                self.given = frozenset()

        model.forward = forward

    def _hook_gradients(self, model: DLRPreTrainedModel) -> None:
        """Add up the gradients of all parameters over processes, also of those that are trained only now."""
        if not self.adds_gradients:
            return
        if any(isinstance(module, FSDPModule) for module in model.modules()):
            raise ValueError(
                "The model was sharded by another function: modeling_dlr.parallel.shard adds up gradients."
            )
        for parameter in model.parameters():
            if parameter.requires_grad and parameter not in self.hooked:
                self.hooked[parameter] = parameter.register_hook(functools.partial(added, group=self.team.group))

    def _agree(self, report: Report) -> list[int]:
        """Compare the parts of a batch, and return their lengths.

        Raises:
            ValueError: on every process, if one has failed, or the parts do not belong together.
        """
        self.agreed = True
        reports = self.team.gather(report)
        failed = [rank for rank, each in enumerate(reports) if each.error is not None]
        if failed:
            raise ValueError(f"Process {failed[0]} refused its part of the batch: {reports[failed[0]].error}")
        first = reports[0]
        for rank, each in enumerate(reports):
            if each.given != first.given:
                raise ValueError(
                    f"Of processes 0 and {rank}, one lacks {', '.join(sorted(each.given ^ first.given))}: pass what "
                    "shard_batch returns on every process."
                )
            if each.batch_size != first.batch_size:
                raise ValueError(
                    f"Processes 0 and {rank} have {first.batch_size} and {each.batch_size} sequences: every process "
                    "needs a part of the same ones."
                )
        return [each.length for each in reports]

    def _run_backbone(self, forward: Callable, arguments: dict[str, Any]) -> Any:
        """Run the backbone on some steps; `_share_layout` reads the documents, which concern whole sequences."""
        self.documents = {name: arguments.pop(name, None) for name in ("position_ids", "cu_seq_lens_q")}
        self.documents["attention_mask"] = arguments.get("attention_mask")
        if self.documents["cu_seq_lens_q"] is not None:  # it overrides the mask
            arguments["attention_mask"] = None
        if arguments.get("output_attentions"):
            raise ValueError("A process has some heads only: leave output_attentions out.")
        return forward(**arguments)

    def _share_layout(
        self,
        backbone: DLRModel,
        check: Callable[..., Layout],
        layout: Layout,
        inputs: Tensor,
        cache: Cache | None,
        carries_state: bool,
        output_attentions: bool | None,
    ) -> Layout:
        """`DLRModel._check_layout`: the layout of this process's steps, with that of whole sequences in it."""
        if carries_state:
            raise ValueError("Context parallelism has no cache: pass use_cache=False, and generate in one process.")
        batch_size, length = inputs.shape[:2]
        positions = self.documents["position_ids"]
        if positions is not None:
            if positions.dim() != 2 or positions.shape[0] not in (1, batch_size) or positions.shape[1] != length:
                raise ValueError(
                    f"position_ids must have the shape {[batch_size, length]}, got {list(positions.shape)}."
                )
            positions = positions.expand(batch_size, -1)
        lengths = self._agree(Report(None, batch_size, length, self.given))
        mask = layout.current_mask
        if mask is None and self.documents["attention_mask"] is not None:
            mask = inputs.new_ones(batch_size, length, dtype=torch.bool)
        every = [None if x is None else self.team.all_steps(x.long(), lengths) for x in (mask, positions)]
        whole = build_layout(
            inputs.new_empty(batch_size, sum(lengths)),
            every[0],
            every[1],
            self.documents["cu_seq_lens_q"],
            past=0,
            attends=backbone.attends,
            carries_state=False,
        )
        check(whole, inputs, None, False, output_attentions)
        start = sum(lengths[: self.team.rank])
        starts = None if whole.documents is None else whole.documents.starts[:, start : start + length]
        self.whole = Whole(whole, starts, lengths)
        # pyrefly: ignore[bad-argument-type] - the layers that `split_layers` made ready read it
        return layout._replace(documents=self.whole)

    def _pool(self, name: str, hidden_states: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """`DLRPooledHead.pool` of whole sequences."""
        del mask, cache  # of these steps; there is none
        return pool_channels(name, self.team, hidden_states, self.whole)

    def _predict_spans(
        self, predict: Callable[..., Tensor], hidden_states: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """`DLRForQuestionAnswering.predict` of whole sequences."""
        return self.team.all_steps(predict(hidden_states, mask, cache), self.whole.lengths)

    def _run_head(self, head: DLRPreTrainedModel, forward: Callable, arguments: dict[str, Any]) -> Any:
        """Run a model with a head on some steps; the loss is that of whole sequences."""
        labels, shifted = arguments.get("labels"), arguments.get("shift_labels")
        if isinstance(head, DLRForCausalLM) and labels is not None and shifted is None:
            raise ValueError("The label of the last step is on the next process: pass shift_labels, as of shard_batch.")
        several = isinstance(head, (DLRForMultipleChoice, DLRForSequencePairClassification))
        values = arguments.get("input_values")
        if several and isinstance(values, Tensor) and values.dim() != 4:
            raise ValueError(f"input_values must be [batch, sequences, length, values], got {list(values.shape)}.")
        as_tuple = not arguments.pop("return_dict", head.config.return_dict)
        items = arguments.pop("num_items_in_batch", None)
        loss = whole_loss(head, labels, shifted, items, self.team)
        outputs = forward(**arguments | loss.arguments, return_dict=True)
        if outputs.loss is not None:
            outputs.loss = loss.of(outputs.loss)
        return outputs.to_tuple() if as_tuple else outputs
