"""`did_you_mean`: the nearest existing name, for a message about an unknown one."""

from collections.abc import Iterable


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return the end of a message about an unknown name.

    Args:
        word: The unknown name.
        options: The existing names.

    Returns:
        `"; did you mean `x`?"` with the most similar of `options`, or "" if none is similar.
    """
    import difflib  # only a message about an error needs it

    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
