"""One config and seed give one loss curve, whatever the layout."""

import pytest

from modelwright.config import Parallelism
from modelwright.testing import RankPool
from tests.integration.jobs import losses

LAYOUTS = {
    "tensor 2": Parallelism(tensor=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "data 2": Parallelism(data=2),
    "pipeline 2": Parallelism(pipeline=2),
    "pipeline 2 × virtual 2": Parallelism(pipeline=2, virtual_pipeline=2),
}


@pytest.fixture(scope="module")
def one_rank(two_ranks: RankPool) -> list[tuple[float, float]]:
    return two_ranks.run(losses, Parallelism(), ranks=1)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_steps_agree_with_one_rank(
    layout: str, one_rank: list[tuple[float, float]], two_ranks: RankPool
) -> None:
    for of_rank in two_ranks.run(losses, LAYOUTS[layout]):
        assert len(of_rank) == 20
        for (loss, norm), (expected_loss, expected_norm) in zip(of_rank, one_rank, strict=True):
            assert loss == pytest.approx(expected_loss, abs=1e-4)
            assert norm == pytest.approx(expected_norm, abs=1e-4)


@pytest.mark.parametrize("layout", ["tensor 2", "pipeline 2"])
def test_tied_embeddings_agree_too(layout: str, two_ranks: RankPool) -> None:
    expected = two_ranks.run(losses, Parallelism(), {"tie_embeddings": True}, 5, ranks=1)[0]
    assert two_ranks.run(losses, LAYOUTS[layout], {"tie_embeddings": True}, 5)[0] == [
        pytest.approx(pair, abs=1e-4) for pair in expected
    ]


def test_training_learns(one_rank: list[tuple[float, float]]) -> None:
    """Equal curves prove nothing when nothing is learnt."""
    assert one_rank[-1][0] < one_rank[0][0] - 0.5
