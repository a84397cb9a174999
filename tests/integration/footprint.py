"""The footprint of a run: everything by which two runs of one step can be told apart on a rank."""

import hashlib
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelwright.config import RunConfig
from tests.integration.jobs import quiet


class Footprint(NamedTuple):
    """One step of training, as one rank computes it."""

    values: tuple[float, ...]
    """Loss and gradient norm."""
    shapes: str
    """Hash of names, shapes and dtypes of the parameters that modules registered."""
    kernels: str
    """Hash of all operations with the shapes of their tensors, in order. Collectives are among them."""
    communication: str
    """Hash of the operations of process groups alone, and of the number of times that the device was waited for."""

    def differs_in(self, other: "Footprint") -> set[str]:
        """Return what differs."""
        return {name for name in self._fields if getattr(self, name) != getattr(other, name)}


class _Operations(TorchDispatchMode):
    """Records the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [
            f"{tuple(one.shape)}{one.dtype}" if isinstance(one, Tensor) else str(one)
            for one in tree_leaves(args)
            if isinstance(one, Tensor | bool)  # such as whether a collective is waited for
        ]
        self.seen.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


def second_footprint(run: RunConfig) -> Footprint:
    """Train one step twice and return the footprint of the second, because the first fills caches of the process."""
    footprint(run)
    return footprint(run)


def footprint(run: RunConfig) -> Footprint:
    """Train one step as a rank of the job, or alone."""
    quiet()
    from modelwright.distributed import finalize
    from modelwright.training import train

    parameters, waits, operations = list[str](), list[str](), _Operations()
    register, wait = nn.Module.register_parameter, torch.cuda.synchronize

    def registered(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameters.append(f"{name} {tuple(parameter.shape)} {parameter.dtype}")
        register(self, name, parameter)

    def waited(*args: Any) -> None:
        waits.append("wait")
        wait(*args)

    with (
        patch.object(nn.Module, "register_parameter", registered),
        patch.object(torch.cuda, "synchronize", waited),
        operations,
    ):
        records = train(run)
    finalize()
    messages = [one for one in operations.seen if one.startswith(("c10d", "_c10d"))]
    return Footprint(
        tuple(value for record in records for value in (record.loss, record.grad_norm)),
        _hash(parameters),
        _hash(operations.seen),
        _hash(messages + waits),
    )


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
