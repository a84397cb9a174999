"""Loading a full (unsharded) state dict into a model on any layout."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed.initialization.shards import local_shards
from modelwright.distributed.name_patterns import matches
from modelwright.distributed.wrappers.data_parallel import unwrapped
from modelwright.protocols import ModelwrightError


class StateDictError(ModelwrightError):
    """A full state dict that does not fit the model."""


@torch.no_grad()
def load_full_state_dict(
    stages: Iterable[nn.Module],
    state: Mapping[str, Tensor],
    pg_collection: ProcessGroupCollection,
    *,
    keep: Sequence[str] = (),
) -> None:
    """Load a full (unsharded) state dict into the stages of this rank, whatever the layout.

    Args:
        stages: The stages of this rank, wrapped or not.
        state: Every weight of the unsharded model, by its name there (with global layer indices).
        pg_collection: The process groups of this rank.
        keep: Patterns of names. A matching parameter that `state` lacks keeps its value, such as an adapter.

    Raises:
        StateDictError: A weight of this rank is missing in `state` or has another shape. The message lists all of them.
    """
    parts = [
        (shard, local)
        for stage in stages
        for shard, local in local_shards(unwrapped(stage), pg_collection)
        if shard.key in state or not matches(shard.key, keep)
    ]
    problems = [problem for shard, _ in parts if (problem := _problem(shard, state)) is not None]
    if problems:
        raise StateDictError(
            f"the full state dict must contain every weight of the model, but {'; '.join(problems)}; is it of this "
            "config?"
        )
    for shard, local in parts:
        local.copy_(_part(state[shard.key], shard, local))


def _problem(shard: ShardedTensor, state: Mapping[str, Tensor]) -> str | None:
    if shard.key not in state:
        return f"`{shard.key}` is missing"
    given, expected = tuple(state[shard.key].shape), tuple(shard.global_shape)
    return None if given == expected else f"`{shard.key}` has the shape {given} where the model has {expected}"


def _part(full: Tensor, shard: ShardedTensor, local: Tensor) -> Tensor:
    """Cut the local shard out of an unsharded weight."""
    sizes = (*[1] * shard.prepend_axis_num, *local.shape)
    window = tuple(slice(start, start + size) for start, size in zip(shard.global_offset, sizes, strict=True))
    return full[window].reshape(local.shape)
