"""Context parallelism: which positions of a sequence each rank computes.

The sequence is cut as in the engine (get_batch_on_this_cp_rank, get_pos_emb_on_this_cp_rank): into 2 × size chunks. A
rank gets one chunk from the front and its mirror image from the back, so that causal attention costs all ranks the
same.
"""

import torch
from torch import Tensor


def context_positions(seq_length: int, *, rank: int, size: int) -> Tensor:
    """Return the positions of one rank, in the order in which it stores them.

    Args:
        seq_length: Length of the whole sequence; a multiple of 2 × `size`, unless `size` is 1.
        rank: Context-parallel rank.
        size: Number of context-parallel ranks.

    Returns:
        Positions, [seq_length / size], int64.
    """
    positions = torch.arange(seq_length)
    if size == 1:
        return positions
    chunks = positions.chunk(2 * size)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])
