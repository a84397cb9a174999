"""Writes `docs/slots.md` from the Protocols and the installed engine: `python -m tests.policies.slots_page`."""

import inspect
from inspect import Parameter
from pathlib import Path

from modelwright.protocols import SLOTS, Slot
from tests.policies.engine_source import EngineField, engine_folder, submodules_fields
from tests.policies.repository import ROOT

PAGE = ROOT / "docs" / "slots.md"
HEAD = """\
# Slots

<!-- Written by `python -m tests.policies.slots_page`; a policy test compares it with the code. -->

Every place in a Megatron-Core model that takes a part. A slot is a field of one of the engine's `…Submodules`
dataclasses, or the attribute under which the engine holds what it builds itself. *Called with* is what the engine's own
call passes, as the Protocol declares it: positions before `/`, keywords after `*`, and `?` after what is passed
only sometimes. *Engine's type* says how the engine declares the slot: `typed` with a Protocol of its own, `untyped`
(`Union[ModuleSpec, type]`), or `fixed`, where it names a class or a function and a part of your own can be put in only
after or instead of it.

"""


def page() -> str:
    """The whole page."""
    declared = {field.name: field for field in submodules_fields(engine_folder())}
    counts = [_engine_type(slot, declared) for slot in SLOTS]
    summary = (
        f"{len(SLOTS)} slots: {counts.count('typed')} typed by the engine, {counts.count('untyped')} untyped, "
        f"{counts.count('fixed')} fixed. All of them are typed here.\n"
    )
    sections = [_section(owner, declared) for owner in dict.fromkeys(slot.owner for slot in SLOTS)]
    return HEAD + summary + "".join(sections) + _calls()


def _section(owner: str, declared: dict[str, EngineField]) -> str:
    rows = [
        f"| `{slot.field}` | [`{slot.protocol.__name__}`](#{slot.protocol.__name__.lower()}) | {slot.caller} "
        f"| {_fillers(slot)} | {_engine_type(slot, declared)} |"
        for slot in SLOTS
        if slot.owner == owner
    ]
    head = ["| slot | Protocol | called by | filled in the engine by | engine's type |", "|---|---|---|---|---|"]
    return "\n".join(["", f"## {owner}", "", *head, *rows, ""])


def _engine_type(slot: Slot, declared: dict[str, EngineField]) -> str:
    field = declared.get(slot.name)
    if field is None:
        return "fixed"
    return "typed" if field.is_typed else "untyped"


def _fillers(slot: Slot) -> str:
    names = ["`" + path.rpartition(".")[2] + "`" for path in slot.filled_by]
    return ", ".join(names) or "kernels of other packages"


def _calls() -> str:
    """Every Protocol once: what it is called with, and what its product is called with."""
    parts = ["\n## What each is called with\n"]
    for protocol in sorted({slot.protocol for slot in SLOTS}, key=lambda found: found.__name__):
        signature = inspect.signature(vars_of(protocol)["__call__"])
        product = str(signature.return_annotation)
        what = (inspect.getdoc(protocol) or "").split("\n")[0]
        parts.append(f"\n### {protocol.__name__}\n\n{what}\n\n- called with `{_shown(signature)}`\n")
        if product.endswith("Interface"):
            parts.append(f"- makes a `{product}`{_forward(product)}\n")
        else:
            parts.append(f"- returns `{product}`\n")
    return "".join(parts)


def _forward(name: str) -> str:
    from modelwright import protocols

    members = vars_of(getattr(protocols, name))
    forward = members.get("forward")
    calls = [f"`{'forward' if forward else '__call__'}{_call(members, forward)}`"] if _callable(members) else []
    others = sorted(set(members) - {"forward", "__call__"})
    if others:
        calls.append("with " + ", ".join(f"`{member}`" for member in others))
    return ": " + ", ".join(calls) if calls else ""


def _callable(members: dict[str, object]) -> bool:
    return "__call__" in members or "forward" in members


def _call(members: dict[str, object], forward: object) -> str:
    method = forward or members["__call__"]
    assert callable(method)
    signature = inspect.signature(method)
    return f"({_shown(signature)}) -> {signature.return_annotation}"


def vars_of(protocol: type[object]) -> dict[str, object]:
    """The members that a Protocol and its bases declare."""
    found: dict[str, object] = {}
    for base in reversed(protocol.__mro__):
        if getattr(base, "_is_protocol", False):
            members = {name: value for name, value in vars(base).items() if name == "__call__" or name[0] != "_"}
            found |= {name: value for name, value in members.items() if callable(value) or isinstance(value, property)}
    return found


def _shown(signature: inspect.Signature) -> str:
    parameters = list(signature.parameters.values())[1:]
    words: list[str] = []
    for index, parameter in enumerate(parameters):
        before = parameters[index - 1].kind if index else None
        if parameter.kind is Parameter.KEYWORD_ONLY and before is not Parameter.KEYWORD_ONLY:
            words.append("*")
        words.append(parameter.name + ("" if parameter.default is Parameter.empty else "?"))
        after = parameters[index + 1].kind if index + 1 < len(parameters) else None
        if parameter.kind is Parameter.POSITIONAL_ONLY and after is not Parameter.POSITIONAL_ONLY:
            words.append("/")
    return ", ".join(words)


def main(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
