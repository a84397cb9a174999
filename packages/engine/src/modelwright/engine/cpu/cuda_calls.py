"""Queries, streams, events and random states of `torch.cuda`, answered on the CPU."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace, TracebackType
from typing import Self

import torch

from modelwright.engine.cpu.answers import CPU, always, nothing
from modelwright.engine.thread_patch import Change


def cuda_changes() -> Iterator[Change]:
    """Yield the replaced attributes of `torch.cuda`."""
    cuda = torch.cuda
    stream = CpuStream()
    properties = SimpleNamespace(
        name="CPU", major=0, minor=0, total_memory=0, multi_processor_count=torch.get_num_threads()
    )
    yield cuda, "current_device", always(CPU)
    yield cuda, "current_stream", always(stream)
    yield cuda, "default_stream", always(stream)
    yield cuda, "Stream", CpuStream
    yield cuda, "Event", CpuEvent
    yield cuda, "stream", contextlib.nullcontext
    yield cuda, "synchronize", nothing()
    yield cuda, "set_device", nothing()
    yield cuda, "empty_cache", nothing()
    yield cuda, "is_current_stream_capturing", always(answer=False)
    yield cuda, "get_device_properties", always(properties)
    yield cuda, "get_device_capability", always((0, 0))
    yield cuda, "get_rng_state", get_cpu_rng_state
    yield cuda, "set_rng_state", set_cpu_rng_state
    # Not `torch.manual_seed`, which would call `torch.cuda.manual_seed` again.
    yield cuda, "manual_seed", torch.default_generator.manual_seed


def get_cpu_rng_state(*args: object, **kwargs: object) -> torch.Tensor:
    """Return the state of the CPU's generator, whatever device is passed."""
    return torch.get_rng_state()


def set_cpu_rng_state(state: torch.Tensor, *args: object, **kwargs: object) -> None:
    """Set the state of the CPU's generator, whatever device is passed.

    Args:
        state: From `get_cpu_rng_state`.
        *args: The device; ignored.
        **kwargs: The device; ignored.
    """
    torch.set_rng_state(state)


class CpuEvent:
    """An event that is always complete."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    record, wait, synchronize = nothing(), nothing(), nothing()

    def query(self) -> bool:
        """Return True: the event is complete."""
        return True

    def elapsed_time(self, end_event: object) -> float:
        """Return 0 ms."""
        return 0.0


class CpuStream:
    """A stream on which all work is always done; it is its own context manager."""

    cuda_stream = 0
    device = CPU

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    wait_stream, wait_event, synchronize = nothing(), nothing(), nothing()

    def record_event(self, event: CpuEvent | None = None) -> CpuEvent:
        """Return the given event, or a new one."""
        return event or CpuEvent()

    def query(self) -> bool:
        """Return True: all work is done."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
