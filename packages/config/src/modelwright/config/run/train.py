"""Training of a model: steps, batches, optimizer, evaluation, checkpoints, data."""

from collections.abc import Iterator
from typing import Annotated, final, override

from modelwright.config.problems.numbers import Count, Fraction, NonNegativeFloat, PositiveFloat, Seed
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import multiple_of
from modelwright.config.run.lr_schedule import ConstantSchedule, CosineSchedule, LinearSchedule, LrSchedule
from modelwright.config.strict.by_kind import OneOf
from modelwright.config.strict.config_class import AddedLater, Config, config_class

__all__ = ["TrainConfig"]


@final
@config_class
class TrainConfig(Config):
    """One training run. A step is one update of the parameters, computed on `global_batch` sequences."""

    steps: Count = 100
    """Total number of steps, including those before a resume."""

    seed: Seed = 1234
    """Seed of the initial parameters, the order of the data, and dropout."""

    micro_batch: Count = 4
    """Sequences in one micro-batch of one copy of the model."""

    global_batch: Count = 8
    """Sequences in one step, over all copies of the model."""

    lr: PositiveFloat = 3e-4
    """Peak learning rate."""

    lr_schedule: Annotated[LrSchedule, OneOf(CosineSchedule, LinearSchedule, ConstantSchedule)] = CosineSchedule()
    """Learning-rate schedule."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW (Loshchilov and Hutter, arXiv:1711.05101)."""

    adam_beta1: Fraction = 0.9
    """Decay rate of the running mean of the gradient."""

    adam_beta2: Fraction = 0.95
    """Decay rate of the running mean of the squared gradient."""

    adam_eps: PositiveFloat = 1e-8
    """Constant added to the denominator of an update, for numerical stability."""

    clip_grad: NonNegativeFloat = 1.0
    """Maximum norm of the gradient of a step. 0: no clipping."""

    eval_interval: Count | None = None
    """Steps between two evaluations. `null`: only at the end."""

    eval_batches: Count = 2
    """Number of global batches in one evaluation."""

    checkpoint_interval: Count | None = None
    """Steps between two checkpoints. `null`: only at the end."""

    keep_checkpoints: Count | None = None
    """Number of newest checkpoints to keep. `null`: all."""

    data: str | None = None
    """Path of a text file. `null`: the language reference that is part of CPython."""

    validation_fraction: Fraction = 0.05
    """Fraction of the text, at its end, that is used for validation. 0: no validation."""

    max_skipped_steps: Annotated[Count, AddedLater()] = 10
    """Number of steps in a row with a loss or gradient that is not finite, after which the run stops. Such steps do not
    change the parameters. In float16 they also lower the loss scale."""

    @override
    def problems(self) -> Iterator[Problem]:
        yield from multiple_of("global_batch", self.global_batch, self.micro_batch, "`micro_batch`")
        if self.lr_schedule.min_lr > self.lr:
            rule = f"`lr_schedule.min_lr` must be at most `lr`, but {self.lr_schedule.min_lr} is above {self.lr}"
            yield Problem("lr_schedule.min_lr", f"{rule}.")
        if self.eval_interval is not None and not self.validation_fraction:
            message = (
                f"`eval_interval` must be null with `validation_fraction` 0, which leaves no text to evaluate on, but"
                f" {self.eval_interval} was given; change one of them."
            )
            yield Problem("eval_interval", message)
