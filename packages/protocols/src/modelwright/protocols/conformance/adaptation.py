"""`adapt`: fits a builder to a slot that passes other arguments.

The result is an ordinary builder with its own signature, which `check_conformance` reads, so the layer that calls the
slot does not change. It runs when a part is built and leaves no trace in the part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from typing import Any

from modelwright.protocols.conformance.adapted import Adapted, Source, name_of, read_signature
from modelwright.protocols.conformance.check import check_conformance
from modelwright.protocols.errors import ConformanceError
from modelwright.protocols.suggestions import did_you_mean


def adapt[T](
    builder: Callable[..., T],
    /,
    *,
    drop: Iterable[str] = (),
    rename: Mapping[str, str] | None = None,
    derive: Mapping[str, Source] | None = None,
    slot: type[object] | None = None,
) -> Callable[..., T]:
    """Fit a builder to a slot that passes more, fewer or differently named arguments.

        adapt(MyMlp, drop=("is_mtp_layer",), rename={"settings": "config"}, derive={"tp_group": "pg_collection.tp"})

    Args:
        builder: A class or a function, possibly bound with `functools.partial` or already adapted.
        drop: Arguments of the slot that are not passed to `builder`.
        rename: Name of the slot's argument for each parameter of `builder` with another name.
        derive: Source of each parameter of `builder` that is computed. It is a path that begins with an argument of the
            slot, or a function at the top of a module with arguments of the slot as parameters. `builder` receives
            these arguments too only if it accepts them.
        slot: Builder to check the result against. None: the check happens when the slot is filled.

    Returns:
        A builder of the same part, which can be pickled if `builder` can.

    Raises:
        ConformanceError: A name to drop, rename or derive does not exist, or the result does not fit `slot`.
    """
    adapted = Adapted(builder, _names(drop), tuple((rename or {}).items()), tuple((derive or {}).items()))
    problems = list(_problems(adapted))
    if problems:
        raise ConformanceError(f"`{name_of(builder)}` cannot be adapted", problems)
    if slot is not None:
        check_conformance(slot, adapted)
    return adapted


def _names(drop: Iterable[str]) -> tuple[str, ...]:
    if isinstance(drop, str):
        raise ConformanceError("`drop` must be a tuple of names", [f"it is the string {drop!r}; write `({drop!r},)`"])
    return tuple(drop)


def _problems(adapted: Adapted[Any]) -> Iterator[str]:
    taken = {parameter.name: parameter for parameter in adapted.parameters}
    yield from _unknown("rename", dict(adapted.rename), adapted)
    yield from _unknown("derive", dict(adapted.derive), adapted)
    for name in adapted.drop:
        replaced = name in {*dict(adapted.rename), *dict(adapted.derive)}
        required = name in taken and taken[name].default is Parameter.empty
        if required and not replaced and taken[name].kind < Parameter.VAR_KEYWORD:
            yield f"`drop` omits `{name}`, which `{name_of(adapted.builder)}` requires; `derive` it, or bind it"
    own = set(taken) - {*dict(adapted.rename), *dict(adapted.derive), *adapted.drop}
    for name, outer in adapted.rename:
        if name in dict(adapted.derive):
            yield f"`{name}` is both in `rename` and in `derive`; keep one"
        if outer in adapted.drop:
            yield f"`{outer}` is both in `drop` and, for `{name}`, in `rename`; keep one"
        if outer in own:
            instead = f"write `derive={{{name!r}: {outer!r}}}`"
            received = f"the parameter `{outer}` receives it already"
            yield f"`rename` passes the slot's `{outer}` to `{name}`, but {received}; {instead}"
    for name, source in adapted.derive:
        yield from _source_problems(name, source)


def _unknown(argument: str, names: Mapping[str, object], adapted: Adapted[Any]) -> Iterator[str]:
    known = [p.name for p in adapted.parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in names:
        if name not in known:
            listed = ", ".join(f"`{parameter}`" for parameter in known) or "nothing"
            near = did_you_mean(name, known).removeprefix("; ")
            accepts = f"does not accept; it accepts {listed}" + (f" ({near})" if near else "")
            yield f"`{argument}` names `{name}`, which `{name_of(adapted.builder)}` {accepts}"


def _source_problems(name: str, source: Source) -> Iterator[str]:
    if isinstance(source, str):
        if not all(part.isidentifier() for part in source.split(".")):
            yield f"`derive` computes `{name}` from {source!r}, which is no path; write one such as `pg_collection.tp`"
        return
    if not callable(source):
        yield f"`derive` computes `{name}` from {source!r}; give a path or a function, or bind it: `functools.partial`"
        return
    qualified = getattr(source, "__qualname__", "")
    if "<" in qualified or not qualified:
        what = "a lambda" if "<lambda>" in qualified else f"`{name_of(source)}`, which is not at the top of a module"
        yield f"`derive` computes `{name}` with {what}; name a function at the top of a module, so that it pickles"
        return
    given, unreadable = read_signature(source)
    if given is None:
        yield f"`derive` computes `{name}` with `{name_of(source)}`: {unreadable}"
        return
    kinds = {parameter.kind for parameter in given.parameters.values()}
    if kinds - {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}:
        rule = "its parameters must accept arguments of the slot by name"
        yield f"`derive` computes `{name}` with `{name_of(source)}`, but {rule}; remove `/` and `*`"
