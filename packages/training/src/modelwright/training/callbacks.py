"""The callbacks of `train`: one receives the events of a run, the other adds metrics to each step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import nn

from modelwright.config import RunConfig
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The metrics of one step; one line of `metrics.jsonl`."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Mean loss over the tokens of the global batch, in nats per token. nan or inf: `skipped`."""
    grad_norm: float
    """Norm of the gradient of the whole model, before clipping. nan: `skipped`."""
    lr: float
    """Learning rate of the step."""
    skipped: bool = False
    """True if the parameters were not updated, because the loss or the gradient was not finite, or overflowed in
    float16. The learning-rate schedule waits."""
    tokens_per_s: float
    """Tokens per second of the whole job, by this rank's clock."""
    val_loss: float | None = None
    """Mean loss on the held-out text, in nats per token. None: not measured at this step."""
    more: Mapping[str, object] = field(default_factory=dict[str, object])
    """Metrics of the run's metrics callback, by name."""


_RESERVED = {it.name for it in fields(StepRecord)} - {"more"}


def checked_metrics(metrics: Mapping[str, object]) -> Mapping[str, object]:
    """Refuse metrics with names that a step record already has.

    Args:
        metrics: Values by name, from a metrics callback.

    Returns:
        `metrics`.

    Raises:
        ModelwrightError: A name is one of the fields of `StepRecord`.
    """
    taken = sorted(_RESERVED & metrics.keys())
    if taken:
        raise ModelwrightError(
            f"`metrics_callback` must return metrics with names that no field of `StepRecord` has, but returns "
            f"{', '.join(f'`{name}`' for name in taken)}; rename them."
        )
    return metrics


class Callback(Protocol):
    """Receives the events of a run. `train` calls it on every rank that passes one, in the same order."""

    def on_start(self, run: RunConfig, stages: list[nn.Module], first_step: int) -> None:
        """Receive the built model, before the first step.

        Args:
            run: The config; `parallelism.data` is the size that the job has.
            stages: The wrapped stages of this rank.
            first_step: Number of the next step: 1, or the step after the one that was resumed from.
        """
        ...

    def on_step(self, record: StepRecord) -> None:
        """Receive the metrics of a step that is done."""
        ...

    def on_checkpoint(self, path: Path, step: int) -> None:
        """Receive a checkpoint that is complete.

        Args:
            path: Folder of the checkpoint.
            step: Number of steps done.
        """
        ...


class MetricsCallback(Protocol):
    """Makes the function that measures additional metrics after each step."""

    def __call__(
        self, stages: Sequence[nn.Module], pg_collection: "ProcessGroupCollection", /
    ) -> Callable[[], Mapping[str, object]]:
        """Inspect the built model once, and return the function that measures.

        Args:
            stages: The wrapped stages of this rank.
            pg_collection: The process groups of this rank.

        Returns:
            A function that `train` calls on every rank after each step. It returns metrics by name, the same on all
            ranks. No name may be a field of `StepRecord`.
        """
        ...
