"""Models over several processes: parameters in shards, and sequences that are longer than one process holds."""

from .batches import shard_batch
from .context import context_parallel
from .failures import shared_errors
from .shards import shard

__all__ = ["context_parallel", "shard", "shard_batch", "shared_errors"]
