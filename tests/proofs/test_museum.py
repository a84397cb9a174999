"""`verify` finds every fault of the museum, and raises no alarm on the models that the faults are planted in."""

import pytest

from modelwright.testing import RankPool
from modelwright.verify import MegatronModel, verify
from tests.proofs.museum import bare, other_faults
from tests.proofs.museum.exhibits import EXHIBITS, FIRST
from tests.proofs.museum.fault import Fault, check

REST = [exhibit for exhibit in EXHIBITS if exhibit.build.__name__ not in FIRST]


def test_the_museum_is_large() -> None:
    assert len(EXHIBITS) >= 20
    assert len({exhibit.build for exhibit in EXHIBITS}) == len(EXHIBITS)


@pytest.mark.parametrize("exhibit", REST, ids=lambda exhibit: exhibit.build.__name__)
def test_the_fault_is_found_and_named(exhibit: Fault, two_ranks: RankPool) -> None:
    check(exhibit, two_ranks)


@pytest.mark.parametrize("build", [bare.right, other_faults.right_experts], ids=lambda build: build.__name__)
def test_the_model_without_a_fault_is_equal_on_every_layout(build: object, two_ranks: RankPool) -> None:
    experts = build is other_faults.right_experts
    verdict = verify(MegatronModel(build=build, experts=experts), pool=two_ranks)  # type: ignore[arg-type]
    assert {layout.name: layout.sentence() for layout in verdict.layouts if layout.outcome == "differs"} == {}
    assert sum(layout.outcome == "equal" for layout in verdict.layouts) >= 10
