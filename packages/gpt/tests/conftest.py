"""Groups of one process on the CPU; imported where they are asked for, so that tests of configs load no torch."""

from collections.abc import Iterator
from typing import Any

import pytest

from modelwright.config import Parallelism


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The groups of a job of one rank."""
    from modelwright.distributed import finalize, initialize
    from modelwright.engine import device_runtime

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield initialize(Parallelism())
        finalize()
