"""The check of `engine:`: every field that it contains must have an effect in the model that is built."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from modelwright.config import LAYER_KINDS, quoted_list
from modelwright.layers.engine_fields.table import VERDICTS
from modelwright.layers.engine_fields.verdict import FieldValues, Honored, Owned, Refused, Verdict


@final
@dataclass(frozen=True, kw_only=True)
class Reader:
    """Everything of a model that decides which fields are read."""

    layers: frozenset[str] | None
    """Symbols of the layers. None: unknown, so any layer may be there."""
    backend: str
    """Backend of the parts: `torch` or `te`."""


def fields_without_effect(given: Mapping[str, Any], values: FieldValues, reader: Reader) -> Iterator[tuple[str, str]]:
    """Find the fields of `engine:` that nothing in a model reads.

    Args:
        given: Values of `engine:`, in the engine's types. No other field sets them.
        values: Returns the value of any field.
        reader: The model.

    Yields:
        The name of a field, and the message about it.
    """
    for name in given:
        if (reason := _without_effect(VERDICTS[name], values, reader)) is not None:
            yield name, f"`engine.{name}` must be left out, because {reason}."


def _without_effect(verdict: Verdict, values: FieldValues, reader: Reader) -> str | None:
    """Return why a field has no effect, and what to do, as clauses; None if it has one."""
    if isinstance(verdict, Refused):
        return f"{verdict.reason}; {verdict.instead}"
    if reader.layers is not None and not reader.layers & set(verdict.layers):
        kinds = quoted_list([LAYER_KINDS[symbol].plural for symbol in verdict.layers], "or")
        hint = f", where `{verdict.by}` sets it" if isinstance(verdict, Owned) else ""
        return f"it belongs to {kinds.replace('`', '')}, and this model has none; use a model with them{hint}"
    if isinstance(verdict, Honored) and reader.backend not in verdict.backends:
        names = quoted_list(verdict.backends, "or")
        return f"no part of the backend `{reader.backend}` reads it; use the backend {names}"
    if verdict.when is not None and not verdict.when.holds(values):
        return f"it has an effect only {verdict.when.text}; set that too"
    return None
