"""Shards: the part of an unsharded parameter that each local tensor contains.

The engine's sharded state dict is the single description of how a model is sharded. Initialization, loading and
checkpoints all use it.
"""

from collections.abc import Iterator
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values  # pyright: ignore[reportUnknownVariableType]
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor


def local_shards(stage: Any, pg_collection: ProcessGroupCollection) -> Iterator[tuple[ShardedTensor, Tensor]]:
    """Yield the shards of a stage's parameters and buffers that this rank has.

    Args:
        stage: The stage without a wrapper.
        pg_collection: The process groups of this rank.

    Yields:
        The description of a shard (name and shape of the unsharded parameter, offset of the shard) and the local
        tensor, which shares memory with the parameter. One parameter may have several shards.
    """
    sharded: dict[str, Any] = stage.sharded_state_dict(metadata={"dp_cp_group": pg_collection.dp_cp})
    apply_factories(sharded)
    values: Iterator[Any] = nested_values(sharded)  # pyright: ignore[reportUnknownVariableType]
    for value in values:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, ShardedTensor) and value.data is not None:
            yield value, value.data
