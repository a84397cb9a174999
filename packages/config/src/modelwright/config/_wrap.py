"""How a rank's stages become data-parallel. Pure data: `modelwright.distributed` acts on it."""

from typing import ClassVar, final

from modelwright.config._base import Config, config_class
from modelwright.config._numbers import Count

__all__ = ["MegatronDDP", "NoWrap", "Wrap"]


@final
@config_class
class NoWrap(Config):
    """Leave the stages as they are; for one copy of the model, or for a caller that wraps them."""

    kind: ClassVar[str] = "none"


@final
@config_class
class MegatronDDP(Config):
    """megatron-core's `DistributedDataParallel`: gradients in contiguous buckets, reduced once for each."""

    kind: ClassVar[str] = "ddp"

    overlap_grad_reduce: bool = False
    """Reduce a bucket while the backward pass goes on."""

    bucket_size: Count | None = None
    """Parameters in a bucket; None: the engine's choice."""

    average_in_collective: bool = False
    """Let the collective average, instead of scaling before it."""

    grad_reduce_in_fp32: bool = True
    """Sum gradients in float32 whatever the parameters are."""

    check_for_nan: bool = False
    """Stop when a gradient is not finite."""

    broadcast_from_data_rank_0: bool = False
    """Copy the parameters of the first data rank to the others when wrapping."""


Wrap = NoWrap | MegatronDDP
"""Any wrap strategy of a file."""
