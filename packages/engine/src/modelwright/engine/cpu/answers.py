"""Stand-ins that the other files of this folder share.

torch's compiler keeps a table of functions and refuses one that has two names, so each call makes a new function.
"""

from collections.abc import Callable

import torch

CPU = torch.device("cpu")


def always[T](answer: T) -> Callable[..., T]:
    """Return a function that accepts any arguments and returns `answer`."""

    def answered(*args: object, **kwargs: object) -> T:
        return answer

    return answered


def nothing() -> Callable[..., None]:
    """Return a function for requests without meaning on the CPU, where every operation has finished on return."""
    return always(None)


def itself() -> Callable[..., object]:
    """Return a method that returns its object, for a move to the device where it is already."""

    def moved(self: object, *args: object, **kwargs: object) -> object:
        return self

    return moved
