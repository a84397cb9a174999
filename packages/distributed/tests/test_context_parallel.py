"""Positions of each context rank, compared with the engine's cut."""

import pytest
import torch

from modelwright.distributed import context_positions


def test_one_rank_holds_everything_in_order() -> None:
    assert context_positions(6, rank=0, size=1).tolist() == [0, 1, 2, 3, 4, 5]


def test_each_rank_holds_a_chunk_and_its_mirror_image() -> None:
    assert context_positions(8, rank=0, size=2).tolist() == [0, 1, 6, 7]
    assert context_positions(8, rank=1, size=2).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_ranks_hold_every_position_once(size: int) -> None:
    held = torch.cat([context_positions(24, rank=rank, size=size) for rank in range(size)])
    assert sorted(held.tolist()) == list(range(24))


def test_it_is_the_cut_of_the_engine() -> None:
    """`get_pos_emb_on_this_cp_rank` cuts the rotary angles; queries must stand where their angles are."""
    from megatron.core.models.common.embeddings.rope_utils import get_pos_emb_on_this_cp_rank

    from modelwright.engine import cpu_runtime

    class Group:
        """One of four ranks: all that the function asks for."""

        def __init__(self, rank: int) -> None:
            self.at = rank

        def rank(self) -> int:
            return self.at

        def size(self) -> int:
            return 4

    with cpu_runtime(force=True):
        for rank in range(4):
            theirs = get_pos_emb_on_this_cp_rank(torch.arange(32).view(32, 1, 1, 1), 0, Group(rank))
            assert theirs.flatten().tolist() == context_positions(32, rank=rank, size=4).tolist()
