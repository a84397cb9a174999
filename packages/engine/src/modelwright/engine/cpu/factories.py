"""Calls that name a CUDA device for a new tensor or a module, or ask for page-locked memory, redirected to the CPU."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modelwright.engine.cpu.answers import CPU, itself
from modelwright.engine.thread_patch import Change

# The common factories of torch that accept `device=`.
_FACTORIES = (
    "arange", "as_tensor", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace", "ones",
    "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "tensor", "zeros",
    "zeros_like",
)  # fmt: skip


def factory_changes() -> Iterator[Change]:
    """Yield the replaced factories of torch and moves of tensors and modules."""
    for name in _FACTORIES:
        yield torch, name, _on_cpu(getattr(torch, name))
    yield torch.Tensor, "cuda", itself()
    yield torch.Tensor, "pin_memory", itself()
    yield torch.nn.Module, "cuda", itself()


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and not isinstance(device, int) and torch.device(device).type == "cuda":
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return redirected
