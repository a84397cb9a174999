"""A user's own parts: imported because the command line or an installed package says so, never because a file does."""

import importlib
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points

from modelwright.protocols import ModelwrightError

GROUP = "modelwright.parts"


def import_parts(modules: Iterable[str]) -> None:
    """Import the modules of installed packages that announce parts, then the ones named on the command line.

    Args:
        modules: Dotted names, found from the working folder too.

    Raises:
        ModelwrightError: A module cannot be imported.
    """
    names = [point.value for point in entry_points(group=GROUP)]
    if given := list(modules):
        sys.path.insert(0, "")
        names += given
    for name in names:
        _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModelwrightError:
        raise
    except Exception as error:
        raise ModelwrightError(
            f"`--import` must name a module that can be imported, but {name!r} cannot: {type(error).__name__}: {error}."
        ) from error
