"""Pieces of messages: values, names and paths as every message shows them."""

from collections.abc import Iterable, Mapping

__all__ = ["Loc", "described", "dotted", "quoted_list", "shown"]

type Loc = tuple[str | int, ...]
"""Location of a value in nested data: names of fields and indices into lists."""

_LARGE = 10**40


def dotted(loc: Loc) -> str:
    """Return a location as a dotted path.

    Args:
        loc: Names of fields and indices into lists.

    Returns:
        For instance `model.engine.sizes[0]`.
    """
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{shown(part)}"
    return text


def described(value: object) -> str:
    """Return a value as a message shows it.

    Args:
        value: The value that was given.

    Returns:
        For instance `null`, `2.5`, `the string "a"`, `a list`.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'the string "{shown(value)}"'
    if isinstance(value, int | float):
        return "a very large integer" if isinstance(value, int) and abs(value) >= _LARGE else repr(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a `{type(value).__name__}`"


def quoted_list(names: Iterable[str], last: str = "and") -> str:
    """Return names in backticks, as a phrase.

    Args:
        names: The names.
        last: Word before the last name.

    Returns:
        "`a`, `b` or `c`"; "nothing" if there are no names.
    """
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return quoted[0] if quoted else "nothing"
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def shown(text: str, limit: int = 60) -> str:
    """Return a string from a file, safe and short enough for a message.

    Args:
        text: Any string.
        limit: Maximum number of characters to show.

    Returns:
        The text with control characters escaped, cut after `limit` characters.
    """
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in text[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + "…"
