"""How to walk through a long tensor so that what is made of one part is still in the cache when it is read again.

On a CPU a chain of elementwise operations costs as much as the memory that its intermediate results go through, many
times the arithmetic. The convolution and the norm of Mamba therefore run in blocks of rows, in the backward pass too,
which makes each block again from the arguments and keeps nothing else.
"""

from torch import Tensor

_ELEMENTS = 2**16
"""Of a block on a CPU: a few of them fit into the cache of a core."""


def cached_blocks(tensor: Tensor, dim: int, *, least: int = 1) -> list[slice]:
    """Cut a dim into blocks.

    Args:
        tensor: What is walked through; any shape.
        dim: Along which.
        least: How many rows a block has at least, but for the last.

    Returns:
        The rows of each block; all at once where it is not for a CPU.
    """
    rows = tensor.size(dim)
    step = max(1, least, _ELEMENTS * rows // max(1, tensor.numel())) if tensor.device.type == "cpu" else max(1, rows)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
