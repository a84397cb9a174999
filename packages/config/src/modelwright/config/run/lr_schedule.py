"""How the learning rate moves over a run."""

from typing import ClassVar, final

from modelwright.config.problems.numbers import Count, NonNegativeFloat, NonNegativeInt
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "LrSchedule"]


@final
@config_class
class CosineSchedule(Config):
    """Up from 0 in a line, then down to `min_lr` along half a cosine."""

    kind: ClassVar[str] = "cosine"

    warmup_steps: NonNegativeInt = 0
    """Steps on the way up."""

    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the way down."""

    decay_steps: Count | None = None
    """Steps on the way, warm-up included, after which it is at `min_lr`; None: those of the run."""


@final
@config_class
class LinearSchedule(Config):
    """Up from 0 in a line, then down to `min_lr` in a line."""

    kind: ClassVar[str] = "linear"

    warmup_steps: NonNegativeInt = 0
    """Steps on the way up."""

    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the way down."""

    decay_steps: Count | None = None
    """Steps on the way, warm-up included, after which it is at `min_lr`; None: those of the run."""


@final
@config_class
class ConstantSchedule(Config):
    """Up from 0 in a line, then level."""

    kind: ClassVar[str] = "constant"

    min_lr: ClassVar[float] = 0.0
    decay_steps: ClassVar[None] = None

    warmup_steps: NonNegativeInt = 0
    """Steps on the way up."""


LrSchedule = CosineSchedule | LinearSchedule | ConstantSchedule
"""Any learning-rate schedule of a file."""
