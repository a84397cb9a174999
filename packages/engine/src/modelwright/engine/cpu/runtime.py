"""`cpu_runtime`: Megatron-Core, as installed, on a machine without a GPU.

The engine asks CUDA for a device, streams, events and random states while it builds, communicates and steps. No
computed value depends on CUDA itself. Inside the context each request is answered on the CPU:

- `cuda_calls.py`: queries, streams, events and random states of `torch.cuda`
- `factories.py`: `device="cuda"` in a factory, `.cuda()` of tensors and modules
- `collectives.py`: groups that ask for NCCL, and collectives in which gloo accepts less than NCCL
- `engine_calls.py`: functions of the engine below `torch.cuda`, and its comparisons of tensor type names

On exit every attribute has its original value. Functions are replaced only for the thread that enters. The classes
`torch.cuda.Stream` and `Event`, the context `torch.cuda.stream`, and the switch that keeps `torch.compile` off are
process-wide (see `ThreadPatch`).
"""

import contextlib
from collections.abc import Generator, Iterator

import torch

from modelwright.engine.cpu.collectives import collective_changes
from modelwright.engine.cpu.cuda_calls import cuda_changes
from modelwright.engine.cpu.engine_calls import engine_changes
from modelwright.engine.cpu.factories import factory_changes
from modelwright.engine.thread_patch import Change, ThreadPatch
from modelwright.protocols import ModelwrightError


class CpuRuntimeError(ModelwrightError):
    """The CPU runtime was entered on a machine where CUDA is usable."""


@contextlib.contextmanager
def cpu_runtime(*, force: bool = False) -> Generator[None]:
    """Let the engine run without a GPU until the end of the block. Blocks can be nested.

    The runtime applies to the thread that enters it. A thread that is started inside must enter it too.

    Args:
        force: Enter even where CUDA is usable, for tests of the runtime itself.

    Raises:
        CpuRuntimeError: CUDA is usable here and `force` is not set.
    """
    if torch.cuda.is_available() and not force:
        raise CpuRuntimeError(
            "`cpu_runtime` is for machines without a GPU, but CUDA is usable here; leave it out, or pass force=True."
        )
    with _RUNTIME():
        yield


def device_runtime() -> contextlib.AbstractContextManager[None]:
    """Return `cpu_runtime()` where no GPU is usable, else a context that does nothing: one program runs on both."""
    return contextlib.nullcontext() if torch.cuda.is_available() else cpu_runtime()


def _changes() -> Iterator[Change]:
    # First, since it imports the engine and the compiler, which must not see replaced functions.
    yield from engine_changes()
    yield from cuda_changes()
    yield from factory_changes()
    yield from collective_changes()


@contextlib.contextmanager
def _uncompiled() -> Generator[None]:
    """Run without compilation the functions that the engine passes to `torch.compile`."""
    stance = torch.compiler.set_stance("force_eager")
    with stance:
        yield


_RUNTIME = ThreadPatch(_changes, around=_uncompiled)
