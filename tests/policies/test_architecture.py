"""`docs/architecture.md` answers "where is …?" and walks two ways through the code; its files and names exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.policies.repository import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WAYS = {"From `modelwright train FILE` to the first optimizer step": 35, "From a custom MLP to its constructor": 12}


def source(short: str) -> Path:
    """The file that a short path means."""
    package, _, rest = short.partition("/")
    return ROOT / "packages" / package / "src" / "modelwright" / package / rest


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def stations(title: str) -> list[tuple[int, str | None, str | None]]:
    """Number, file and name of each item of a numbered list."""
    items = re.findall(r"^(\d+)\. (?:`([\w/]+\.py)` `(\w+)`)?", section(title), flags=re.MULTILINE)
    return [(int(number), file or None, name or None) for number, file, name in items]


def test_every_file_exists():
    """A page that leads to a file that has moved is worse than none."""
    named = set(re.findall(r"`(\w+/[\w/]+\.py)`", PAGE))
    assert len(named) > 40
    assert [name for name in sorted(named) if not source(name).is_file()] == []


def test_every_question_is_answered():
    """The twenty-four questions that a reviewer asked of the names alone, and those that came since."""
    rows = [line for line in section("Where is …?").splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 24
    assert all(re.search(r"`\w+/[\w/]+\.py`", row) for row in rows)


@pytest.mark.parametrize("title", WAYS)
def test_a_way_is_short_and_true(title: str):
    """Each station is a definition in its file, and there are few enough to be read aloud."""
    found = stations(title)
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    assert len(found) <= WAYS[title]
    for _, file, name in found:
        if file is None:
            continue
        tree = ast.parse(source(file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)} | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert name in defined, f"{file} does not define {name}"


def test_the_size_of_a_tile_on_the_page_is_that_of_the_code():
    """The page had half of it once."""
    code = source("distributed/initialization/layout_free.py").read_text(encoding="utf-8")
    size = int(re.findall(r"^_TILE = ([\d_]+)", code, flags=re.MULTILINE)[0])
    assert f"{size:,} elements" in (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
