"""Compares signatures by the rules of the typing specification.

`wanted` is the signature of a Protocol's method and `given` that of the candidate, both without `self`. Each mismatch
becomes one clause that names it and ends with the remedy. The caller combines the clauses into a message.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import Parameter, Signature

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def signature_problems(wanted: Signature, given: Signature, *, owner: str, bindable: bool) -> list[str]:
    """List the reasons why `given` does not accept every call that `wanted` allows.

    Args:
        wanted: The Protocol's signature.
        given: The candidate's signature.
        owner: The subject of the clauses, such as "its constructor".
        bindable: True if `functools.partial` can supply a further argument.

    Returns:
        One clause for each mismatch; empty if the candidate fits.
    """
    match = _Match(given)
    problems = [
        *_positional_problems(wanted, match),
        *_keyword_problems(wanted, match, bindable=bindable),
        *_variadic_problems(wanted, match),
        *_left_over_problems(match, bindable=bindable),
    ]
    return [f"{owner} {problem}" for problem in problems]


def declaration(parameter: Parameter) -> str:
    """Return the source text of `parameter` in a `def`, without its default."""
    if parameter.annotation is Parameter.empty:
        return parameter.name
    return f"{parameter.name}: {annotation_text(parameter.annotation)}"


def annotation_text(annotation: object) -> str:
    """Return the source text of an annotation, which is a string, a class or an object of `typing`."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type):
        return annotation.__qualname__
    return repr(annotation)


def without_annotations(signature: Signature) -> Signature:
    """Return the signature without annotations, for a message."""
    bare = [parameter.replace(annotation=Parameter.empty) for parameter in signature.parameters.values()]
    return Signature(bare)


@dataclass
class _Match:
    """The candidate's parameters, and those of them that are already matched with a parameter of the slot."""

    given: Signature
    used: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        parameters = self.given.parameters.values()
        self.positional = [p for p in parameters if p.kind in _POSITIONAL]
        self.takes_args = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        self.takes_kwargs = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)

    def by_keyword(self, name: str) -> Parameter | None:
        """Return the parameter that accepts the keyword `name`."""
        found = self.given.parameters.get(name)
        if found is None or found.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            return None
        return found

    def rename_for(self, name: str, options: set[str]) -> str | None:
        """Return the most similar unmatched parameter, which is probably a misspelled `name`."""
        free = [p for p in self.given.parameters if p not in self.used and p not in options]
        near = difflib.get_close_matches(name, free, n=1, cutoff=0.6)
        return near[0] if near else None


def _positional_problems(wanted: Signature, match: _Match) -> Iterator[str]:
    slots = [p for p in wanted.parameters.values() if p.kind in _POSITIONAL]
    for index, slot in enumerate(slots):
        if index < len(match.positional):
            given = match.positional[index]
            match.used.add(given.name)
            yield from _name_problem(slot, given)
            yield from _default_problem(slot, given)
        elif not match.takes_args:
            yield from _missing_position(slot, index, len(slots), match)
        elif slot.kind is Parameter.POSITIONAL_OR_KEYWORD and not match.takes_kwargs:
            yield f"does not accept `{slot.name}` by keyword; add the parameter `{declaration(slot)}`"


def _missing_position(slot: Parameter, index: int, count: int, match: _Match) -> Iterator[str]:
    if match.by_keyword(slot.name) is not None:
        match.used.add(slot.name)
        yield f"accepts `{slot.name}` by keyword only, but the slot passes it by position; move it before the `*`"
        return
    yield (
        f"accepts {_count(len(match.positional))} by position, but the slot passes {count}; number {index + 1} is "
        f"`{slot.name}`: add the parameter `{declaration(slot)}`"
    )


def _count(arguments: int) -> str:
    return "1 argument" if arguments == 1 else f"{arguments} arguments"


def _name_problem(slot: Parameter, given: Parameter) -> Iterator[str]:
    if slot.kind is Parameter.POSITIONAL_ONLY:
        return
    if given.name != slot.name:
        yield (
            f"has `{given.name}` in the place of `{slot.name}`, which the slot may pass by name; "
            f"rename it to `{slot.name}`"
        )
    elif given.kind is Parameter.POSITIONAL_ONLY:
        yield f"accepts `{slot.name}` by position only, but the slot may pass it by keyword; move it after the `/`"


def _default_problem(slot: Parameter, given: Parameter) -> Iterator[str]:
    if slot.default is not Parameter.empty and given.default is Parameter.empty:
        yield f"requires `{given.name}`, which the slot does not always pass; give it a default"


def _keyword_problems(wanted: Signature, match: _Match, *, bindable: bool) -> Iterator[str]:
    slots = [p for p in wanted.parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    names = {slot.name for slot in slots}
    for slot in slots:
        given = match.by_keyword(slot.name)
        if given is None and not match.takes_kwargs:
            yield _missing_keyword(slot, match, names, bindable=bindable)
        elif given is not None and given.name in match.used:
            yield (
                f"accepts `{slot.name}` by position, where the slot passes another argument, and the slot passes "
                f"`{slot.name}` by keyword; move it after the `*`"
            )
        elif given is not None:
            match.used.add(given.name)
            yield from _default_problem(slot, given)


def _missing_keyword(slot: Parameter, match: _Match, names: set[str], *, bindable: bool) -> str:
    same = match.given.parameters.get(slot.name)
    if same is not None and same.kind is Parameter.POSITIONAL_ONLY:
        match.used.add(slot.name)
        return f"accepts `{slot.name}` by position only, but the slot passes it by keyword; move it after the `/`"
    how = "passes" if slot.default is Parameter.empty else "sometimes passes"
    rename = match.rename_for(slot.name, names)
    if rename is None:
        remedy, adapted = f"add the parameter `{declaration(slot)}`", f'drop=("{slot.name}",)'
    else:
        match.used.add(rename)
        remedy, adapted = f"rename `{rename}` to `{slot.name}`", f'rename={{"{rename}": "{slot.name}"}}'
    either = f", accept `**kwargs`, or `adapt(..., {adapted})`" if bindable else ", or accept `**kwargs`"
    return f"does not accept `{slot.name}`, which the slot {how} by keyword; {remedy}{either}"


def _variadic_problems(wanted: Signature, match: _Match) -> Iterator[str]:
    kinds = {p.kind for p in wanted.parameters.values()}
    if Parameter.VAR_POSITIONAL in kinds and not match.takes_args:
        yield "does not accept any number of positional arguments; accept `*args`"
    if Parameter.VAR_KEYWORD in kinds and not match.takes_kwargs:
        yield "does not accept any keyword; accept `**kwargs`"


def _left_over_problems(match: _Match, *, bindable: bool) -> Iterator[str]:
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    for name, given in match.given.parameters.items():
        if name in match.used or given.kind in variadic or given.default is not Parameter.empty:
            continue
        bind = f", or bind it: `functools.partial(..., {name}=...)`" if bindable else ""
        yield f"requires `{name}`, which the slot does not pass; give it a default{bind}"
