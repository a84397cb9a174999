"""The table of `nox -s chaos`, printed at its end."""

from collections.abc import Iterator

import pytest

Row = tuple[str, int, str]
_TABLE = pytest.StashKey[list[Row]]()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> list[Row]:
    """The rows of the table: what was done, how often, and how it ended."""
    return request.config.stash.setdefault(_TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_TABLE, [])
    if not rows:
        return
    terminalreporter.section("chaos")
    width = max(len(what) for what, *_ in rows)
    for what, count, outcome in rows:
        terminalreporter.write_line(f"{what:<{width}}  {count:>6,}  {outcome}")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job of this one process may be joined inside; its groups are destroyed afterwards."""
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield
        finalize()
