"""Marks on parameters: attributes that Megatron-Core reads to reduce gradients and to shard weights.

A parameter has no such attributes of its own, so a type checker sees them only here.
"""

from collections.abc import Sequence

from torch import Tensor


def mark_sequence_parallel(parameter: Tensor, *, enabled: bool) -> None:
    """Mark a parameter whose gradient the engine must sum over the tensor ranks.

    Under sequence parallelism each tensor rank sees its own part of the sequence, so the gradient of a replicated
    parameter is partial on every rank. The engine sums it (megatron/core/distributed/finalize_model_grads.py).

    Args:
        parameter: Replicated on all tensor ranks.
        enabled: True under sequence parallelism.
    """
    setattr(parameter, "sequence_parallel", enabled)  # noqa: B010 - an attribute of the engine


def mark_split(parameter: Tensor) -> None:
    """Mark a parameter that the tensor ranks split along its first dim.

    Args:
        parameter: This rank's part.
    """
    setattr(parameter, "tensor_model_parallel", True)  # noqa: B010 - attributes of the engine
    setattr(parameter, "partition_dim", 0)  # noqa: B010


def mark_partition_sizes(parameter: Tensor, sizes: Sequence[int]) -> None:
    """Mark a parameter that joins several weights along its first dim, each split over the tensor ranks by itself.

    The engine's resharding reads the sizes.

    Args:
        parameter: This rank's part.
        sizes: Rows of each weight on this rank.
    """
    setattr(parameter, "partition_sizes", list(sizes))  # noqa: B010 - an attribute of the engine
