"""Stand-ins that the other files of this folder share.

torch's compiler has a table of functions and refuses one that has two names, so each call makes a new function.
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
    """Return a function that does nothing, for calls such as `synchronize`: a CPU operation is done on return."""
    return always(None)


def itself() -> Callable[..., object]:
    """Return a method that returns its own object, such as `.cuda()` of a tensor that stays on the CPU."""

    def moved(self: object, *args: object, **kwargs: object) -> object:
        return self

    return moved
