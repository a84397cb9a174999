"""Groups of one process on the CPU, made anew for each test that asks for them."""

from collections.abc import Iterator

import pytest
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import Parallelism
from modelwright.distributed import finalize, initialize
from modelwright.engine import device_runtime


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessGroupCollection]:
    """The groups of a job of one rank."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield initialize(Parallelism())
        finalize()
