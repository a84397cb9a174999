"""YAML 1.2 to plain data, over the events of ruamel's parser.

No constructor runs: this file turns events into dicts, lists and the scalars of YAML 1.2's core schema, so there is
nothing for a tag to call. Aliases, merge keys, tags, keys that are not strings, duplicate keys and deep nesting are
refused where they stand.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import Any, cast

from modelwright.config.files.document import Document, Mark, Place
from modelwright.config.problems.pydantic_errors import Loc, dotted
from modelwright.config.strict.by_kind import shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, is_half_pair

__all__ = ["core_scalar", "read_yaml"]

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_INT = 4300


def read_yaml(text: str, source: str | None) -> Document:
    """Read one YAML document.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data with its places, and what is wrong with the text.

    Raises:
        ConfigError: If the text ends, or cannot be read on, in the middle.
    """
    document = Document(source)
    builder = _Builder(document)
    for event in _events(text, document):
        builder.take(event)
    return document


def core_scalar(text: str) -> bool | int | float | str | None:
    """What a plain scalar means in YAML 1.2's core schema.

    Args:
        text: The scalar without quotes.

    Returns:
        Its value; the text itself if it is a string. Dates, `no` and `1_000` are strings.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text) and len(text) <= _LONGEST_INT:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text) and len(text) <= _LONGEST_INT:
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


@dataclasses.dataclass(slots=True)
class _Frame:
    """A mapping or list that is still open."""

    loc: Loc
    into: dict[str, object] | list[object]
    key: str | None = None
    wants_value: bool = False


class _Builder:
    """Makes plain data of events, with a stack of its own."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._stack: list[_Frame] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """Act on one event."""
        name, mark = type(event).__name__, _mark(event.start_mark)
        if name == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise self._document.fail(mark, "a config is one YAML document, but a second one starts here.")
        elif name in {"MappingStartEvent", "SequenceStartEvent"}:
            self._refuse_tag(event, mark)
            self._open({} if name == "MappingStartEvent" else [], mark)
        elif name in {"MappingEndEvent", "SequenceEndEvent"}:
            self._stack.pop()
        elif name == "ScalarEvent":
            self._refuse_tag(event, mark)
            self._scalar(event, mark)
        elif name == "AliasEvent":
            self._alias(str(event.anchor), mark)

    def _open(self, into: dict[str, object] | list[object], mark: Mark) -> None:
        """Start a mapping or a list."""
        if len(self._stack) >= DEPTH_LIMIT:
            raise self._document.fail(mark, f"this nests deeper than {DEPTH_LIMIT} levels.")
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._document.report(mark, "a key must be a string, but a mapping or list was given.", frame.loc)
            frame.key, frame.wants_value = None, True
            self._stack.append(_Frame((*frame.loc, "?"), into))
            return
        loc = self._put(into, mark)
        self._stack.append(_Frame(loc, into))

    def _scalar(self, event: Any, mark: Mark) -> None:
        """A key or a value."""
        plain = not event.style
        value = core_scalar(event.value) if plain else cast("str", event.value)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._key(frame, value, event, mark)
            return
        broken = isinstance(value, str) and is_half_pair(value)
        loc = self._put("" if broken else value, mark)
        if broken:
            self._document.report(mark, f"`{dotted(loc)}` holds half of a surrogate pair, which is no character.", loc)
        elif plain and isinstance(value, str) and len(value) > _LONGEST_INT and _FLOAT.fullmatch(value):
            self._document.report(mark, f"`{dotted(loc)}` has more than {_LONGEST_INT} digits.", loc)

    def _key(self, frame: _Frame, value: object, event: Any, mark: Mark) -> None:
        """Take the key of the next value."""
        into, text = cast("dict[str, object]", frame.into), str(event.value)
        frame.key, frame.wants_value = None, True
        if text == "<<" and not event.style:
            self._document.report(mark, "merge keys (`<<`) are refused; write the fields out.", frame.loc)
        elif not isinstance(value, str):
            self._document.report(
                mark, f'the key `{shown(text)}` must be a string; write it as "{shown(text)}".', frame.loc
            )
        elif value in into:
            loc = (*frame.loc, value)
            first = self._document.places[dotted(loc)].key.line
            message = f"`{dotted(loc)}` is given twice, first in line {first}; keep one."
            self._document.report(mark, message, loc)
        elif is_half_pair(value):
            self._document.report(mark, "a key holds half of a surrogate pair, which is no character.", frame.loc)
        else:
            frame.key = value
            self._document.places[dotted((*frame.loc, value))] = Place(mark, mark)

    def _alias(self, anchor: str, mark: Mark) -> None:
        """Refuse an alias, and read on as if it were a string, which is what it was most likely meant to be."""
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._document.report(mark, "a key must be a string, but an alias was given.", frame.loc)
            frame.key, frame.wants_value = None, True
            return
        loc = self._put(f"*{anchor}", mark)
        message = (
            f"aliases (`*{shown(anchor)}`) are refused; write the value out, or put a string that begins so in quotes."
        )
        self._document.report(mark, message, loc)

    def _put(self, value: object, mark: Mark) -> Loc:
        """Store a value where the open mapping or list wants it."""
        if not self._stack:
            self._document.data = value
            self._document.places[""] = Place(mark, mark)
            return ()
        frame = self._stack[-1]
        if isinstance(frame.into, list):
            loc: Loc = (*frame.loc, len(frame.into))
            frame.into.append(value)
            self._document.places[dotted(loc)] = Place(mark, mark)
            return loc
        frame.wants_value = False
        if frame.key is None:
            return (*frame.loc, "?")
        loc = (*frame.loc, frame.key)
        frame.into[frame.key] = value
        self._document.places[dotted(loc)] = Place(self._document.places[dotted(loc)].key, mark)
        return loc

    def _refuse_tag(self, event: Any, mark: Mark) -> None:
        """Tags and anchors have no place in a config."""
        tag = getattr(event, "ctag", None) or getattr(event, "tag", None)
        if tag is not None and str(tag) not in {"", "None"}:
            self._document.report(mark, f"tags (`{shown(str(tag))}`) are refused; leave it out.", self._loc_of_next())
        if event.anchor is not None:
            message = f"anchors (`&{shown(str(event.anchor))}`) are refused; leave it out."
            self._document.report(mark, message, self._loc_of_next())

    def _loc_of_next(self) -> Loc:
        """Where the next value will stand."""
        if not self._stack:
            return ()
        frame = self._stack[-1]
        if isinstance(frame.into, list):
            return (*frame.loc, len(frame.into))
        return (*frame.loc, frame.key) if frame.wants_value and frame.key is not None else frame.loc


def _events(text: str, document: Document) -> Iterator[Any]:
    """The parser's events; whatever it raises becomes a problem at the place where it stopped."""
    from ruamel.yaml import YAML  # costs 60 ms, and only files need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from _parsed(YAML(typ="safe", pure=True), text)
        except _ParserError as failed:
            raise document.fail(failed.mark, failed.message) from None


class _ParserError(Exception):
    """ruamel could not read on."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark, self.message = mark, message


def _parsed(yaml: Any, text: str) -> Iterator[Any]:
    """The events, with one exception type."""
    events, last = iter(yaml.parse(text)), Mark(1, 1)
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  # the text is a stranger's, and the parser raises many things
            raise _failure(error, last, text) from None
        last = _mark(event.end_mark)
        yield event


def _failure(error: Exception, last: Mark, text: str) -> _ParserError:
    """What to say when the parser stops."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    place = _mark(mark) if mark is not None else last
    if "\\t" in str(problem):
        return _ParserError(place, "a tab cannot stand here in YAML; use spaces.")
    position = getattr(error, "position", None)
    if isinstance(position, int):
        return _ParserError(_mark_of(text, position), f"the character `{shown(text[position])}` cannot stand in YAML.")
    if mark is None:
        return _ParserError(place, "this is not YAML: something after this cannot be read.")
    words = shown(" ".join(str(problem).split()), 120)
    if "<stream end>" in words or "end of stream" in words:
        return _ParserError(place, f"the text ends too early: {words}.")
    return _ParserError(place, f"this is not YAML: {words}.")


def _mark_of(text: str, at: int) -> Mark:
    """The place of a character."""
    return Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def _mark(mark: Any) -> Mark:
    """The parser's mark, counted from 1."""
    return Mark(int(mark.line) + 1, int(mark.column) + 1)
