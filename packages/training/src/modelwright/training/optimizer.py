"""The engine's optimizer and learning-rate schedule, from a `TrainConfig`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import nn

from modelwright.config import Precision, TrainConfig
from modelwright.engine import gathering_over

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


# That of torch.amp.GradScaler. From the engine's 2**32 the first fifteen steps of a run in float16 only halve it.
_FIRST_LOSS_SCALE = 2.0**16


def make_optimizer(
    stages: Sequence[nn.Module],
    train: TrainConfig,
    precision: Precision,
    pg_collection: "ProcessGroupCollection",
) -> MegatronOptimizer:
    """Make the engine's AdamW over the stages of this rank.

    Args:
        stages: Wrapped.
        train: Its numbers.
        precision: Number format of the parameters.
        pg_collection: The process groups of this rank.

    Returns:
        The optimizer.
    """
    config = OptimizerConfig(
        optimizer="adam",
        lr=train.lr,
        min_lr=train.lr_schedule.min_lr,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        adam_eps=train.adam_eps,
        clip_grad=train.clip_grad,
        use_distributed_optimizer=_is_distributed(stages[0]),
        bf16=precision.params == "bfloat16",
        fp16=precision.params == "float16",
        initial_loss_scale=_FIRST_LOSS_SCALE,
        params_dtype=getattr(torch, precision.params),
    )
    chunks: list[Any] = list(stages)
    with gathering_over(pg_collection.intra_dist_opt):
        return get_megatron_optimizer(config, chunks, use_gloo_process_groups=False, pg_collection=pg_collection)


def _is_distributed(stage: Any) -> bool:
    """Whether the wrapper laid the parameters out for an optimizer whose state is split over the data ranks."""
    ddp_config = getattr(stage, "ddp_config", None)
    return ddp_config is not None and bool(ddp_config.use_distributed_optimizer)


def make_schedule(optimizer: MegatronOptimizer, train: TrainConfig) -> OptimizerParamScheduler:
    """Make the engine's schedule; it sets the learning rate of the first step at once.

    Args:
        optimizer: Whose learning rate it moves.
        train: Its numbers.

    Returns:
        The schedule, advanced by one per step.
    """
    way = train.lr_schedule
    # The engine wants the way up to end before the way down; a run may be shorter than its warm-up.
    decay_steps = max(way.decay_steps or train.steps, way.warmup_steps + 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=train.lr,
        min_lr=way.min_lr,
        lr_warmup_steps=way.warmup_steps,
        lr_decay_steps=decay_steps,
        lr_decay_style=way.kind,
        start_wd=train.weight_decay,
        end_wd=train.weight_decay,
        wd_incr_steps=train.steps,
        wd_incr_style="constant",
        # A resumed run moves as its own config says; by the numbers of the one that began it, a longer run would have
        # the last learning rate all the way.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
