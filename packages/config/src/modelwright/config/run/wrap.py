"""Data-parallel wrappers of the stages of a rank, as data. `modelwright.distributed` applies them."""

from collections.abc import Iterator
from typing import ClassVar, Literal, final, override

from modelwright.config.problems.numbers import Count
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import without_effect
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["MegatronDDP", "MegatronFSDP", "NoWrap", "TorchFSDP2", "Wrap"]


@final
@config_class
class NoWrap(Config):
    """No wrapper; for one copy of the model, or for a caller that wraps the stages itself."""

    kind: ClassVar[str] = "none"


@final
@config_class
class MegatronDDP(Config):
    """Megatron-Core's `DistributedDataParallel`: gradients in contiguous buckets, one reduction for each bucket."""

    kind: ClassVar[str] = "ddp"

    distributed_optimizer: bool = False
    """Shard the state of the optimizer over the data-parallel ranks (ZeRO stage 1, arXiv:1910.02054)."""

    overlap_grad_reduce: bool = False
    """Overlap the reduction of a bucket with the backward pass."""

    bucket_size: Count | None = None
    """Number of parameters in a bucket, with `overlap_grad_reduce`. `null`: the engine's default."""

    average_in_collective: bool = False
    """Average in the collective, instead of scaling the gradients before it."""

    grad_reduce_in_fp32: bool = True
    """Reduce gradients in float32, whatever the dtype of the parameters. No effect if that is float32."""

    check_for_nan: bool = False
    """Raise an error when a gradient is not finite."""

    broadcast_from_data_rank_0: bool = False
    """Broadcast the parameters of data-parallel rank 0 to the other ranks when wrapping."""

    @override
    def problems(self) -> Iterator[Problem]:
        if not self.overlap_grad_reduce:
            yield from without_effect(self, ("bucket_size",), "without `overlap_grad_reduce`")


@final
@config_class
class TorchFSDP2(Config):
    """PyTorch's `fully_shard`, applied to each layer: parameters, gradients and optimizer state are sharded."""

    kind: ClassVar[str] = "fsdp2"

    reshard_after_forward: bool = True
    """Free the unsharded parameters of a layer after its forward pass, and gather them again for the backward pass."""


@final
@config_class
class MegatronFSDP(Config):
    """Megatron-Core's fully sharded data parallelism; needs a GPU and einops."""

    kind: ClassVar[str] = "megatron_fsdp"

    sharding: Literal["optim", "optim_grads", "optim_grads_params"] = "optim_grads_params"
    """State that is sharded: of the optimizer (`optim`), also gradients (`optim_grads`), also parameters
    (`optim_grads_params`)."""

    overlap_grad_reduce: bool = True
    """Overlap the reduction of gradients with the backward pass."""

    overlap_param_gather: bool = True
    """Overlap the gathering of parameters with the computation of the previous layer."""


Wrap = NoWrap | MegatronDDP | MegatronFSDP | TorchFSDP2
"""Any data-parallel wrapper that a file may name."""
