"""Distributions of initial values, and deferred initialization.

The engine calls `init_method(weight)` on the local shard of each weight. `NormalInit`, which `resolve` passes as that
method, marks the shard with its distribution inside `deferred_initialization`, and draws at once elsewhere. A
part that needs another distribution calls its own `LayoutFreeInit`. `layout_free.py` draws the marked parameters later.
"""

import abc
import contextlib
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final, override

import torch
from torch import Tensor, nn

MARK = "modelwright_init"
"""Name of the attribute of a parameter that contains the distribution to draw it from."""

_deferred: ContextVar[list[Tensor] | None] = ContextVar("deferred", default=None)


class LayoutFreeInit(abc.ABC):
    """A distribution of initial values, element by element, in the form of the engine's `init_method`."""

    @abc.abstractmethod
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        """Fill a tensor with random values.

        Args:
            out: Tensor of any shape, changed in place.
            generator: Source of the random numbers. None: torch's default generator.
        """

    def __call__(self, weight: Tensor) -> Tensor:
        """Mark `weight` with this distribution if initialization is deferred, else draw its values now.

        Args:
            weight: The local shard, of any shape.

        Returns:
            `weight` itself.
        """
        marked = _deferred.get()
        if marked is not None:
            setattr(weight, MARK, self)
            marked.append(weight)
        else:
            with torch.no_grad():
                self.draw(weight, None)
        return weight


@final
@dataclass(frozen=True)
class NormalInit(LayoutFreeInit):
    """A normal distribution around 0.

    Args:
        std: Standard deviation.
    """

    std: float

    @override
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        out.normal_(0.0, self.std, generator=generator)


@final
@dataclass(frozen=True)
class UniformInit(LayoutFreeInit):
    """A uniform distribution, optionally transformed.

    Args:
        low: Lower bound, inclusive.
        high: Upper bound.
        then: Transforms the drawn values, element by element. None: no transformation.
    """

    low: float
    high: float
    then: Callable[[Tensor], Tensor] | None = None

    @override
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        out.uniform_(self.low, self.high, generator=generator)
        if self.then is not None:
            out.copy_(self.then(out))


@contextlib.contextmanager
def deferred_initialization() -> Generator[None]:
    """Mark weights with their distribution inside the block, and do not draw them; `initialize_parameters` does."""
    token = _deferred.set([])
    try:
        yield
    finally:
        _deferred.reset(token)


def mark_rewrapped(stages: Iterable[nn.Module]) -> None:
    """Mark parameters that a module re-created, without the attribute, on the memory of a marked one.

    Transformer Engine does this after it has called `init_method` (module/base.py, reset_parameters). Without the mark
    the memory of such a weight would stay uninitialized.

    Args:
        stages: Stages that were just built, inside `deferred_initialization`.
    """
    marks = {_memory(weight): getattr(weight, MARK) for weight in _deferred.get() or ()}
    for parameter in (parameter for stage in stages for parameter in stage.parameters()):
        if _memory(parameter) in marks:
            setattr(parameter, MARK, marks[_memory(parameter)])


def _memory(tensor: Tensor) -> int:
    """Return an identifier of a tensor's memory.

    Seam: the private `_cdata` of a storage differs between meta tensors, which all have the address 0.
    """
    return int(tensor.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]
