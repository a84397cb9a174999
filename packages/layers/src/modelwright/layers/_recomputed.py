"""Computing again instead of keeping: for functions that are cheap beside the products around them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import checkpoint

_torch: Any = checkpoint  # not typed


def recomputed(function: Callable[..., Tensor], *parts: Tensor | None) -> Tensor:
    """Call a function without randomness; the backward pass calls it again and needs nothing kept but its arguments.

    Args:
        function: From tensors to a tensor.
        parts: Its arguments.

    Returns:
        What it returns.
    """
    result: Tensor = _torch.checkpoint(function, *parts, use_reentrant=False, preserve_rng_state=False)
    return result
