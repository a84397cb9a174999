"""One config and seed give one loss curve, whatever the layout."""

import pytest

from modelwright.config import MegatronDDP, Parallelism, Precision, TorchFSDP2
from modelwright.testing import RankPool
from tests.integration.jobs import losses

LAYOUTS = {
    "tensor 2": Parallelism(tensor=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "data 2": Parallelism(data=2),
    "pipeline 2": Parallelism(pipeline=2),
    "pipeline 2 × virtual 2": Parallelism(pipeline=2, virtual_pipeline=2),
    "context 2": Parallelism(context=2),
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


WRAPS = {"fsdp2": TorchFSDP2(), "ddp, overlapped": MegatronDDP(overlap_grad_reduce=True, bucket_size=10_000)}


@pytest.mark.parametrize("wrap", WRAPS)
def test_every_wrap_agrees_with_one_rank(wrap: str, one_rank: list[tuple[float, float]], two_ranks: RankPool) -> None:
    for of_rank in two_ranks.run(losses, Parallelism(data=2), None, 20, WRAPS[wrap]):
        assert of_rank == [pytest.approx(pair, abs=1e-4) for pair in one_rank]


@pytest.mark.parametrize("wrap", [MegatronDDP(), TorchFSDP2()], ids=lambda wrap: wrap.kind)
def test_bfloat16_stays_near_float32(
    wrap: MegatronDDP | TorchFSDP2, one_rank: list[tuple[float, float]], two_ranks: RankPool
) -> None:
    """Eight bits of mantissa: a loss of 5 is known to about 0.02."""
    found = two_ranks.run(losses, Parallelism(data=2), None, 20, wrap, Precision(params="bfloat16"))[0]
    assert [loss for loss, _ in found] == [pytest.approx(loss, abs=0.02) for loss, _ in one_rank]
    assert found != one_rank


@pytest.mark.parametrize(
    ("layout", "wrap"), [("tensor 2", MegatronDDP()), ("pipeline 2", MegatronDDP()), ("data 2", TorchFSDP2())]
)
def test_tied_embeddings_agree_too(layout: str, wrap: MegatronDDP | TorchFSDP2, two_ranks: RankPool) -> None:
    expected = two_ranks.run(losses, Parallelism(), {"tie_embeddings": True}, 5, ranks=1)[0]
    found = two_ranks.run(losses, LAYOUTS[layout], {"tie_embeddings": True}, 5, wrap)[0]
    assert found == [pytest.approx(pair, abs=1e-4) for pair in expected]


def test_training_learns(one_rank: list[tuple[float, float]]) -> None:
    """Equal curves prove nothing when nothing is learnt."""
    assert one_rank[-1][0] < one_rank[0][0] - 0.5
