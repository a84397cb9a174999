"""Each package has one public door, and the door says what is behind it (ruff's RUF022 keeps the list sorted)."""

import ast
import importlib
from collections.abc import Iterator

import pytest

from tests.policies.repository import PACKAGES, Package

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)


def public_names(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the public names that a module defines or takes from its own package, `TYPE_CHECKING` blocks included."""
    for node in body:
        names: list[str] = []
        match node:
            case ast.ImportFrom(module=module, level=level) if level or (module or "").startswith("modelwright"):
                names = [alias.asname or alias.name for alias in node.names]
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.TypeAlias(name=ast.Name(id=name)):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):  # the other branch is how a lazy door finds these
                names = [*public_names(node.body)]
        yield from (name for name in names if not name.startswith("_"))


@each_package
def test_the_door_lists_what_it_exports(package: Package):
    """A name that is importable but not listed is public by accident, and cannot be changed again."""
    tree = ast.parse(package.door.read_text(encoding="utf-8"))
    module = importlib.import_module(f"modelwright.{package.name}")
    assert sorted(set(public_names(tree.body)) - set(module.__all__)) == []


@each_package
def test_the_door_exports_what_it_lists(package: Package):
    """A listed name that is not there, lazy ones included, breaks `from … import *` and the documentation."""
    module = importlib.import_module(f"modelwright.{package.name}")
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    missing = object()
    assert [name for name in module.__all__ if getattr(module, name, missing) is missing] == []
