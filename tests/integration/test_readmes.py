"""Every Python block of every README, and of the pages of docs that have them, runs as written."""

import re
from pathlib import Path

import pytest

from modelwright.config import presets
from modelwright.testing import RankPool

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / f"{page}.md" for page in ("distributed", "mamba", "moe", "verify")]
READMES = sorted([ROOT / "README.md", *PAGES, *ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("packages/*/README.md")])


def python_blocks(readme: Path) -> str:
    """The blocks one after another: a later one may use what an earlier one defined."""
    return "\n".join(re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL))


def run_blocks(code: str) -> None:
    """Run the example as an imported file, so that a main guard does not start processes from this one."""
    exec(compile(code, "README", "exec"), {"__name__": "readme"})  # noqa: S102 - that is the test


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_run(readme: Path, two_ranks: RankPool) -> None:
    code = python_blocks(readme)
    if code:
        two_ranks.run(run_blocks, code, ranks=1)


def test_the_readme_shows_what_its_first_block_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The message of a wrong part is the argument for typed slots, so it must be the real one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block, shown = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)[0]
    run_blocks(block)
    assert capsys.readouterr().out == shown


def test_the_presets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    families = text.split("## Families", 1)[1].split("##", 1)[0]
    rows = [row.split("|") for row in families.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[3])}
    assert len(named) > 10
    assert named - set(presets()) == set()


def test_there_are_blocks() -> None:
    """A pattern that finds nothing would pass."""
    assert sum(bool(python_blocks(readme)) for readme in READMES) >= 6
