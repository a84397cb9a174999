"""One pair of processes for all proofs that need real ranks."""

from collections.abc import Iterator

import pytest

from modelwright.testing import RankPool


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two processes, each with one thread."""
    with RankPool(2) as pool:
        yield pool
