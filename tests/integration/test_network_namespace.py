"""In a network of its own, whatever it consists of, a command listens on the loopback address alone, and works."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import COMMAND, settings, tiny_file
from tests.integration.network_namespace import ADDRESS, HOST

ROOT = Path(__file__).parents[2]
LISTEN = "import socket, time; s = socket.create_server(('', 0)); time.sleep(0.5)"


def in_namespace(surroundings: str, *command: object) -> dict[str, Any]:
    """Run a command, and skip the test with the reason where the system gives no namespace."""
    helper = [sys.executable, "-m", "tests.integration.network_namespace", surroundings]
    done = subprocess.run(
        [*helper, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if "no_namespace" in found:
        pytest.skip(f"no network namespace can be made here: {found['no_namespace']}")
    return found


def check(surroundings: str, *command: object) -> None:
    """It asks no name server either: one that is configured but does not answer takes 20 seconds each time."""
    found = in_namespace(surroundings, *COMMAND, *command)
    assert (found["code"], found["stderr"]) == (0, "")
    assert ("second" in found["interfaces"]) == (surroundings == "two addresses")
    assert found["listened"] == ["127.0.0.1"]
    assert found["questions"] == 0


@pytest.mark.parametrize("surroundings", ["loopback", "two addresses"])
def test_a_run_listens_on_the_loopback_address_alone(surroundings: str, tmp_path: Path) -> None:
    """By `/proc/net/tcp` and `tcp6` of the namespace, from its start to its end."""
    words = ["--steps", 3, "--out", tmp_path / "run", *settings("parallelism.tensor=2")]
    check(surroundings, "train", tiny_file(tmp_path), *words)


def test_the_namespace_and_the_look_at_it() -> None:
    """Otherwise the test above would prove nothing: there is another address, and who listens on it is seen."""
    resolve = f"import socket; assert socket.gethostname() == {HOST!r}; print(socket.gethostbyname({HOST!r}))"
    found = in_namespace("two addresses", sys.executable, "-c", f"{resolve}; {LISTEN}")
    assert (found["code"], found["listened"]) == (0, ["0.0.0.0"])
    listen = LISTEN.replace("''", repr(ADDRESS))
    assert in_namespace("two addresses", sys.executable, "-c", listen)["listened"] == [ADDRESS]
    ask = "import socket; socket.getnameinfo(('::ffff:127.0.0.1', 1), 0)"
    found = in_namespace("two addresses", "env", "RES_OPTIONS=timeout:1 attempts:1", sys.executable, "-c", ask)
    assert found["questions"] > 0
    found = in_namespace("loopback", sys.executable, "-c", resolve)
    assert "gaierror" in found["stderr"]
    assert socket.gethostname() != HOST
