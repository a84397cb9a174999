"""Lazy doors (PEP 562): each public name of a package is imported from its file when it is first used.

A package lists its public names once, as imports under `if TYPE_CHECKING:` in its `__init__.py`, where type checkers
and editors read them. At run time `lazy_door` reads the same lines:

    if TYPE_CHECKING:
        from modelwright.config.model.base import ModelConfig
    else:
        __getattr__, __dir__ = lazy_door(__name__, __file__)

The `else` hides `__getattr__` from type checkers, for which every misspelt name would exist otherwise.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path


def lazy_door(
    package: str, file: str, *, before: Callable[[], None] | None = None, light: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose names are imported when they are first used.

    Args:
        package: The package's `__name__`.
        file: Its `__file__`; the imports in its `if TYPE_CHECKING:` blocks are the public names.
        before: Called before a file is imported that needs what it prepares.
        light: The files that do not need it, by module name below the package.
    """
    homes = dict(_declared(ast.parse(Path(file).read_text(encoding="utf-8")).body))

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if before is not None and homes[name].removeprefix(f"{package}.") not in light:
            before()
        found: object = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names


def _declared(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield each name with its module from the imports of every `if TYPE_CHECKING:` block."""
    for block in body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for node in block.body:
                if isinstance(node, ast.ImportFrom):
                    yield from ((alias.name, str(node.module)) for alias in node.names)
