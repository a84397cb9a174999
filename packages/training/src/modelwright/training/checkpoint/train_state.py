"""`TrainState`: what a checkpoint is saved from and loaded into, as boxes of named tensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from modelwright.distributed import Box, StageLayout
from modelwright.training.checkpoint.files.manifest import CheckpointError, Numbers
from modelwright.training.checkpoint.optimizer_state import OptimizedParameter, loss_scalers, optimized_parameters

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@final
@dataclass(frozen=True, kw_only=True)
class NamedBox:
    """A box of a tensor of the model or of its optimizer."""

    name: str
    """Name of the unsharded tensor: that of the parameter, for optimizer state followed by `:exp_avg` for instance."""
    box: Box
    """The box, and the local tensor with its elements."""
    optimized: OptimizedParameter | None = None
    """State of the optimizer that the tensor is part of. None: it is a weight."""


@dataclass(frozen=True)
class TrainState:
    """The objects that a checkpoint is saved from or loaded into."""

    stages: Sequence[nn.Module]
    """The stages of this rank, wrapped or not."""
    pg_collection: "ProcessGroupCollection"
    """The process groups of this rank."""
    optimizer: Any = None
    """The engine's optimizer. None: its state is left out."""
    schedule: Any = None
    """The engine's learning-rate schedule. None: its state is left out."""

    def boxes(self) -> Iterator[NamedBox]:
        """Yield every box of the weights and of the optimizer state that this rank has.

        Raises:
            CheckpointError: A tensor cannot be described.
        """
        layouts = [StageLayout(stage, self.pg_collection) for stage in self.stages]
        for layout in layouts:
            for box in layout.boxes():
                yield NamedBox(name=box.key, box=box)
        if self.optimizer is None:
            return
        owner = {key: layout for layout in layouts for key in layout.parameters}
        for optimized in optimized_parameters(self.optimizer):
            if id(optimized.parameter) not in owner:
                raise CheckpointError(
                    f"the optimizer must have parameters of the stages alone, but has one of shape "
                    f"{tuple(optimized.parameter.shape)} that no stage has; make it from the stages that are saved."
                )
            layout = owner[id(optimized.parameter)]
            for kind, tensor in optimized.tensors.items():
                for box in layout.boxes_of(optimized.parameter, tensor, optimized.where):
                    yield NamedBox(name=f"{box.key}:{kind}", box=box, optimized=optimized)

    def numbers(self) -> Numbers:
        """Return the numbers of the learning-rate schedule and of the loss scales."""
        scalers = [] if self.optimizer is None else loss_scalers(self.optimizer)
        states: list[dict[str, Any]] = [scaler.state_dict() for scaler in scalers]
        return Numbers(
            schedule_steps=None if self.schedule is None else int(self.schedule.num_steps),
            loss_scales=tuple({name: float(value) for name, value in state.items()} for state in states),
        )

    @torch.no_grad()
    def restore(self, numbers: Numbers) -> None:
        """Restore the numbers that `numbers` returned.

        Args:
            numbers: From a checkpoint.

        Raises:
            CheckpointError: A number is missing.
        """
        if self.schedule is not None:
            if numbers.schedule_steps is None:
                raise CheckpointError(
                    "the checkpoint must contain a learning-rate schedule, but was saved without; load its weights "
                    "alone."
                )
            self.schedule.num_steps = 0
            self.schedule.step(increment=numbers.schedule_steps)
        scalers = [] if self.optimizer is None else loss_scalers(self.optimizer)
        for index, scaler in enumerate(scalers):
            _restore_scaler(scaler, numbers.loss_scales, index)


def _restore_scaler(scaler: Any, saved: Sequence[Mapping[str, float]], index: int) -> None:
    """Restore a loss scaler. A layout with more optimizers than the saved one starts them from the first scale."""
    state: dict[str, Any] = scaler.state_dict()
    chosen: Mapping[str, float] = saved[min(index, len(saved) - 1)] if saved else {}
    if state.keys() != chosen.keys():
        raise CheckpointError(
            f"the checkpoint must contain a loss scale with {', '.join(map(repr, state)) or 'no state'}, but has "
            f"{', '.join(map(repr, chosen)) or 'none'}; use the `precision` of the first run."
        )
    as_saved = {
        name: torch.full_like(value, chosen[name]) if isinstance(value, Tensor) else int(chosen[name])
        for name, value in state.items()
    }
    scaler.load_state_dict(as_saved)
