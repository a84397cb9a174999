"""Random damage to the files of a run folder, and what loading makes of it."""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelwright.protocols import ModelwrightError


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 16])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zero(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    size = min(draw.choice([1, 8, 512, 4096]), len(content) - start)
    return content[:start] + bytes(size) + content[start + size :]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def extend(content: bytes, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.choice([1, 8, 100]))


def insert(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(draw.choice([1, 8])) + content[place:]


def repeat(content: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[:second] + content[first:second] + content[second:]


ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 1.5, float("nan"), "", "\x1b[2J", "../../etc/passwd",
    [], {}, [[]], {"a": 1}, "a" * 5000,
]  # fmt: skip


def change_json(content: bytes, draw: random.Random) -> bytes:
    """Replace a value or a name of a JSON document, or of a document within it, by something odd."""
    return _as_bytes(_changed(json.loads(content), draw))


def change_header(content: bytes, draw: random.Random) -> bytes:
    """Change the JSON of a file of tensors, which stays as long as it was where that is possible."""
    length = int.from_bytes(content[:8], "little")
    text = _as_bytes(_changed(json.loads(content[8 : 8 + length]), draw)).ljust(length)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def change_length(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([0, 1, 7, len(content), 2**20, 2**40, 2**64 - 1]).to_bytes(8, "little") + content[8:]


def _as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, str) and value.startswith("{") and draw.random() < 0.9:
        return json.dumps(_changed(json.loads(value), draw))
    if isinstance(value, dict) and value and draw.random() < 0.95:
        name = draw.choice(list(value))
        if draw.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        return value | {name: _changed(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


BYTES: list[Callable[[bytes, random.Random], bytes]] = [flip, zero, cut, extend, insert, repeat]


def mutate(folder: Path, draw: random.Random) -> str:
    """Damage one file of a folder; the name of the damage and of the file."""
    path = draw.choice(sorted(file for file in folder.iterdir() if file.is_file()))
    other = draw.choice(sorted(file for file in folder.iterdir() if file != path))
    kind = draw.random()
    if kind < 0.1:
        return f"{_replace(path, other, draw)} {path.name}"
    changes = list(BYTES)
    if path.suffix == ".json":
        changes += [change_json] * 6
    if path.suffix == ".safetensors":
        changes += [change_header] * 6 + [change_length]
    change = draw.choice(changes)
    content = path.read_bytes() or b"\0"
    try:
        path.write_bytes(change(content, draw))
    except ValueError:  # of a file that is no JSON any more
        path.write_bytes(flip(content, draw))
    return f"{change.__name__} {path.name}"


def _replace(path: Path, other: Path, draw: random.Random) -> str:
    """Put something else in the place of a file."""
    what = draw.choice(["nothing", "folder", "pipe", "link", "another file"])
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(other)
    elif what == "another file" and other.is_file():
        shutil.copy(other, path)
    return what


def survive(
    whole: Path, folder: Path, load: Callable[[Path, random.Random], None], *, count: int, seed: int
) -> Counter[str]:
    """Damage copies of a checkpoint and load each; anything but success or one clear error is raised.

    Returns:
        Number of loads by outcome.
    """
    outcomes = Counter[str]()
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        told = ", ".join(mutate(folder, draw) for _ in range(draw.choice([1, 1, 2])))
        try:
            load(folder, draw)
        except ModelwrightError as error:
            outcomes["refused" if 0 < len(str(error)) < 20_000 else told] += 1
        except BaseException as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {told}") from error
        else:
            outcomes["loaded"] += 1
    return outcomes
