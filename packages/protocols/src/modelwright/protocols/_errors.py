"""The root of every exception that modelwright raises on purpose, and the words its messages share.

A message names the thing in backticks, the rule, the value, what exists and what to do. `did_you_mean` adds the
nearest name that exists, so that every package suggests in the same words.
"""

import difflib
from collections.abc import Iterable


class ModelwrightError(Exception):
    """Something the caller can understand and mend; the message says how.

    Commands print the message alone and exit with 2; anything else that escapes is a defect or a failed run.
    """


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Args:
        word: What was written.
        options: The names that exist.

    Returns:
        `"; did you mean `x`?"` for the nearest of `options`, or "" when none is near.
    """
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
