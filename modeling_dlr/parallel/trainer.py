"""The stock Trainer for batches and sequences that processes share."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from modeling_dlr.modeling_dlr import DLRPreTrainedModel

from .batches import shard_batch
from .context import Context, context_of
from .layers import sync_batch_norm


class DistributedTrainer(Trainer):
    """The stock Trainer, whose steps over several processes equal those of one process on the whole batches.

    It differs in three ways:

    * In training no row is read twice. The stock Trainer repeats some so that all last batches are of the same size.
    * If `context_parallel` made the model ready, processes that share sequences read the same rows, and each gets its
      steps of a batch. Such a model is evaluated in one process.
    * Batch norm adds up its statistics over the processes (`sync_batch_norm`).

    In evaluation rows are repeated as always; metrics leave the repeated ones out, and ``eval_loss`` does not.

    Raises:
        ValueError: on every process, if the number of batches is not a multiple of the number of processes, or if
            sequences are split and the Trainer evaluates, reads rows from a stream, or computes a loss from logits.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self._context is not None and (self.label_smoother is not None or self.compute_loss_func is not None):
            raise ValueError(
                "Each process has the logits of some steps only, of which the Trainer would compute a loss by itself: "
                "set label_smoothing_factor=0 and no compute_loss_func."
            )
        if self.args.world_size > 1:
            sync_batch_norm(self.accelerator.unwrap_model(self.model))

    @property
    def _context(self) -> Context | None:
        model = self.accelerator.unwrap_model(self.model)
        return context_of(model) if isinstance(model, DLRPreTrainedModel) else None

    def get_tp_size(self) -> int:
        """The number of processes that read the same rows and compute the same loss, as in tensor parallelism."""
        context = self._context
        return super().get_tp_size() * (1 if context is None else context.team.size)

    def get_train_dataloader(self) -> DataLoader:
        """That of the stock Trainer, without repeated rows."""
        with self._without_repeated_rows():
            loader = super().get_train_dataloader()
        context, sampler = self._context, loader.batch_sampler
        if context is not None and isinstance(self.train_dataset, IterableDataset):
            raise ValueError("Rows of a stream cannot be shared by processes that split sequences: load them.")
        if isinstance(sampler, BatchSamplerShard):
            if context is not None:
                sampler.num_processes, sampler.process_index = _groups(context)
            if not sampler.drop_last and sampler.total_length % sampler.num_processes:
                rows: Any = self.train_dataset
                _refuse_unequal_shares(len(rows), self.args.train_batch_size, sampler.num_processes)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """That of the stock Trainer.

        Raises:
            ValueError: if sequences are split.
        """
        if self._context is not None:
            raise ValueError("A process has the logits of some steps only: evaluate in one process.")
        return super().get_eval_dataloader(eval_dataset)

    @contextlib.contextmanager
    def _without_repeated_rows(self) -> Iterator[None]:
        before, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            yield
        finally:
            self.accelerator.even_batches = before

    def _prepare_context_parallel_inputs(
        self, model: nn.Module, inputs: dict[str, Tensor | Any]
    ) -> tuple[Callable, dict[str, Tensor | Any]]:
        """This process's steps, instead of those that torch's context_parallel would cut out."""
        context = self._context
        if context is None:
            return super()._prepare_context_parallel_inputs(model, inputs)
        return contextlib.nullcontext, shard_batch(inputs, context.mesh)


def _groups(context: Context) -> tuple[int, int]:
    """The number of groups of processes that share sequences, and the place of this process's group among them."""
    first = min(distributed.get_process_group_ranks(context.team.group))
    firsts: list[int] = [0] * distributed.get_world_size()
    distributed.all_gather_object(firsts, first)
    return len(set(firsts)), sorted(set(firsts)).index(first)


def _refuse_unequal_shares(rows: int, batch_size: int, processes: int) -> None:
    """Refuse batches that processes cannot share equally, and say what they can share.

    Raises:
        ValueError: always.
    """
    batches = math.ceil(rows / batch_size)
    sizes = sorted(range(1, 2 * batch_size + 1), key=lambda size: abs(size - batch_size))
    fitting = [size for size in sizes if math.ceil(rows / size) % processes == 0]
    if fitting:
        cure = f"use per_device_train_batch_size={fitting[0]}"
    elif batches > processes:
        cure = f"leave out {rows - batch_size * (batches - batches % processes)} rows"
    else:
        cure = f"use at most {batches} processes"
    raise ValueError(
        f"{rows} rows are {batches} batches of {batch_size}, which {processes} processes cannot share equally: {cure}."
    )
