"""Reader of JSON: the standard library reads, and the YAML reader finds places.

YAML 1.2 contains JSON, so the YAML reader finds line and column of every entry. This is slow, and happens only when a
problem needs a place.
"""

import json
import re

from modelwright.config.files.document import Document, Mark
from modelwright.config.files.yaml_reader import read_as_far_as_possible, read_yaml
from modelwright.config.problems.problem import ConfigError
from modelwright.config.strict.plain_data import not_plain

__all__ = ["read_json"]

# Characters that are legal in JSON, but are line breaks or errors in YAML.
_NOT_IN_YAML = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class _RefusedError(ValueError):
    """Valid JSON that a config may not use."""


def read_json(text: str, source: str | None) -> Document:
    """Read one JSON document. `NaN` and `Infinity` are accepted, as Python writes them.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Returns:
        The data with its places, and the problems of the text.

    Raises:
        ConfigError: If the text is not JSON, or cannot be read further.
    """
    document = Document(source)
    try:
        document.data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _syntax_error(error, document) from None
    except (RecursionError, ValueError):  # nesting, a key given twice, or an integer of more than 4300 digits
        return _read_as_yaml(text, document)
    document.find_places = lambda: read_as_far_as_possible(_as_yaml(text), None).find_places()
    return document if next(not_plain(document.data), None) is None else _read_as_yaml(text, document)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a mapping, and refuse a key that is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError
    return found


def _syntax_error(error: json.JSONDecodeError, document: Document) -> ConfigError:
    """Return the error for a text that is not JSON."""
    ends = error.pos >= len(error.doc.rstrip())
    words = error.msg.removesuffix(" at").removesuffix(" starting")
    what = "the text ends too early" if ends else "this is not JSON"
    return document.fail(Mark(error.lineno, error.colno), f"{what}: {words[:1].lower()}{words[1:]}.")


def _as_yaml(text: str) -> str:
    """Return JSON as YAML with every entry at the same place."""
    return _NOT_IN_YAML.sub(lambda found: " " if found[0] in "\t\r" else "?", text)


def _read_as_yaml(text: str, document: Document) -> Document:
    """Read refused JSON again with the YAML reader, which finds the place of everything that is refused."""
    try:
        return read_yaml(_as_yaml(text), document.source)
    except ConfigError as error:
        problems = [problem for problem in error.problems if problem.code != "syntax"]
        if problems:
            raise ConfigError(problems) from None
    message = "a key is given twice, a number has more than 4300 digits, or the nesting is too deep; correct it."
    raise document.fail(None, message, code="not_plain")
