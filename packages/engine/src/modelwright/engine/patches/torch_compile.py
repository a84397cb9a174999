"""Keep `torch.compile` out of the engine's import on machines without a GPU.

- **Changes**: `torch.compile` returns the function uncompiled while `load_engine` imports the engine, in the importing
  thread only.
- **Why**: the engine wraps many functions in `torch.compile` when it is imported, and these calls take almost half
  of the import: 4.7 of 12.1 seconds on two slow cores. Without a GPU `cpu_runtime` runs those functions uncompiled
  anyway.
- **Versions**: megatron-core 0.19. `megatron.core.jit.disable_jit_fuser` alone comes too late: the package's own
  `__init__` imports functions that are wrapped. It is called afterwards, for modules that are imported later.
- **Undone**: at the end of `load_engine`. The functions of the engine stay uncompiled for the life of the process.
- **Entered**: by the doors of `distributed`, `layers` and `training` before they import a file that needs the engine,
  and by `cpu_runtime`. Code that imports Megatron-Core earlier gets the engine unchanged, and a slower start.
- **Test that fails when it is no longer needed**: `tests/patches/test_torch_compile.py`.
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from modelwright.engine.thread_patch import Change, ThreadPatch
from modelwright.engine.versions import check_torch

_WHOLE_MODEL = "megatron.core.models.hybrid.hybrid_model"


def load_engine() -> None:
    """Import the engine. Without a GPU its functions are left uncompiled.

    Raises:
        ModelwrightError: torch is too old.
    """
    if _WHOLE_MODEL in sys.modules:
        return
    import torch  # the `__init__.py` of packages above import this file, and must not load torch

    check_torch()
    if torch.cuda.is_available():
        import_module(_WHOLE_MODEL)
        return
    with _UNCOMPILED():
        import_module(_WHOLE_MODEL)
    # The engine's own switch, for its modules that are imported later.
    import_module("megatron.core.jit").disable_jit_fuser()


def _as_written(function: Callable[..., Any] | None = None, **_: object) -> Any:
    """Return the function unchanged; replaces `torch.compile` as a decorator with or without options."""
    return _as_written if function is None else function


def _changes() -> Iterator[Change]:
    import torch

    yield torch, "compile", _as_written


_UNCOMPILED = ThreadPatch(_changes)
