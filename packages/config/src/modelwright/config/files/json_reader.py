"""JSON to plain data, with places.

The standard library's decoder tells nothing of where things stand, so the structure is read here and each string and
number by the standard library's own rules. `NaN` and `Infinity` are read as Python writes them.
"""

import json
import re
from collections.abc import Sized
from json import decoder
from typing import Any, Never, cast

from modelwright.config.files.document import Document, Mark, Place
from modelwright.config.problems.pydantic_errors import Loc, dotted
from modelwright.config.strict.by_kind import shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, is_half_pair

__all__ = ["read_json"]

_SCAN_STRING: Any = vars(decoder)["scanstring"]
"""The standard library's reader of one string; its type stubs leave it out."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_WORD = re.compile(r"-?[A-Za-z]+")
_WORDS = {
    "null": None,
    "true": True,
    "false": False,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}
_LONGEST_INT = 4300


def read_json(text: str, source: str | None) -> Document:
    """Read one JSON document.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data with its places, and what is wrong with the text.

    Raises:
        ConfigError: If the text ends, or cannot be read on, in the middle.
    """
    return _Reader(text, Document(source)).read()


class _Reader:
    """Reads from left to right; `_at` is the next character."""

    def __init__(self, text: str, document: Document) -> None:
        self._text, self._document, self._at = text, document, 0
        self._line, self._line_start, self._counted = 1, 0, 0

    def read(self) -> Document:
        """The whole text."""
        self._skip_space()
        self._document.places[""] = Place(self._mark(), self._mark())
        self._document.data = self._value(())
        self._skip_space()
        if self._at < len(self._text):
            self._fail("this is not JSON: the document has ended before this.")
        return self._document

    def _value(self, loc: Loc) -> object:
        """The value that starts here."""
        start = self._text[self._at : self._at + 1]
        if start in {"{", "["}:
            if len(loc) >= DEPTH_LIMIT:
                self._fail(f"this nests deeper than {DEPTH_LIMIT} levels.")
            return self._object(loc) if start == "{" else self._array(loc)
        return self._string(loc) if start == '"' else self._scalar(loc)

    def _object(self, loc: Loc) -> dict[str, object]:
        """A mapping."""
        found: dict[str, object] = {}
        self._step()
        while not self._closes("}", found):
            mark = self._mark()
            if self._text[self._at] != '"':
                self._fail("this is not JSON: a key must be a string in double quotes.")
            key = self._string(loc)
            here = (*loc, key)
            if key in found:
                first = self._document.places[dotted(here)].key.line
                self._document.report(mark, f"`{dotted(here)}` is given twice, first in line {first}; keep one.", here)
            self._skip_space()
            self._expect(":")
            self._document.places.setdefault(dotted(here), Place(mark, self._mark()))
            value = self._value(here)
            found.setdefault(key, value)
            self._skip_space()
        return found

    def _array(self, loc: Loc) -> list[object]:
        """A list."""
        found: list[object] = []
        self._step()
        while not self._closes("]", found):
            here = (*loc, len(found))
            self._document.places[dotted(here)] = Place(self._mark(), self._mark())
            found.append(self._value(here))
            self._skip_space()
        return found

    def _closes(self, bracket: str, found: Sized) -> bool:
        """Whether the mapping or list ends here; otherwise step to its next entry."""
        if self._text[self._at : self._at + 1] == bracket:
            self._at += 1
            return True
        if len(found):
            self._expect(",")
        if self._at >= len(self._text):
            self._fail(f"the text ends too early: `{bracket}` is missing.")
        return False

    def _string(self, loc: Loc) -> str:
        """A string."""
        mark = self._mark()
        try:
            value, self._at = cast("tuple[str, int]", _SCAN_STRING(self._text, self._at + 1))
        except json.JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            words = error.msg.removesuffix(" at").removesuffix(" starting")
            self._fail(f"this is not JSON: {words[:1].lower()}{words[1:]}.")
        if is_half_pair(value):
            self._document.report(mark, "this string holds half of a surrogate pair, which is no character.", loc)
            return ""
        return value

    def _scalar(self, loc: Loc) -> object:
        """A number, or one of the words of JSON."""
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            return self._number(number, loc)
        word = _WORD.match(self._text, self._at)
        if word is None or word[0] not in _WORDS:
            if self._at >= len(self._text):
                self._fail("the text ends too early: a value is missing.")
            self._fail(f"this is not JSON: `{shown(word[0] if word else self._text[self._at])}` is not a value.")
        self._at = word.end()
        return _WORDS[word[0]]

    def _number(self, match: re.Match[str], loc: Loc) -> int | float:
        """An integer or a float."""
        if len(match[0]) > _LONGEST_INT:
            self._fail(f"`{dotted(loc)}` has more than {_LONGEST_INT} digits.")
        self._at = match.end()
        return int(match[0]) if match[1] is None and match[2] is None else float(match[0])

    def _expect(self, sign: str) -> None:
        """Step over a sign that must stand here."""
        if self._at >= len(self._text):
            self._fail(f"the text ends too early: `{sign}` is missing.")
        if self._text[self._at] != sign:
            self._fail(f"this is not JSON: `{sign}` is expected here.")
        self._step()

    def _step(self) -> None:
        """Over one character and the space after it."""
        self._at += 1
        self._skip_space()

    def _skip_space(self) -> None:
        """Over spaces and line breaks."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _mark(self) -> Mark:
        """Line and column of the next character."""
        fresh = self._text.count("\n", self._counted, self._at)
        if fresh:
            self._line += fresh
            self._line_start = self._text.rfind("\n", 0, self._at) + 1
        self._counted = self._at
        return Mark(self._line, self._at - self._line_start + 1)

    def _fail(self, message: str) -> Never:
        """Stop reading here."""
        self._counted = min(self._counted, self._at)
        self._line = self._text.count("\n", 0, self._at) + 1
        self._line_start = self._text.rfind("\n", 0, self._at) + 1
        raise self._document.fail(Mark(self._line, self._at - self._line_start + 1), message)
