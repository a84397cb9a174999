"""The engine's optimizer, from a `TrainConfig`. Its `step` clips the gradient norm first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import nn

from modelwright.config import Precision, TrainConfig
from modelwright.engine import gathering_over

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


# The default of torch.amp.GradScaler. With the engine's 2**32, the first fifteen steps of a float16 run overflow and do
# nothing but halve the scale.
_INITIAL_LOSS_SCALE = 2.0**16


def make_optimizer(
    stages: Sequence[nn.Module],
    train: TrainConfig,
    precision: Precision,
    pg_collection: "ProcessGroupCollection",
) -> MegatronOptimizer:
    """Make the engine's AdamW over the stages of this rank.

    Args:
        stages: The wrapped stages.
        train: Learning rate, weight decay, coefficients of Adam, and the gradient norm to clip to.
        precision: Dtype of the parameters.
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
        initial_loss_scale=_INITIAL_LOSS_SCALE,
        params_dtype=getattr(torch, precision.params),
    )
    chunks: list[Any] = list(stages)
    with gathering_over(pg_collection.intra_dist_opt):
        return get_megatron_optimizer(config, chunks, use_gloo_process_groups=False, pg_collection=pg_collection)


def _is_distributed(stage: Any) -> bool:
    """Return True if the wrapper was made for the distributed optimizer, which shards its state over data ranks."""
    ddp_config = getattr(stage, "ddp_config", None)
    return ddp_config is not None and bool(ddp_config.use_distributed_optimizer)
