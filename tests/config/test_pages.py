"""The examples of `docs/config.md` give the output that the page shows."""

from pathlib import Path

import pytest

from modelwright.config import ConfigError, RunConfig, check_layout, loads
from tests.config import pages

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = pages.run(DOCS / "config.md", tmp_path)
    assert len(found) >= 8
    for printed, expected in found:
        assert printed == expected


def test_the_hybrid_of_the_mamba_page_is_a_run_that_fits() -> None:
    (block,) = [block for block in pages.blocks(DOCS / "mamba.md") if block.sort == "yaml"]
    run = loads(block.text)
    assert isinstance(run, RunConfig)
    check_layout(run.model, run.parallelism)
    (refused,) = [block for block in pages.blocks(DOCS / "mamba.md") if block.sort == "text"]
    with pytest.raises(ConfigError) as caught:
        loads(block.text.replace("M-M*M-M-", "M-X*M-M-"), source="hybrid.yaml")
    assert f"{caught.value}\n" == refused.text


def test_the_page_shows_every_command() -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    for command in ("show", "validate", "diff", "schema", "migrate", "convert"):
        assert f"modelwright config {command} " in text
