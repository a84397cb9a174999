"""Check of a spec: every builder in it must fit the Protocol of its slot.

The check runs when a spec is made, before any process group or parameter exists.
"""

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any, Protocol

from modelwright.protocols import check_conformance

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_slots(spec: "DataclassInstance") -> None:
    """Compare every builder of a spec with the Protocol that its field is annotated with.

    Args:
        spec: Dataclass of builders. Fields without a Protocol, and fields set to None, are not checked.

    Raises:
        ConformanceError: A builder does not fit its slot. The message lists all mismatches of the first such builder.
    """
    slots = typing.get_type_hints(spec.__class__)
    for field in dataclasses.fields(spec):
        builder = getattr(spec, field.name)
        if builder is not None:
            for protocol in _protocols(slots[field.name]):
                check_conformance(protocol, builder)


def _protocols(annotation: Any) -> list[type[object]]:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [option for option in options if Protocol in getattr(option, "__mro__", ())]
