"""TOML to plain data, with places.

The standard library reads. It tells nothing of where things stand, so a second pass over the text, which is known to be
valid by then, finds the keys and values again.
"""

import datetime
import re
import tomllib
from typing import Any, cast

from modelwright.config.files.document import Document, Mark, Place
from modelwright.config.problems.problem import ConfigError
from modelwright.config.problems.pydantic_errors import Loc, dotted
from modelwright.config.strict.by_kind import shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, nests_too_deep

__all__ = ["read_toml"]

_LONG_KEY = re.compile(rf"""(?<![\w."'-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{DEPTH_LIMIT}}}""", re.ASCII)
_STOPPED_AT = re.compile(r"\(at line (\d+), column (\d+)\)$")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS = (
    (re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}', re.DOTALL), '"""'),
    (re.compile(r"'''(?:[^']|'{1,2}(?!'))*+'{3,5}"), "'''"),
    (re.compile(r'"(?:[^"\\]|\\.)*+"'), '"'),
    (re.compile(r"'[^']*+'"), "'"),
)
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


def read_toml(text: str, source: str | None) -> Document:
    """Read a TOML document.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data with its places, and what is wrong with the text. Dates are refused: a config holds none.

    Raises:
        ConfigError: If it cannot be read on.
    """
    document = Document(source)
    long_key = _LONG_KEY.search(text)
    if long_key is not None:
        raise document.fail(_mark(text, long_key.start()), f"this nests deeper than {DEPTH_LIMIT} levels.")
    document.data = _parsed(text, document)
    _Places(text, document).find()
    _refuse_dates(document, document.data, ())
    return document


def _parsed(text: str, document: Document) -> dict[str, Any]:
    """What the standard library makes of the text."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _failure(str(error), text, document) from None
    except RecursionError:
        raise document.fail(Mark(1, 1), f"this nests deeper than {DEPTH_LIMIT} levels.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise document.fail(Mark(1, 1), "this has a number of more than 4300 digits.") from None
    if nests_too_deep(data):
        raise document.fail(Mark(1, 1), f"this nests deeper than {DEPTH_LIMIT} levels.")
    return data


def _failure(message: str, text: str, document: Document) -> ConfigError:
    """What to say when the text is not TOML."""
    found = _STOPPED_AT.search(message)
    words = shown(message.partition(" (at ")[0], 120)
    if found is None:
        return document.fail(_mark(text, len(text)), f"the text ends too early: {words[:1].lower()}{words[1:]}.")
    return document.fail(
        Mark(int(found[1]), int(found[2])), f"this is not TOML: {words[:1].lower()}{words[1:].rstrip('.')}."
    )


class _Places:
    """Finds where keys and values stand in a text that is valid TOML."""

    def __init__(self, text: str, document: Document) -> None:
        self._text, self._document, self._at = text, document, 0
        self._lists: dict[Loc, int] = {}
        self._line, self._line_start, self._counted = 1, 0, 0

    def find(self) -> None:
        """The whole text: headers, and keys with their values."""
        section: Loc = ()
        self._note((), self._mark(), self._mark())
        self._skip()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                section = self._header()
            else:
                self._pair(section)
            self._skip()

    def _header(self) -> Loc:
        """`[a.b]` or `[[a.b]]`."""
        mark, double = self._mark(), self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        *outer, last = self._keys()
        self._at += 2 if double else 1
        loc = (*self._inside(tuple(outer)), last)
        if double:
            self._lists[loc] = self._lists.get(loc, -1) + 1
            self._note(loc, mark, mark)
        if loc in self._lists:
            loc = (*loc, self._lists[loc])
        self._note(loc, mark, mark)
        return loc

    def _inside(self, keys: Loc) -> Loc:
        """A path with the index of the last element of every list of tables on the way."""
        loc: Loc = ()
        for key in keys:
            loc = (*loc, key)
            if loc in self._lists:
                loc = (*loc, self._lists[loc])
        return loc

    def _pair(self, section: Loc) -> None:
        """`a.b = value`."""
        mark = self._mark()
        keys = self._keys()
        self._at += 1
        self._skip()
        loc = (*section, *keys)
        for depth in range(len(section) + 1, len(loc)):
            self._note(loc[:depth], mark, mark)
        self._note(loc, mark, self._mark())
        self._value(loc)

    def _keys(self) -> list[str]:
        """The parts of a key, up to what follows it."""
        parts: list[str] = []
        while True:
            self._skip()
            parts.append(self._key())
            self._skip()
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _key(self) -> str:
        """One part of a key."""
        bare = _BARE.match(self._text, self._at)
        if bare is not None:
            self._at = bare.end()
            return bare[0]
        start = self._at
        self._string()
        return cast("str", tomllib.loads(f"a={self._text[start : self._at]}")["a"])

    def _value(self, loc: Loc) -> None:
        """A value, and what stands in it."""
        sign = self._text[self._at]
        if sign == "[":
            self._array(loc)
        elif sign == "{":
            self._table(loc)
        elif sign in "\"'":
            self._string()
        else:
            match = _SCALAR.match(self._text, self._at)
            self._at = match.end() if match is not None else self._at + 1

    def _array(self, loc: Loc) -> None:
        """A list in brackets."""
        index = 0
        self._step()
        while self._text[self._at] != "]":
            here = (*loc, index)
            self._note(here, self._mark(), self._mark())
            self._value(here)
            self._step(",")
            index += 1
        self._at += 1

    def _table(self, loc: Loc) -> None:
        """A table in braces."""
        self._step()
        while self._text[self._at] != "}":
            self._pair(loc)
            self._step(",")
        self._at += 1

    def _string(self) -> None:
        """Over a string."""
        for pattern, start in _STRINGS:
            if self._text.startswith(start, self._at):
                match = pattern.match(self._text, self._at)
                self._at = match.end() if match is not None else len(self._text)
                return

    def _step(self, sign: str = "") -> None:
        """Over an opening bracket, or a comma if there is one, and the space around it."""
        self._skip()
        if not sign or self._text[self._at] == sign:
            self._at += 1
        self._skip()

    def _skip(self) -> None:
        """Over space, line breaks and comments."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _note(self, loc: Loc, key: Mark, value: Mark) -> None:
        """Remember the first place of a path."""
        self._document.places.setdefault(dotted(loc), Place(key, value))

    def _mark(self) -> Mark:
        """Line and column of the next character."""
        fresh = self._text.count("\n", self._counted, self._at)
        if fresh:
            self._line += fresh
            self._line_start = self._text.rfind("\n", 0, self._at) + 1
        self._counted = self._at
        return Mark(self._line, self._at - self._line_start + 1)


def _refuse_dates(document: Document, data: object, loc: Loc) -> None:
    """Report dates and times, and leave null in their place."""
    entries: list[tuple[Any, object]] = []
    if isinstance(data, dict):
        entries = list(cast("dict[str, object]", data).items())
    elif isinstance(data, list):
        entries = list(enumerate(cast("list[object]", data)))
    for key, value in entries:
        here = (*loc, key)
        if isinstance(value, datetime.date | datetime.time):
            place = document.places.get(dotted(here))
            mark = place.value if place is not None else Mark(1, 1)
            document.report(mark, f"`{dotted(here)}` is a date, which no field takes; write a string.", here)
            cast("Any", data)[key] = None
        else:
            _refuse_dates(document, value, here)


def _mark(text: str, at: int) -> Mark:
    """The place of a character."""
    return Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
