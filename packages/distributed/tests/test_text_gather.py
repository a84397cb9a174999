"""Text of every rank, of any length, without a pickle."""

from collections.abc import Iterator

import pytest

from modelwright.config import Parallelism
from modelwright.distributed import RankPool, gather_texts, initialize


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Two processes."""
    with RankPool(2) as started:
        yield started


def told(texts: list[str]) -> list[str]:
    """What one rank finds out."""
    import torch

    initialize(Parallelism(data=2))
    return gather_texts(texts[torch.distributed.get_rank()])


@pytest.mark.parametrize("texts", [["a", "bcd"], ["", "x" * 5000], ["", ""], ["ü\x1b", "日本"]])
def test_every_rank_has_every_text(texts: list[str], pool: RankPool) -> None:
    assert pool.run(told, texts) == [texts, texts]
