"""Text that a terminal shows and does not obey: names and messages may contain what a stranger wrote."""

import re

# Control characters except tab and newline, and those that change the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with control characters as their escapes, as Python writes them.

    Args:
        text: The text.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
