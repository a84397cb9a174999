"""The other commands that start ranks, in a network of their own: see `tests/integration/test_network_namespace.py`."""

from pathlib import Path

import pytest

from tests.integration.command import settings, six_steps, tiny_file
from tests.integration.test_network_namespace import check


@pytest.mark.parametrize("surroundings", ["loopback", "two addresses"])
def test_build(surroundings: str, tmp_path: Path) -> None:
    check(surroundings, "build", tiny_file(tmp_path), *settings("parallelism.tensor=2"))


@pytest.mark.parametrize("surroundings", ["loopback", "two addresses"])
def test_generate(surroundings: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(surroundings, "generate", six_steps(tmp_path_factory.getbasetemp())[1], "--tokens", 3)
