"""Facts of a message: what a test matches, so that a message can be reworded without a change to the test.

A fact is a name in backticks, a quoted value, a number, a truth value, the class of an exception or the place in a
file. The words between them belong to the test of wording of their template.
"""

import re

__all__ = ["facts"]

FACT = re.compile(
    "|".join(
        (
            r"^error(?: \(rank \d+\))?(?=: )",  # what the command prints first
            r"(?:^|(?<=: ))--set .+?(?=: )",  # an override, as it was written
            r"(?<![\w`'\"/.])[\w./-]*:\d+:\d+(?=: )",  # FILE:LINE:COLUMN
            r"`[^`]*`",
            r"<[^<>\n]+>",  # the representation of an object
            r"(?<![\w'])'(?:[^'\\\n]|\\.)*'(?!\w)",
            r'(?<![\w"])"[^"\n]*"(?!\w)',
            r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)",
            r"\b(?:true|false|null|nan|inf|True|False|None)\b",
            r"\b(?:[A-Z]\w*(?:Error|Exception|Warning)|SIG[A-Z]+)\b",
            r"(?<![\w.])/[\w./-]*\w",  # a path
            r"[\w-]*(?:(?<=\w)[._](?=\w)|(?<!\w)\.(?=[a-z]))[\w.-]*\w",  # a dotted name, or one with underscores
        )
    )
)


def facts(error: object) -> str:
    """Return the facts of an error or a text, in their order, one line for each line of the message.

    Args:
        error: An exception, or its text. Each problem of a `ConfigError` begins with its code, unless that is `rule`.

    Returns:
        For instance "`top_k` `num_experts` 9 8". Excerpts, which are indented by four spaces, are unchanged.
    """
    problems = getattr(error, "problems", ())
    if problems and all(hasattr(one, "code") for one in problems):
        return "\n".join(("" if one.code == "rule" else f"{one.code}: ") + _facts(str(one)) for one in problems)
    return _facts(str(error))


def _facts(text: str) -> str:
    """Return the facts of a text."""
    return "\n".join(
        line if line.startswith("    ") else " ".join(one.group() for one in FACT.finditer(line))
        for line in text.split("\n")
    )
