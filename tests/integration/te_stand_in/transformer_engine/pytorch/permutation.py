"""Rows of tokens in the order of their experts, and back."""

from typing import Any

import torch
from torch import Tensor

from transformer_engine.recorded import record


def _order(routing_map: Tensor) -> Tensor:
    """Return the token of each row: those of the first expert, then those of the next."""
    tokens: Tensor = routing_map.bool().T.nonzero()[:, 1]
    return tokens


def moe_permute(
    inp: Tensor, routing_map: Tensor, num_out_tokens: int, max_token_num: int = -1, map_type: str = "mask"
) -> tuple[Tensor, Tensor]:
    record("moe_permute", inp=inp)
    order = _order(routing_map)
    return inp[order], order


def moe_permute_with_probs(
    inp: Tensor, probs: Tensor, routing_map: Tensor, num_out_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    record("moe_permute_with_probs", inp=inp)
    order = _order(routing_map)
    return inp[order], probs.T[routing_map.bool().T], order


def moe_unpermute(
    inp: Tensor,
    row_id_map: Tensor,
    merging_probs: Tensor | None = None,
    restore_shape: Any = None,
    map_type: str = "mask",
    probs: Tensor | None = None,
    pad_offsets: Tensor | None = None,
) -> Tensor:
    record("moe_unpermute", inp=inp, merging=merging_probs, pad_offsets=pad_offsets)
    if merging_probs is not None or pad_offsets is not None:
        raise NotImplementedError
    return inp.new_zeros(restore_shape).index_add(0, row_id_map, inp)


def moe_sort_chunks_by_index(inp: Tensor, split_sizes: Tensor, sorted_index: Tensor) -> Tensor:
    record("moe_sort_chunks_by_index", inp=inp)
    chunks = inp.split(split_sizes.tolist())
    return torch.cat([chunks[i] for i in sorted_index.tolist()])


def moe_sort_chunks_by_index_with_probs(
    inp: Tensor, probs: Tensor, split_sizes: Tensor, sorted_index: Tensor
) -> tuple[Tensor, Tensor]:
    record("moe_sort_chunks_by_index_with_probs", inp=inp)
    return moe_sort_chunks_by_index(inp, split_sizes, sorted_index), moe_sort_chunks_by_index(
        probs, split_sizes, sorted_index
    )
