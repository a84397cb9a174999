"""The record of what Megatron-Core asked for: constructions, calls and contexts, in order."""

import enum
from typing import Any

import torch
from torch.distributed import ProcessGroup

EVENTS: list[str] = []
"""One line for each event."""


def record(event: str, **arguments: Any) -> None:
    """Record an event with its arguments."""
    EVENTS.append(" ".join([event, *(f"{name}={described(value)}" for name, value in arguments.items())]))


def described(value: Any) -> str:
    """Return a text that is the same for equal arguments in every process."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, ProcessGroup):
        return f"ranks{torch.distributed.get_process_group_ranks(value)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(described, value))}]"
    if isinstance(value, str | int | float | bool | enum.Enum | torch.dtype) or value is None:
        return str(value)
    return (
        repr(value) if type(value).__module__.startswith(("transformer_engine", "megatron")) else type(value).__name__
    )
