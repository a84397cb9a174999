"""A working folder: modules with custom parts, and a file that needs one of them."""

from pathlib import Path

import pytest

from packages.cli.tests.command import BYTES, PARTS, STACK


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with `my_parts.py`, `my_stack.py` and `bytes.yaml`."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    (tmp_path / "my_stack.py").write_text(STACK)
    (tmp_path / "bytes.yaml").write_text(BYTES)
    return tmp_path
