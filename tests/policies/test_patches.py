"""Only `modelwright-engine` changes torch or Megatron-Core, and its README lists every place that does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policies.repository import PACKAGES, ROOT, Package

FOREIGN = ("torch", "megatron", "transformer_engine")
ENGINE = ROOT / "packages" / "engine"


def foreign_names(tree: ast.AST) -> set[str]:
    """The names that a file binds to modules, classes and functions of torch or the engine."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                alias.asname or alias.name.partition(".")[0]
                for alias in node.names
                if alias.name.partition(".")[0] in FOREIGN
            }
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOREIGN:
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def root_name(node: ast.expr) -> str | None:
    """The name at the beginning of a chain of attributes."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def changes(tree: ast.AST) -> Iterator[str]:
    """Assignments to attributes of foreign names, and calls of `setattr` and `delattr` on them."""
    foreign = foreign_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets):
                pass
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                targets = [target]
            case ast.Delete(targets=targets):
                pass
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[first, *_]):
                if root_name(first) in foreign:
                    yield f"line {node.lineno}"
                continue
            case _:
                continue
        if any(isinstance(target, ast.Attribute) and root_name(target) in foreign for target in targets):
            yield f"line {node.lineno}"


@pytest.mark.parametrize("package", [it for it in PACKAGES if it.name != "engine"], ids=lambda package: package.name)
def test_only_engine_changes_torch_and_megatron(package: Package):
    """A patch elsewhere would be found by nobody who asks what this library does to their torch."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in package.portion.rglob("*.py")
        if (lines := list(changes(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.compile = None",
        "import torch\ntorch.cuda.current_device = None",
        "from torch import nn\nnn.Module.cuda = None",
        "import torch\nsetattr(torch, 'compile', None)",
        "from megatron.core import parallel_state\nparallel_state._GROUP += 1",
        "from megatron.core import parallel_state\ndel parallel_state._GROUP",
    ],
)
def test_the_policy_sees_a_patch(code: str):
    """The check above can fail."""
    assert list(changes(ast.parse(code)))


def test_the_readme_lists_every_patch():
    """The page that a Megatron user reads before trusting this library is complete."""
    source = ENGINE / "src" / "modelwright" / "engine"
    files = {
        str(path.relative_to(source))
        for folder in ("cpu", "patches")
        for path in (source / folder).glob("*.py")
        if path.name not in ("__init__.py", "answers.py", "runtime.py")
    }
    readme = (ENGINE / "README.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `((?:cpu|patches)/\w+\.py)` \|", readme, flags=re.MULTILINE))
    assert table == files


def test_every_patch_says_what_it_does():
    """Its docstring has the same six entries everywhere: a reader finds the end of a patch as easily as its reason."""
    for path in sorted((ENGINE / "src" / "modelwright" / "engine" / "patches").glob("*.py")):
        if path.name == "__init__.py":
            continue
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        missing = [
            entry
            for entry in (
                "Changes",
                "Why",
                "Versions",
                "Undone",
                "Entered",
                "Test that fails when it is no longer needed",
            )
            if f"- **{entry}**: " not in text
        ]
        assert missing == [], path.name
        named = re.findall(r"`((?:packages/\w+/)?tests/[\w/]+\.py)`", text)
        assert named, f"{path.name} names no test"
        assert [name for name in named if not _exists(name)] == []


def _exists(name: str) -> bool:
    return (ROOT / name if name.startswith("packages/") else ENGINE / name).is_file()


def test_files_of_the_readme_exist():
    """A table with a file that has moved proves nothing."""
    readme = (ENGINE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:cpu|patches|tests)/[\w/]+\.py)`", readme))
    roots = (ENGINE, ENGINE / "src" / "modelwright" / "engine")
    assert [name for name in sorted(named) if not any((Path(root) / name).is_file() for root in roots)] == []
