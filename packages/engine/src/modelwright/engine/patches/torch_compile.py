"""Loads the engine before any file that imports it: `load_engine`, called by the doors of the packages above.

The engine wraps many functions in `torch.compile` when it is imported, and preparing that takes almost half of the
import: 4.7 of 12.1 seconds on two slow cores. Without a GPU those functions run as they are written (see
`cpu_runtime`), so they are left as they are written.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from modelwright.protocols import ModelwrightError

_OLDEST_TORCH = (2, 11)
_WHOLE_MODEL = "megatron.core.models.hybrid.hybrid_model"


def _as_written(function: Callable[..., Any] | None = None, **_: object) -> Any:
    """In place of `torch.compile`, as a decorator with or without options."""
    return _as_written if function is None else function


def load_engine() -> None:
    """Import the engine; without a GPU, with its functions as they are written.

    Raises:
        ModelwrightError: torch is too old.
    """
    _check_torch()
    if torch.cuda.is_available() or _WHOLE_MODEL in sys.modules:
        return
    before = torch.compile
    setattr(torch, "compile", _as_written)  # noqa: B010 - of another type than torch's
    try:
        import_module(_WHOLE_MODEL)
    finally:
        setattr(torch, "compile", before)  # noqa: B010


def _check_torch() -> None:
    """A package index would refuse an older one; a container that brings its own torch does not."""
    version = str(torch.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        raise ModelwrightError(
            f"`torch` must be {oldest} or newer, but is {version}; install one by `pip install 'torch>={oldest},<3'`."
        )
