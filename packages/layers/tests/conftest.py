"""Process groups of one rank on the CPU, and registries that forget what a test registered."""

from collections.abc import Iterator
from typing import Any

import pytest
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import Parallelism
from modelwright.config.model import activations as config_activations
from modelwright.distributed import finalize, initialize
from modelwright.engine import device_runtime
from modelwright.layers import activations
from modelwright.layers.stack import stack_registry


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessGroupCollection]:
    """The groups of a job of one rank."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield initialize(Parallelism())
        finalize()


@pytest.fixture
def registries() -> Iterator[None]:
    """Activations and stacks that the test registers are gone after it."""
    tables: list[dict[str, Any]] = [config_activations._GATED, activations._functions, stack_registry._stacks]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
