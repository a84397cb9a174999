"""Custom parts: modules that are imported because an option or an installed package names them, never a file."""

import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points

from modelwright.protocols import ModelwrightError

GROUP = "modelwright.parts"
"""Group of the entry points by which installed packages announce their parts."""


def import_parts(modules: Iterable[str] | None) -> None:
    """Import the modules of installed packages that announce parts, then those of the command line.

    Args:
        modules: Dotted names, also found from the working folder. None: no modules.

    Raises:
        ModelwrightError: A module cannot be imported.
    """
    names = [point.value for point in entry_points(group=GROUP)]
    if given := list(modules or ()):
        sys.path.append("")  # last, so that no file of the working folder stands in for an installed module
        names += given
    for name in names:
        _import(name)


def _import(name: str) -> None:
    """Import one module."""
    try:
        importlib.import_module(name)
    except ModelwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelwrightError(
            f"`--import` must name a module that can be imported, but {name!r} cannot: {type(error).__name__}: {error}."
        ) from error
