"""`docs/config.md` says what happens."""

from pathlib import Path

import pytest

from tests.config import pages

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = pages.run(DOCS / "config.md", tmp_path)
    assert len(found) >= 8
    for printed, expected in found:
        assert printed == expected


def test_the_page_shows_every_command() -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    for command in ("show", "validate", "diff", "schema", "migrate", "convert"):
        assert f"modelwright config {command} " in text
