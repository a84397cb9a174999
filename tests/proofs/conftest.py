"""One pair of processes for all proofs that need real ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelwright.testing import RankPool


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two processes, each with one thread."""
    with RankPool(2) as pool:
        yield pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder as proofs."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.proof)
