"""Every family is equal on every legal layout of two ranks, from its example file and within its time."""

from pathlib import Path

import pytest

from modelwright.config import RunConfig, load
from modelwright.testing import RankPool
from modelwright.verify import verify

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize("name", ["gpt-tiny", "moe-tiny", "mamba-tiny", "hybrid-tiny"])
def test_a_family_raises_no_alarm(name: str, two_ranks: RankPool) -> None:
    run = load(EXAMPLES / f"{name}.yaml")
    assert isinstance(run, RunConfig)
    verdict = verify(run, pool=two_ranks)
    assert {
        layout.name: layout.sentence() for layout in verdict.layouts if layout.outcome in ("differs", "failed")
    } == {}
    assert sum(layout.outcome == "equal" for layout in verdict.layouts) >= 18
    assert all(layout.layout_bound == () for layout in verdict.layouts)
