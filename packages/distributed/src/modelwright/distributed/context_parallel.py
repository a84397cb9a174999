"""Context parallelism: which positions of a sequence each rank holds.

As the engine cuts it (get_batch_on_this_cp_rank, get_pos_emb_on_this_cp_rank): 2 × size chunks, of which a rank holds
one from the front and its mirror image from the back, so that causal attention costs every rank the same.
"""

import torch
from torch import Tensor


def context_positions(seq_length: int, *, rank: int, size: int) -> Tensor:
    """The positions of one rank, in the order in which it holds them.

    Args:
        seq_length: Of the whole sequence; a multiple of 2 × `size`, unless `size` is 1.
        rank: Context-parallel rank.
        size: How many of them.

    Returns:
        [seq_length / size], int64.
    """
    positions = torch.arange(seq_length)
    if size == 1:
        return positions
    chunks = positions.chunk(2 * size)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])
