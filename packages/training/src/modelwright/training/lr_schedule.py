"""The learning-rate schedule: the engine's `OptimizerParamScheduler`, from a `TrainConfig`."""

from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from modelwright.config import TrainConfig


def make_lr_schedule(optimizer: MegatronOptimizer, train: TrainConfig) -> OptimizerParamScheduler:
    """Make the engine's schedule. It sets the learning rate of the first step immediately.

    Args:
        optimizer: Optimizer that receives the learning rate.
        train: Learning rate, weight decay, steps, and the kind of schedule.

    Returns:
        The schedule; call `step(increment=1)` once per step.
    """
    lr_schedule = train.lr_schedule
    # The engine requires the decay to end after the warm-up; a run may be shorter than its warm-up.
    decay_steps = max(lr_schedule.decay_steps or train.steps, lr_schedule.warmup_steps + 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=train.lr,
        min_lr=lr_schedule.min_lr,
        lr_warmup_steps=lr_schedule.warmup_steps,
        lr_decay_steps=decay_steps,
        lr_decay_style=lr_schedule.kind,
        start_wd=train.weight_decay,
        end_wd=train.weight_decay,
        wd_incr_steps=train.steps,
        wd_incr_style="constant",
        # A resumed run follows its own config. With the numbers of the first run, a longer run would stay at
        # the final learning rate.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
