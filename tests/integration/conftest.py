"""One pair of processes for all tests that need real ranks: starting them costs more than most of what they run."""

from collections.abc import Iterator

import pytest

from modelwright.testing import RankPool


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two processes, each with one thread."""
    with RankPool(2) as pool:
        yield pool
