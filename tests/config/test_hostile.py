"""Loading an untrusted file imports nothing, opens no other file, runs nothing, and raises a `ConfigError`."""

import contextlib
import copy
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import ConfigError, RunConfig, dumps, fingerprint, loads, preset
from tests.config import hostile

SCRIPT = Path(__file__).with_name("load_hostile.py")


def attempts(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=True, cwd=folder.parent
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile") / "files"
    folder.mkdir()
    (folder.parent / "hostile_part.py").write_text("raise SystemExit('imported')\n")
    for name, content in hostile.files().items():
        (folder / name).write_bytes(content)
    (folder / "folder.yaml").mkdir()
    return attempts(folder)


def told(found: list[dict[str, Any]]) -> list[str]:
    names = hostile.names()
    return [f"{names.get(one['file'], one['file'])}: {one}" for one in found]


def test_there_are_many(loaded: list[dict[str, Any]]) -> None:
    assert len(loaded) == len(hostile.files()) + 1 >= 60


def test_each_is_refused_as_a_config_error(loaded: list[dict[str, Any]]) -> None:
    assert told([one for one in loaded if one["outcome"] != "ConfigError"]) == []


def test_nothing_happens_beyond_reading_the_file(loaded: list[dict[str, Any]]) -> None:
    assert told([one for one in loaded if one["events"]]) == []


def test_none_takes_long(loaded: list[dict[str, Any]]) -> None:
    """The worst case is a file just below the size limit: a parser with quadratic time needs minutes for it."""
    assert told([one for one in loaded if one["seconds"] > 60]) == []


def test_the_hook_sees_what_it_should(tmp_path: Path) -> None:
    """The hook is tested too: it detects a family that imports something when it is loaded."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(SCRIPT.parent)!r})
import load_hostile
from modelwright.config import ModelConfig, config_class, register_config

@register_config
@config_class
class LoudConfig(ModelConfig):
    kind = "loud"
    def problems(self):
        import xml.dom.minidom
        import subprocess
        open({str(tmp_path / "x")!r}, "w").close()
        exec("1")
        return ()

path = Path({str(tmp_path / "loud.yaml")!r})
path.write_text("kind: loud")
sys.addaudithook(load_hostile.hook)
found = load_hostile.attempt(path)
print(found["outcome"], sorted({{event.split()[0] for event in found["events"]}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "loaded ['compile', 'exec', 'import', 'marshal.loads', 'open']\n"


def numbers(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every number in plain data."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from numbers(value, (*path, key))
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield path


RUN = json.loads(dumps(RunConfig(model=preset("llama31_405b")), format="json", full=True))


@pytest.mark.parametrize(
    "number", [2**63, 10**22 + 7, 10**400, -(10**400)], ids=["2^63", "10^22+7", "10^400", "-10^400"]
)
@pytest.mark.parametrize("path", list(numbers(RUN)), ids=".".join)
def test_a_huge_number_in_any_field(path: tuple[str, ...], number: int) -> None:
    """Rules compute with the number before it is refused: there must be no overflow, and no loop of that length."""
    data = copy.deepcopy(RUN)
    *holders, last = path
    functools.reduce(dict.__getitem__, holders, data)[last] = number
    start = time.process_time()
    with contextlib.suppress(ConfigError):
        assert fingerprint(loads(json.dumps(data), format="json"))
    assert time.process_time() - start < 5
