"""`check_conformance`: checks at run time if a part fits a slot, as a type checker does.

`isinstance` with a runtime-checkable Protocol is true for any bare `nn.Module()`, so this module compares signatures.
The builder of the part is compared with the Builder's `__call__`. The part itself, if its class is known, is compared
with the Interface that the Builder returns. Nothing is built or imported.
"""

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from modelwright.protocols.conformance.adapted import Adapted, asked_names, name_of, read_signature
from modelwright.protocols.conformance.annotations import class_named_by, contradicts
from modelwright.protocols.conformance.signatures import annotation_text, signature_problems, without_annotations
from modelwright.protocols.errors import ConformanceError
from modelwright.protocols.suggestions import did_you_mean

type _AnyCallable = Callable[..., Any]


def check_conformance(protocol: type[object], candidate: object) -> None:
    """Check that a part fits a slot, before anything is built.

    Args:
        protocol: A Builder, such as `MlpBuilder`, to check the builder of a part and, if it is known, the part. Or an
            Interface, such as `MlpInterface`, to check only the class of a part. Custom Protocols are supported.
        candidate: A class, a function, a classmethod, a `functools.partial` or a callable instance.

    Raises:
        ConformanceError: `candidate` does not fit. The message lists every mismatch with its remedy.
    """
    if not _is_protocol(protocol):
        what = f"`{name_of(protocol)}` is not a Protocol"
        raise ConformanceError(what, ["`protocol` must be the Protocol of a slot; pass one such as `MlpBuilder`"])
    is_builder = _product_of(protocol) is not None or protocol.__name__.endswith("Builder")
    check = _builder_problems if is_builder else _interface_problems
    problems = check(protocol, candidate)
    if problems:
        verb = "fill" if is_builder else "serve as"
        raise ConformanceError(f"`{name_of(candidate)}` cannot {verb} `{protocol.__name__}`", problems)


def _is_protocol(candidate: object) -> bool:
    return isinstance(candidate, type) and bool(getattr(candidate, "_is_protocol", False))


def _methods_of(protocol: type[object]) -> dict[str, _AnyCallable]:
    """Return the methods of a Protocol and its bases. Attributes are set by instances and are not checked."""
    found: Any = protocol  # mypy confuses the hash of a class with that of its instances
    return _declared(found)


@functools.cache
def _declared(protocol: Any) -> dict[str, _AnyCallable]:
    found: dict[str, _AnyCallable] = {}
    for base in reversed(protocol.__mro__):
        if _is_protocol(base):
            members: dict[str, Any] = {**base.__dict__}
            public = {n: m for n, m in members.items() if inspect.isfunction(m)}
            found |= {n: m for n, m in public.items() if n == "__call__" or not n.startswith("_")}
    return found


def _product_of(protocol: type[object]) -> type | None:
    """Return the Interface that a Builder returns, or `None` if it is unknown or `protocol` is no Builder."""
    found: Any = protocol
    return _product(found)


@functools.cache
def _product(protocol: Any) -> type | None:
    methods = _methods_of(protocol)
    if "__call__" not in methods or "forward" in methods:
        return None
    product = class_named_by(inspect.signature(methods["__call__"]).return_annotation, methods["__call__"])
    return product if _is_protocol(product) else None


def _builder_problems(protocol: type[object], candidate: object) -> list[str]:
    mistaken = _not_a_builder(candidate)
    if mistaken is not None:
        return [mistaken]
    given, unreadable = read_signature(candidate)
    if given is None:
        return [unreadable]
    owner = "its constructor" if isinstance(candidate, type) else "it"
    wanted = _wanted(_methods_of(protocol)["__call__"])
    problems = [*signature_problems(wanted, given, owner=owner, bindable=True), *_adapt_problems(wanted, candidate)]
    product, built = _product_of(protocol), _built_class(candidate)
    if product is not None and built is not None:
        problems += _class_problems(product, built, itself=built is candidate)
    return problems


def _not_a_builder(candidate: object) -> str | None:
    """Return the reason why `candidate` cannot build a part with any signature, or `None`."""
    kind = name_of(type(candidate))
    if not isinstance(candidate, type) and callable(getattr(type(candidate), "forward", None)):
        return f"a slot must be filled with a builder, but this is an instance; pass the class `{kind}`"
    if not callable(candidate):
        cannot = f"a value of type `{kind}` cannot be called"
        return f"a slot must be filled with a builder, but {cannot}; pass a class or a function"
    if _is_protocol(candidate):
        return "it is a Protocol, which cannot be constructed; pass a class that satisfies it"
    missing = sorted(getattr(candidate, "__abstractmethods__", ()))
    if isinstance(candidate, type) and missing:
        return f"it is abstract; implement {', '.join(f'`{name}`' for name in missing)}"
    return None


def _interface_problems(protocol: type[object], candidate: object) -> list[str]:
    if isinstance(candidate, type):
        return _class_problems(protocol, candidate, itself=True)
    methods = _methods_of(protocol)
    if set(methods) != {"__call__"}:
        kind = name_of(type(candidate))
        return [f"an Interface is checked against a class, but this is a value of type `{kind}`; pass a class"]
    if not callable(candidate):
        return [f"a value of type `{name_of(type(candidate))}` cannot be called; pass a function"]
    given, unreadable = read_signature(candidate)
    if given is None:
        return [unreadable]
    return _method_problems(methods["__call__"], given, "it")


def _class_problems(interface: type, built: type, *, itself: bool) -> list[str]:
    """List the members of `interface` that instances of `built` lack; `itself` if `built` is the candidate."""
    problems: list[str] = []
    methods = _methods_of(interface)
    for name, wanted in methods.items():
        if name == "__call__" and "forward" in methods:
            continue  # nn.Module has it, untyped, and passes everything to `forward`
        owner = f"its `{name}`" if itself else f"the `{name}` of `{name_of(built)}`, which it builds,"
        if not _defines(built, name):
            bare = without_annotations(inspect.signature(wanted))
            problems.append(f"{owner} is missing; define `def {name}{bare}`")
            continue
        given, unreadable = _read_method(built, name)
        problems += [unreadable] if given is None else _method_problems(wanted, given, owner)
    return problems


def _method_problems(method: _AnyCallable, given: Signature, owner: str) -> list[str]:
    wanted = _wanted(method)
    problems = signature_problems(wanted, given, owner=owner, bindable=False)
    if contradicts(wanted.return_annotation, given.return_annotation):
        expected, actual = annotation_text(wanted.return_annotation), annotation_text(given.return_annotation)
        problems.append(f"{owner} returns `{actual}`, but the slot expects `{expected}`; return that")
    return problems


def _defines(built: type, name: str) -> bool:
    """Return whether instances have the method. The `forward` of `nn.Module`, which only raises, does not count."""
    member = inspect.getattr_static(built, name, None)
    return member is not None and getattr(member, "__name__", "") != "_forward_unimplemented"


def _read_method(built: type, name: str) -> tuple[Signature | None, str]:
    member: object = inspect.getattr_static(built, name)
    function: object = getattr(member, "__func__", member)  # the function of a staticmethod or classmethod
    is_static = member.__class__ is staticmethod or getattr(type(member), "__get__", None) is None
    given, unreadable = read_signature(function)
    return (_unbound(given) if given is not None and not is_static else given), unreadable


@functools.cache
def _wanted(method: _AnyCallable) -> Signature:
    """Return the signature of a Protocol's method, without `self`."""
    return _unbound(inspect.signature(method))


def _adapt_problems(wanted: Signature, candidate: object) -> list[str]:
    """List the arguments that `adapt` drops, renames or derives from, but that the slot never passes."""
    problems: list[str] = []
    for verb, name in asked_names(candidate):
        if name not in wanted.parameters:
            passes = ", ".join(f"`{parameter}`" for parameter in wanted.parameters) or "nothing"
            near = did_you_mean(name, wanted.parameters).removeprefix("; ")
            known = f"{passes} ({near})" if near else passes
            problems.append(f"it {verb} `{name}`, which the slot does not pass; the slot passes {known}")
    return problems


def _unbound(signature: Signature) -> Signature:
    """Return the signature without `self`."""
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind not in (Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY):
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)


def _built_class(candidate: object) -> type | None:
    """Return the class of the part that `candidate` builds, or `None` if it is unknown."""
    if isinstance(candidate, functools.partial):
        return _built_class(candidate.func)
    if isinstance(candidate, Adapted):
        return _built_class(candidate.builder)
    if isinstance(candidate, type):
        return _constructed_class(candidate)
    function = candidate if inspect.isroutine(candidate) else type(candidate).__call__
    return _promised_class(function, getattr(candidate, "__self__", None))


def _constructed_class(candidate: type) -> type | None:
    new = inspect.getattr_static(candidate, "__new__", None)
    function = new.__func__ if isinstance(new, staticmethod) else None
    if function is None or _defines(candidate, "forward"):
        return candidate
    return _promised_class(function, candidate)


def _promised_class(function: _AnyCallable, owner: object) -> type | None:
    """Return the class in the return annotation, or `None` if it is not specific, like `-> nn.Module`."""
    given, _ = read_signature(function)
    if given is None:
        return None
    if annotation_text(given.return_annotation).rpartition(".")[2] == "Self":
        return owner if isinstance(owner, type) else None
    found = class_named_by(given.return_annotation, function)
    member = inspect.getattr_static(found, "forward", None) if found is not None else None
    vague = getattr(member, "__name__", "") == "_forward_unimplemented"
    return None if vague else found
