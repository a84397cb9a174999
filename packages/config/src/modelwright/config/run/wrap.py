"""How a rank's stages become data-parallel. Pure data: `modelwright.distributed` acts on it."""

from typing import ClassVar, Literal, final

from modelwright.config.problems.numbers import Count
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["MegatronDDP", "MegatronFSDP", "NoWrap", "TorchFSDP2", "Wrap"]


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

    distributed_optimizer: bool = False
    """Split the optimizer's state over the data-parallel ranks (ZeRO stage 1, arXiv:1910.02054)."""

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


@final
@config_class
class TorchFSDP2(Config):
    """PyTorch's `fully_shard`, layer by layer: each rank holds a part of every parameter, gradient and moment."""

    kind: ClassVar[str] = "fsdp2"

    reshard_after_forward: bool = True
    """Free a layer's whole parameters after its forward pass and gather them again for the backward pass."""


@final
@config_class
class MegatronFSDP(Config):
    """megatron-core's own fully sharded data parallel; needs a GPU and einops."""

    kind: ClassVar[str] = "megatron_fsdp"

    sharding: Literal["optim", "optim_grads", "optim_grads_params"] = "optim_grads_params"
    """What is sharded: optimizer state, gradients too, parameters too."""

    overlap_grad_reduce: bool = True
    """Reduce gradients while the backward pass goes on."""

    overlap_param_gather: bool = True
    """Gather parameters while the layer before them still computes."""


Wrap = NoWrap | MegatronDDP | MegatronFSDP | TorchFSDP2
"""Any wrap strategy of a file."""
