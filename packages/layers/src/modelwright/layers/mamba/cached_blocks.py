"""Blocks of a long tensor that are small enough for the cache of a CPU core.

On a CPU the cost of a chain of elementwise operations is the memory traffic of its intermediate results, which is many
times that of the arithmetic. The convolution and the norm of Mamba-2 therefore run in blocks of rows. Their backward
passes do the same: they recompute each block from the arguments and store nothing else.
"""

from torch import Tensor

_ELEMENTS = 2**16
"""Number of elements of a block on a CPU; a few blocks fit into the cache of a core."""


def cached_blocks(tensor: Tensor, dim: int, *, least: int = 1) -> list[slice]:
    """Divide a dim of a tensor into blocks.

    Args:
        tensor: Tensor of any shape.
        dim: Dim to divide.
        least: Smallest number of rows in a block; the last block may have fewer.

    Returns:
        Rows of each block; one block for all rows if the tensor is not on a CPU.
    """
    rows = tensor.size(dim)
    step = max(1, least, _ELEMENTS * rows // max(1, tensor.numel())) if tensor.device.type == "cpu" else max(1, rows)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
