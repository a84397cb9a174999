"""Learning-rate schedules."""

from typing import ClassVar, final

from modelwright.config.problems.numbers import Count, NonNegativeFloat, NonNegativeInt
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "LrSchedule"]


@final
@config_class
class CosineSchedule(Config):
    """Linear warm-up from 0 to `lr`, then a decay to `min_lr` along half a cosine."""

    kind: ClassVar[str] = "cosine"

    warmup_steps: NonNegativeInt = 0
    """Number of warm-up steps."""

    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""

    decay_steps: Count | None = None
    """Step at which `min_lr` is reached, warm-up included. `null`: `train.steps`."""


@final
@config_class
class LinearSchedule(Config):
    """Linear warm-up from 0 to `lr`, then a linear decay to `min_lr`."""

    kind: ClassVar[str] = "linear"

    warmup_steps: NonNegativeInt = 0
    """Number of warm-up steps."""

    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""

    decay_steps: Count | None = None
    """Step at which `min_lr` is reached, warm-up included. `null`: `train.steps`."""


@final
@config_class
class ConstantSchedule(Config):
    """Linear warm-up from 0 to `lr`, then a constant rate."""

    kind: ClassVar[str] = "constant"

    min_lr: ClassVar[float] = 0.0
    decay_steps: ClassVar[None] = None

    warmup_steps: NonNegativeInt = 0
    """Number of warm-up steps."""


LrSchedule = CosineSchedule | LinearSchedule | ConstantSchedule
"""Any learning-rate schedule that a file may name."""
