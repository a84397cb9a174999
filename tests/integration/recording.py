"""Parts that write down how the engine builds, calls and touches them, and compare it with our Protocols.

A recording builder stands in a slot, notes the call that builds, lets the real builder build, and watches what was
built: calls of every method that the Interface declares, and every member that code of the engine outside the part
reads. What the Protocol does not declare is drift.
"""

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from inspect import Signature
from typing import Any

from megatron.core.transformer.module import GraphableMegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import nn

from modelwright import protocols
from modelwright.engine import as_module_spec
from modelwright.protocols import SLOTS, Slot

BY_NAME = {slot.name: slot for slot in SLOTS}
# What every module has, and what of Python's own the engine reads.
GENERIC = {*dir(nn.Module()), *dir(GraphableMegatronModule), "forward", "__self__"}
# Probes of all modules of a model, whatever slot they are in: `hasattr`, with nothing lost when it is false.
PROBED = {
    "finish_init": "set-up of quantized linears, at the end of HybridModel.__init__",
    "config": "the engine's modules keep their config; flags for CUDA graphs are read from it",
}


def declared(protocol: type) -> dict[str, Any]:
    """The members that a Protocol and its bases declare."""
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        if getattr(base, "_is_protocol", False):
            found |= {name: value for name, value in vars(base).items() if name == "__call__" or name[0] != "_"}
            found |= dict.fromkeys(inspect.get_annotations(base), None)
    return found


SUPPORTED = {
    member for name in protocols.__all__ if name.startswith("Supports") for member in declared(getattr(protocols, name))
}


def unbound(method: Callable[..., Any]) -> Signature:
    """Arguments of a call of a Protocol's method."""
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


class Book:
    """The recorded calls."""

    def __init__(self) -> None:
        self.built: Counter[str] = Counter()
        self.called: Counter[str] = Counter()
        self.drifted: set[str] = set()
        self.touched: dict[str, set[str]] = {}

    def builder(self, name: str, build: Callable[..., Any]) -> "Recording":
        """Return a part for a typed slot of the engine, and for an attribute of one of its modules."""
        return Recording(self, BY_NAME[name], build)

    def spec(self, name: str, build: Callable[..., Any]) -> ModuleSpec:
        """Return a part for an untyped slot of the engine."""
        return as_module_spec(self.builder(name, build))

    def chooser(self, name: str, choose: Callable[..., Any]) -> ModuleSpec:
        """Return a part for a bias-dropout-add slot, which is a function."""
        recording = self.builder(name, choose)

        def build(**_: object) -> "Recording":
            return recording

        return as_module_spec(build)

    def function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for a name that the engine calls."""
        return self.calling(name, BY_NAME[name].protocol.__call__, function)

    def calling(self, name: str, method: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that notes its calls."""
        signature = unbound(method)

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.called[name] += 1
            self.compare(f"{name}, called", signature, args, kwargs)
            return function(*args, **kwargs)

        return noted

    def compare(self, what: str, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call that the Protocol does not allow."""
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            self.drifted.add(f"{what} with {len(args)} positions and {sorted(kwargs)}: {error}")

    def watch(self, slot: Slot, part: Any) -> Any:
        """Note what is done to what was built."""
        interface = getattr(protocols, unbound(slot.protocol.__call__).return_annotation)
        members = declared(interface)
        if not isinstance(part, nn.Module) and set(members) == {"__call__"}:
            return self.calling(slot.name, members["__call__"], part)
        for name in set(members) - {"__call__"}:
            if inspect.isfunction(members[name]):
                noted = self.calling(slot.name, members[name], getattr(part, name))
                object.__setattr__(part, name, noted)
        part.__class__ = _watched(type(part), self.touched.setdefault(slot.name, set()))
        return part

    @property
    def undeclared(self) -> dict[str, list[str]]:
        """The members that the engine touched and no Protocol of ours has."""
        found: dict[str, list[str]] = {}
        for name, touched in self.touched.items():
            product = getattr(protocols, unbound(BY_NAME[name].protocol.__call__).return_annotation)
            rest = touched - set(declared(product)) - SUPPORTED - set(PROBED)
            if rest:
                found[name] = sorted(rest)
        return found


class Recording:
    """A builder that notes how it is called and what happens to what it builds."""

    def __init__(self, book: Book, slot: Slot, build: Callable[..., Any]) -> None:
        self.book, self.slot, self.build = book, slot, build

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.book.built[self.slot.name] += 1
        self.book.compare(f"{self.slot.name}, built", unbound(self.slot.protocol.__call__), args, kwargs)
        return self.book.watch(self.slot, self.build(*args, **kwargs))


def _watched(kind: type, touched: set[str]) -> type:
    """Return a subclass that records the members that the engine reads from outside."""
    own = {base.__name__ for base in kind.__mro__}

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807 - it is the method
        if name not in GENERIC and not name.startswith("__"):
            frame = sys._getframe(1)
            code = frame.f_code
            inside = frame.f_locals.get("self") is self or code.co_qualname.split(".")[0] in own
            if "megatron/core" in code.co_filename and not inside:
                touched.add(name)
        return kind.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": __getattribute__, "__module__": kind.__module__})
