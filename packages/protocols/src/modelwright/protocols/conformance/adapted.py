"""`Adapted`, the builder that `adapt` returns, and functions that read the name and signature of any builder.

`Adapted` binds the arguments of the slot to its own signature, computes the derived ones and calls the builder.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, Signature
from typing import Any, final

from modelwright.protocols.errors import ConformanceError

type Source = str | Callable[..., object]
"""Source of a derived argument: a path such as `pg_collection.tp`, or a named function of slot arguments."""


@final
@dataclass(frozen=True)
class Adapted[T]:
    """A builder that is fitted to a slot."""

    builder: Callable[..., T]
    """The builder that is called."""
    drop: tuple[str, ...]
    """Arguments of the slot that are not passed on."""
    rename: tuple[tuple[str, str], ...]
    """Pairs of a parameter of the builder and an argument of the slot."""
    derive: tuple[tuple[str, Source], ...]
    """Pairs of a parameter of the builder and the source that it is computed from."""

    @cached_property
    def __signature__(self) -> Signature:
        """Signature with the arguments that the slot may pass."""
        renamed, derived = dict(self.rename), dict(self.derive)
        inner = [parameter for parameter in self.parameters if parameter.name not in derived]
        outer = [parameter.replace(name=renamed.get(parameter.name, parameter.name)) for parameter in inner]
        outer = [parameter for parameter in outer if parameter.name not in self.drop]
        known = {parameter.name for parameter in outer}
        more = dict.fromkeys(name for name in (*self.roots, *self.drop) if name not in known)
        for name in more:
            default = None if name in self.drop else Parameter.empty
            outer.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default))
        return Signature(sorted(outer, key=lambda parameter: parameter.kind))

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters of the builder, including those that only its `**kwargs` accepts."""
        given, unreadable = read_signature(self.builder)
        if given is None:
            raise ConformanceError(f"`{name_of(self.builder)}` cannot be adapted", [unreadable])
        found = list(given.parameters.values())
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in found):
            names = {*dict(self.rename), *dict(self.derive)} - set(given.parameters)
            found += [Parameter(name, Parameter.KEYWORD_ONLY) for name in sorted(names)]
        return tuple(sorted(found, key=lambda parameter: parameter.kind))

    @property
    def roots(self) -> Iterator[str]:
        """Arguments of the slot that parameters are derived from."""
        for _, source in self.derive:
            yield from roots_of(source)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Build the part from the slot's arguments."""
        try:
            passed = self.__signature__.bind(*args, **kwargs).arguments
        except TypeError as error:
            subject = f"`adapt({name_of(self.builder)})` cannot be called with these arguments"
            raise ConformanceError(subject, [str(error)]) from None
        variadic = {p.name: p.kind for p in self.parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        renamed, derived = dict(self.rename), dict(self.derive)
        given: dict[str, Any] = {name: _evaluate(self, name, source, passed) for name, source in derived.items()}
        for parameter in self.parameters:
            outer = renamed.get(parameter.name, parameter.name)
            if parameter.name not in {*derived, *variadic} and outer not in self.drop and outer in passed:
                given[parameter.name] = passed[outer]
        return self._build(given, {name: passed.get(name) for name in variadic})

    def _build(self, given: dict[str, Any], variadic: dict[str, Any]) -> T:
        args: list[Any] = []
        for parameter in self.parameters:
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args += variadic[parameter.name] or ()
            elif parameter.kind > Parameter.POSITIONAL_OR_KEYWORD or parameter.name not in given:
                break
            else:
                args.append(given.pop(parameter.name))
        for parameter in self.parameters:
            if parameter.kind is Parameter.VAR_KEYWORD:
                given |= variadic[parameter.name] or {}
        return self.builder(*args, **given)


def roots_of(source: Source) -> tuple[str, ...]:
    """Return the arguments of the slot that a derived argument is computed from."""
    if isinstance(source, str):
        return (source.partition(".")[0],)
    return tuple(inspect.signature(source).parameters)


def _evaluate(adapted: Adapted[Any], name: str, source: Source, passed: Mapping[str, Any]) -> object:
    missing = [root for root in roots_of(source) if root not in passed]
    if missing:
        raise ConformanceError(
            f"`{name}` of `{name_of(adapted.builder)}` cannot be derived", [f"the slot did not pass `{missing[0]}`"]
        )
    if not isinstance(source, str):
        return source(**{root: passed[root] for root in roots_of(source)})
    root, *members = source.split(".")
    found = passed[root]
    for member in members:
        try:
            found = getattr(found, member)
        except AttributeError:
            reason = f"`{source}` has no `{member}`: what comes before it is of type `{type(found).__qualname__}`"
            raise ConformanceError(f"`{name}` of `{name_of(adapted.builder)}` cannot be derived", [reason]) from None
    return found


def asked_names(builder: object) -> Iterator[tuple[str, str]]:
    """Yield the arguments of the slot that an adapted builder names, each with the verb for messages."""
    if not isinstance(builder, Adapted):
        return
    for name in builder.drop:
        yield "drops", name
    for _, outer in builder.rename:
        yield "renames", outer
    for root in builder.roots:
        yield "derives from", root


def name_of(candidate: object) -> str:
    """Return the name of a candidate in messages."""
    if isinstance(candidate, functools.partial):
        return f"functools.partial({name_of(candidate.func)})"
    if isinstance(candidate, Adapted):
        return f"adapt({name_of(candidate.builder)})"
    name = getattr(candidate, "__qualname__", None) or type(candidate).__qualname__
    return str(name).rsplit("<locals>.", 1)[-1]


def read_signature(candidate: object) -> tuple[Signature | None, str]:
    """Return a signature, or `None` and a clause with the reason why it cannot be read."""
    name = name_of(candidate)
    if not callable(candidate):
        return None, f"`{name}` cannot be called; define it as a function"
    try:
        return inspect.signature(candidate), ""
    except (TypeError, ValueError):
        if isinstance(candidate, functools.partial) and read_signature(candidate.func)[0] is not None:
            inner = name_of(candidate.func)
            return None, f"it binds arguments that `{inner}` does not accept; bind only what it accepts"
        return None, f"the signature of `{name}` cannot be read; wrap it in a function with the slot's parameters"
