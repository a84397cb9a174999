"""Whole parameters and their parts: which part of which whole each local tensor is, and filling a model from wholes.

The engine's sharded state dictionary is the one description of how a model is cut; initialization, loading and
checkpoints all go by it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values  # pyright: ignore[reportUnknownVariableType]
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed.hooks.name_patterns import matches
from modelwright.distributed.wrappers.data_parallel import unwrapped
from modelwright.protocols import ModelwrightError


class WholeStateError(ModelwrightError):
    """Whole weights that do not fit the model."""


def local_shards(stage: Any, pg_collection: ProcessGroupCollection) -> Iterator[tuple[ShardedTensor, Tensor]]:
    """What this rank holds of a stage's whole parameters.

    Args:
        stage: Not wrapped.
        pg_collection: The process groups of this rank.

    Yields:
        The description of a part (name of the whole, its shape, where the part begins) and the local tensor, which
        shares memory with the parameter; one parameter may be several parts.
    """
    sharded: dict[str, Any] = stage.sharded_state_dict(metadata={"dp_cp_group": pg_collection.dp_cp})
    apply_factories(sharded)
    values: Iterator[Any] = nested_values(sharded)  # pyright: ignore[reportUnknownVariableType]
    for value in values:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, ShardedTensor) and value.data is not None:
            yield value, value.data


@torch.no_grad()
def load_whole_state(
    stages: Iterable[nn.Module],
    state: Mapping[str, Tensor],
    pg_collection: ProcessGroupCollection,
    *,
    keep: Sequence[str] = (),
) -> None:
    """Fill a model, however it is cut, from whole weights.

    Args:
        stages: Of this rank, wrapped or not.
        state: Every weight of the whole model by its name there (global layer indices).
        pg_collection: The process groups of this rank.
        keep: Patterns of names; what has such a name and is not in `state` stays as it is, such as adapters.

    Raises:
        WholeStateError: A weight of this rank is missing in `state` or has another shape; all of them in one message.
    """
    parts = [
        (shard, local)
        for stage in stages
        for shard, local in local_shards(unwrapped(stage), pg_collection)
        if shard.key in state or not matches(shard.key, keep)
    ]
    problems = [problem for shard, _ in parts if (problem := _problem(shard, state)) is not None]
    if problems:
        raise WholeStateError(
            f"the whole state must hold every weight of the model, but {'; '.join(problems)}; is it of this config?"
        )
    for shard, local in parts:
        local.copy_(_part(state[shard.key], shard, local))


def _problem(shard: ShardedTensor, state: Mapping[str, Tensor]) -> str | None:
    if shard.key not in state:
        return f"`{shard.key}` is missing"
    given, wanted = tuple(state[shard.key].shape), tuple(shard.global_shape)
    return None if given == wanted else f"`{shard.key}` has the shape {given} where the model has {wanted}"


def _part(whole: Tensor, shard: ShardedTensor, local: Tensor) -> Tensor:
    sizes = (*[1] * shard.prepend_axis_num, *local.shape)
    window = tuple(slice(start, start + size) for start, size in zip(shard.global_offset, sizes, strict=True))
    return whole[window].reshape(local.shape)
