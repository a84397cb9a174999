"""Reader of TOML. The standard library reads; only errors of syntax have a line and a column."""

import datetime
import re
import tomllib
from typing import Any, cast

from modelwright.config.files.document import Document, Mark, mark_at
from modelwright.config.problems.problem import ConfigError
from modelwright.config.problems.wording import Loc, dotted, shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, nests_too_deep

__all__ = ["read_toml"]

# The standard library needs quadratic time for a dotted key of many parts.
_LONG_KEY = re.compile(rf"""(?<![\w."'-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{DEPTH_LIMIT}}}""", re.ASCII)
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TOO_DEEP = f"a config must nest at most {DEPTH_LIMIT} levels deep, but this nests deeper."


def read_toml(text: str, source: str | None) -> Document:
    """Read a TOML document.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data, and the problems of the text. Dates are refused, because no field is a date.

    Raises:
        ConfigError: If the text is not TOML, or cannot be read further.
    """
    document = Document(source)
    long_key = _LONG_KEY.search(text)
    if long_key is not None:
        raise document.fail(mark_at(text, long_key.start()), _TOO_DEEP, code="not_plain")
    document.data = _parsed(text, document)
    _refuse_dates(document, document.data, ())
    return document


def _parsed(text: str, document: Document) -> dict[str, Any]:
    """Parse the text with the standard library."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, document) from None
    except RecursionError:
        raise document.fail(None, _TOO_DEEP, code="not_plain") from None
    except ValueError:  # an integer of more digits than Python converts
        raise document.fail(None, "a number must have at most 4300 digits.", code="not_plain") from None
    if nests_too_deep(data):
        raise document.fail(None, _TOO_DEEP, code="not_plain")
    return data


def _syntax_error(message: str, text: str, document: Document) -> ConfigError:
    """Return the error for a text that is not TOML. Python 3.12 gives the place in the message alone."""
    place = _PLACE.search(message)
    words = shown(message.partition(" (at ")[0], 120).rstrip(".")
    mark = mark_at(text, len(text)) if place is None else Mark(int(place[1]), int(place[2]))
    what = "the text ends too early" if place is None else "this is not TOML"
    return document.fail(mark, f"{what}: {words[:1].lower()}{words[1:]}.")


def _refuse_dates(document: Document, data: object, loc: Loc) -> None:
    """Report dates and times, and replace them by None."""
    entries: list[tuple[Any, object]] = []
    if isinstance(data, dict):
        entries = list(cast("dict[str, object]", data).items())
    elif isinstance(data, list):
        entries = list(enumerate(cast("list[object]", data)))
    for key, value in entries:
        here = (*loc, key)
        if isinstance(value, datetime.date | datetime.time):
            message = f"`{dotted(here)}` is a date, but no field is a date; use a string."
            document.report(None, message, here, code="not_plain")
            cast("Any", data)[key] = None
        else:
            _refuse_dates(document, value, here)
