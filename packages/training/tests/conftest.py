"""The engine on the device that is there, left clean after each test that asks for it."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job of this one process may be joined inside; its groups are taken down afterwards."""
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield
        finalize()
