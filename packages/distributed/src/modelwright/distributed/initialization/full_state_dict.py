"""Loading a full (unsharded) state dict into a model on any layout."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed.initialization.boxes import Box, StageLayout
from modelwright.distributed.name_patterns import matches
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
    boxes = [
        box
        for stage in stages
        for box in StageLayout(stage, pg_collection).boxes()
        if box.key in state or not matches(box.key, keep)
    ]
    problems = dict.fromkeys(problem for box in boxes if (problem := _problem(box, state)) is not None)
    if problems:
        raise StateDictError(
            f"the full state dict must contain every weight of the model, but {'; '.join(problems)}; "
            "load the weights of a model with this config, or use the config of these weights."
        )
    for box in boxes:
        window = tuple(slice(start, start + size) for start, size in zip(box.start, box.local.shape, strict=True))
        box.local.copy_(state[box.key][window])


def _problem(box: Box, state: Mapping[str, Tensor]) -> str | None:
    if box.key not in state:
        return f"`{box.key}` is missing"
    given = tuple(state[box.key].shape)
    return (
        None
        if given == box.global_shape
        else f"`{box.key}` has the shape {given} where the model has {box.global_shape}"
    )
