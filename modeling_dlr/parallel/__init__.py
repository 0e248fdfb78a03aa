"""Models over several processes: parameters in shards, and sequences that are longer than one process holds."""

from .batches import shard_batch
from .context import context_parallel
from .failures import shared_errors
from .layers import sync_batch_norm
from .shards import shard
from .trainer import DistributedTrainer

__all__ = ["DistributedTrainer", "context_parallel", "shard", "shard_batch", "shared_errors", "sync_batch_norm"]
