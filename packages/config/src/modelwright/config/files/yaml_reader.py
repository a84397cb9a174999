"""Reader of YAML 1.2, based on the events of ruamel's parser.

No constructor runs: this module converts the events to dicts, lists and the scalars of YAML 1.2's core schema, so that
a tag cannot call anything. Aliases, merge keys, tags, keys that are not strings, duplicate keys and deep nesting are
refused with line and column.
"""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import Any, cast

from modelwright.config.files.document import Document, Mark, Place, mark_at
from modelwright.config.problems.problem import ConfigError
from modelwright.config.problems.wording import Loc, dotted, shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, is_half_pair

__all__ = ["core_scalar", "read_as_far_as_possible", "read_yaml"]

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
        The data with its places, and the problems of the text.

    Raises:
        ConfigError: If the text is not YAML, or cannot be read further.
    """
    document = Document(source)
    _read_into(document, text)
    return document


def read_as_far_as_possible(text: str, source: str | None) -> Document:
    """Read one YAML document up to the first problem after which nothing more can be read.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data with its places, and all problems of the text.
    """
    document = Document(source)
    with contextlib.suppress(ConfigError):
        _read_into(document, text)
    return document


def _read_into(document: Document, text: str) -> None:
    """Read a text into an empty document."""
    builder = _Builder(document)
    document.find_places = lambda: builder.places
    for event in _events(text, document):
        builder.add(event)


def core_scalar(text: str) -> bool | int | float | str | None:
    """Return the value of a plain scalar in YAML 1.2's core schema.

    Args:
        text: A scalar without quotes.

    Returns:
        Its value; the text itself if the scalar is a string. Dates, `no` and `1_000` are strings.
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
    """Mapping or list that is not closed yet."""

    loc: Loc
    into: dict[str, object] | list[object]
    key: str | None = None
    wants_value: bool = False


class _Builder:
    """Builder of plain data from events, without recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.places: dict[str, Place] = {"": Place(Mark(1, 1), Mark(1, 1))}
        self._stack: list[_Frame] = []
        self._documents = 0

    def add(self, event: Any) -> None:
        """Process one event."""
        name, mark = type(event).__name__, _mark(event.start_mark)
        if name == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise self._document.fail(mark, "a config must be one YAML document, but a second one starts here.")
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
        """Open a mapping or a list."""
        if len(self._stack) >= DEPTH_LIMIT:
            message = f"a config must nest at most {DEPTH_LIMIT} levels deep, but this nests deeper."
            raise self._document.fail(mark, message, code="not_plain")
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._document.report(mark, "a key must be a string, but a mapping or list was given.", frame.loc)
            frame.key, frame.wants_value = None, True
            self._stack.append(_Frame((*frame.loc, "?"), into))
            return
        loc = self._put(into, mark)
        self._stack.append(_Frame(loc, into))

    def _scalar(self, event: Any, mark: Mark) -> None:
        """Add a key or a value."""
        plain = not event.style
        value = core_scalar(event.value) if plain else _with_joined_pairs(event.value)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._key(frame, value, event, mark)
            return
        broken = isinstance(value, str) and is_half_pair(value)
        loc = self._put("" if broken else value, mark)
        if broken:
            message = f"`{dotted(loc)}` contains half of a surrogate pair, which is not a character."
            self._document.report(mark, message, loc, code="not_plain")
        elif plain and isinstance(value, str) and len(value) > _LONGEST_INT and _FLOAT.fullmatch(value):
            message = f"`{dotted(loc)}` must have at most {_LONGEST_INT} digits, but has more."
            self._document.report(mark, message, loc, code="not_plain")

    def _key(self, frame: _Frame, value: object, event: Any, mark: Mark) -> None:
        """Store the key of the next value."""
        into, text = cast("dict[str, object]", frame.into), _with_joined_pairs(str(event.value))
        frame.key, frame.wants_value = None, True
        if text == "<<" and not event.style:
            self._document.report(mark, "merge keys (`<<`) are not allowed; write the fields out.", frame.loc)
        elif not isinstance(value, str):
            self._document.report(
                mark, f'the key `{shown(text)}` must be a string; write it as "{shown(text)}".', frame.loc
            )
        elif value in into:
            loc = (*frame.loc, value)
            first = self.places[dotted(loc)].key.line
            message = f"`{dotted(loc)}` is given twice, first in line {first}; keep one."
            self._document.report(mark, message, loc, code="duplicate_key")
        elif is_half_pair(value):
            message = "a key contains half of a surrogate pair, which is not a character."
            self._document.report(mark, message, frame.loc, code="not_plain")
        else:
            frame.key = value
            self.places[dotted((*frame.loc, value))] = Place(mark, mark)

    def _alias(self, anchor: str, mark: Mark) -> None:
        """Refuse an alias, and continue as if it were a string, which is the most likely intention."""
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.into, dict) and not frame.wants_value:
            self._document.report(mark, "a key must be a string, but an alias was given.", frame.loc)
            frame.key, frame.wants_value = None, True
            return
        loc = self._put(f"*{anchor}", mark)
        message = f"aliases (`*{shown(anchor)}`) are not allowed; write the value out, or quote a string."
        self._document.report(mark, message, loc)

    def _put(self, value: object, mark: Mark) -> Loc:
        """Store a value in the open mapping or list."""
        if not self._stack:
            self._document.data = value
            self.places[""] = Place(mark, mark)
            return ()
        frame = self._stack[-1]
        if isinstance(frame.into, list):
            loc: Loc = (*frame.loc, len(frame.into))
            frame.into.append(value)
            self.places[dotted(loc)] = Place(mark, mark)
            return loc
        frame.wants_value = False
        if frame.key is None:
            return (*frame.loc, "?")
        loc = (*frame.loc, frame.key)
        frame.into[frame.key] = value
        self.places[dotted(loc)] = Place(self.places[dotted(loc)].key, mark)
        return loc

    def _refuse_tag(self, event: Any, mark: Mark) -> None:
        """Refuse tags and anchors."""
        tag = getattr(event, "ctag", None) or getattr(event, "tag", None)
        if tag is not None and str(tag) not in {"", "None"}:
            self._document.report(
                mark, f"tags (`{shown(str(tag))}`) are not allowed; leave it out.", self._loc_of_next()
            )
        if event.anchor is not None:
            message = f"anchors (`&{shown(str(event.anchor))}`) are not allowed; leave it out."
            self._document.report(mark, message, self._loc_of_next())

    def _loc_of_next(self) -> Loc:
        """Return the location of the next value."""
        if not self._stack:
            return ()
        frame = self._stack[-1]
        if isinstance(frame.into, list):
            return (*frame.loc, len(frame.into))
        return (*frame.loc, frame.key) if frame.wants_value and frame.key is not None else frame.loc


def _events(text: str, document: Document) -> Iterator[Any]:
    """Iterate over the parser's events; an exception of the parser becomes a problem at the place where it stopped."""
    from ruamel.yaml import YAML  # costs 60 ms, and only files need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from _parsed(YAML(typ="safe", pure=True), text)
        except _ParserError as failed:
            raise document.fail(failed.mark, failed.message) from None


class _ParserError(Exception):
    """Error that stopped ruamel's parser."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark, self.message = mark, message


def _parsed(yaml: Any, text: str) -> Iterator[Any]:
    """Iterate over the events, and convert any exception to `_ParserError`."""
    events, last = iter(yaml.parse(text)), Mark(1, 1)
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  # the text is untrusted, and the parser raises many types
            raise _failure(error, last, text) from None
        last = _mark(event.end_mark)
        yield event


def _failure(error: Exception, last: Mark, text: str) -> _ParserError:
    """Convert an exception of the parser."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    place = _mark(mark) if mark is not None else last
    stopped_at = text[mark.index] if mark is not None and mark.index < len(text) else ""
    if stopped_at == "\t":
        return _ParserError(place, "a tab is not allowed here in YAML; use spaces.")
    position = getattr(error, "position", None)
    if isinstance(position, int):
        message = f"the character `{shown(text[position])}` is not allowed in YAML; remove it."
        return _ParserError(mark_at(text, position), message)
    if mark is None:
        return _ParserError(place, "this is not YAML: something after this cannot be read.")
    words = shown(" ".join(str(problem).split()), 120)
    if not text[mark.index :].strip():
        return _ParserError(place, f"the text ends too early: {words}.")
    return _ParserError(place, f"this is not YAML: {words}.")


def _with_joined_pairs(text: str) -> str:
    """Join surrogate pairs, which JSON's escapes use for one character as in the pair of an emoji."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if is_half_pair(text) else text


def _mark(mark: Any) -> Mark:
    """Convert the parser's mark, which counts from 0."""
    return Mark(int(mark.line) + 1, int(mark.column) + 1)
