"""Lazy package doors (PEP 562), which import each public name of a package from its file at its first use.

A package lists its public names once, as imports under `if TYPE_CHECKING:` in its `__init__.py`. Type checkers and
editors read them there. At run time, `lazy_door` reads the same lines:

    if TYPE_CHECKING:
        from modelwright.config.model.base import ModelConfig
    else:
        __getattr__, __dir__ = lazy_door(__name__, __file__)

The `else` hides `__getattr__` from type checkers. Otherwise every misspelled name would exist for them.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path


def lazy_door(
    package: str, file: str, *, before: Callable[[], None] | None = None, light: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its names at their first use.

    Args:
        package: The package's `__name__`.
        file: The package's `__file__`. The imports in its `if TYPE_CHECKING:` blocks are the public names.
        before: Function to call before a file is imported, except for those in `light`. None: no function.
        light: Modules that do not need `before`, named relative to the package.
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
