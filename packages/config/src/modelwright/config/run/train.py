"""How a model is trained: steps, batches, optimizer, evaluation, checkpoints, data."""

from collections.abc import Iterator
from typing import Annotated, final, override

from modelwright.config.problems.numbers import Count, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import multiple_of
from modelwright.config.run.lr_schedule import ConstantSchedule, CosineSchedule, LinearSchedule, LrSchedule
from modelwright.config.strict.by_kind import OneOf
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["TrainConfig"]


@final
@config_class
class TrainConfig(Config):
    """One training run. A step is one update of the parameters, on `global_batch` sequences."""

    steps: Count = 100
    """Updates of the parameters."""

    seed: NonNegativeInt = 1234
    """Seed of the parameters, the order of the data, and dropout."""

    micro_batch: Count = 4
    """Sequences that one copy of the model takes at a time."""

    global_batch: Count = 8
    """Sequences of one step, over all copies of the model."""

    lr: PositiveFloat = 3e-4
    """Highest learning rate."""

    lr_schedule: Annotated[LrSchedule, OneOf(CosineSchedule, LinearSchedule, ConstantSchedule)] = CosineSchedule()
    """How the learning rate moves."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW (Loshchilov and Hutter, arXiv:1711.05101)."""

    adam_beta1: Fraction = 0.9
    """Decay of the running mean of gradients."""

    adam_beta2: Fraction = 0.95
    """Decay of the running mean of squared gradients."""

    adam_eps: PositiveFloat = 1e-8
    """Added to the denominator of an update."""

    clip_grad: NonNegativeFloat = 1.0
    """Highest norm of a step's gradient; 0: no limit."""

    eval_interval: Count | None = None
    """Steps between two validation losses; None: only at the end."""

    eval_batches: Count = 2
    """Global batches that a validation loss is averaged over."""

    checkpoint_interval: Count | None = None
    """Steps between two checkpoints; None: only at the end."""

    keep_checkpoints: Count | None = None
    """How many checkpoints to keep, the newest ones; None: all."""

    data: str | None = None
    """Path of a text file; None: the language reference that CPython carries."""

    validation_fraction: Fraction = 0.05
    """Share of the text, at its end, that is held out for validation."""

    @override
    def problems(self) -> Iterator[Problem]:
        yield from multiple_of("global_batch", self.global_batch, self.micro_batch, "`micro_batch`")
        if self.lr_schedule.min_lr > self.lr:
            rule = f"`lr_schedule.min_lr` must be at most `lr`, but {self.lr_schedule.min_lr} is above {self.lr}"
            yield Problem("lr_schedule.min_lr", f"{rule}.")
