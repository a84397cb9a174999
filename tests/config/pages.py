"""Runs the examples of a page: files are written, Python and commands are run, what they print is compared.

A block `yaml NAME` is a file. A block `python` goes on where the one before it stopped; a block `text` after it is what
it prints. A block `console` has commands after `$`, each with all that it prints. Every fingerprint counts as equal.
"""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")


@dataclasses.dataclass(frozen=True)
class Block:
    """One example of a page."""

    sort: str
    name: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Return the examples of a page, from top to bottom."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match[1], match[2], match[3])


def run(page: Path, folder: Path) -> list[tuple[str, str]]:
    """Run a page in the working directory, and return pairs of the printed and the expected output."""
    printed, pairs, names = "", list[tuple[str, str]](), dict[str, Any]()
    for block in blocks(page):
        if block.name is not None:
            (folder / block.name).write_text(block.text, encoding="utf-8")
        elif block.sort == "python":
            printed = _python(block.text, names)
        elif block.sort == "text":
            pairs.append((printed, block.text))
        elif block.sort == "console":
            pairs += _console(block.text, folder)
    return pairs


def _python(code: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<page>", "exec"), names)  # noqa: S102 - an example of this repository
    return out.getvalue()


def _console(text: str, folder: Path) -> Iterator[tuple[str, str]]:
    for part in text.split("$ ")[1:]:
        command, _, expected = part.partition("\n")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            command.split(), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        yield FINGERPRINT.sub("0" * 64, done.stdout), expected
