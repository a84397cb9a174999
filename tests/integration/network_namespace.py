"""Run a command in a network namespace of its own, and report every address on which anything in it listens.

    python -m tests.integration.network_namespace SURROUNDINGS COMMAND...

`loopback`: there is the loopback interface alone, and the host name does not resolve. `two addresses`: there is another
interface too, the host name resolves to its address, and a name server does not answer. The report is one JSON object.
"""

import contextlib
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ADDRESS = "10.99.88.77"
"""Address of the second interface."""
HOST = "host-of-the-test"
_LISTENING = "0A"


class NoNamespaceError(Exception):
    """The system gives no namespace."""


def enter() -> None:
    """Leave the network, the host name and the mounts of the system."""
    kinds = os.CLONE_NEWNET | os.CLONE_NEWUTS | os.CLONE_NEWNS
    user, group = os.getuid(), os.getgid()
    try:
        os.unshare(kinds if user == 0 else kinds | os.CLONE_NEWUSER)
    except OSError as error:
        raise NoNamespaceError(f"errno {error.errno}, {error.strerror}") from error
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    socket.sethostname(HOST)


def ip(*words: str) -> None:
    """Run iproute2's `ip`."""
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoNamespaceError("the command `ip` is missing") from error
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(f"`ip {' '.join(words)}`: {error.stderr.strip()}") from error


def set_up(surroundings: str) -> socket.socket:
    """Make the interfaces, and give the host name its address or none.

    Returns:
        The name server, which does not answer.
    """
    ip("link", "set", "lo", "up")
    hosts = "127.0.0.1 localhost\n"
    if surroundings == "two addresses":
        ip("link", "add", "second", "type", "veth", "peer", "name", "its-peer")
        for interface in ("second", "its-peer"):
            ip("link", "set", interface, "up")
        ip("addr", "add", f"{ADDRESS}/24", "dev", "second")
        hosts += f"{ADDRESS} {HOST}\n"
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    replace_file("/etc/hosts", hosts)
    replace_file("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if surroundings == "two addresses":
        server.bind(("127.0.0.1", 53))
    server.setblocking(False)
    return server


def replace_file(path: str, text: str) -> None:
    """Give a file of the system another content in this namespace."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        subprocess.run(["mount", "--bind", file.name, path], check=True)


def questions(server: socket.socket) -> int:
    """The number of packets that were sent to the name server."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while server.recv(4096):
            count += 1
    return count


def listeners() -> set[str]:
    """The addresses on which a socket of this namespace listens."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENING:
                words = bytes.fromhex(local.partition(":")[0])
                swapped = struct.pack(f">{len(words) // 4}I", *struct.unpack(f"={len(words) // 4}I", words))
                found.add(str(ipaddress.ip_address(swapped if sys.byteorder == "little" else words)))
    return found


def watched(command: list[str]) -> dict[str, object]:
    """Run a command to its end and look at the sockets all the time."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        found: set[str] = set()
        looks = 0
        while process.poll() is None:
            found |= listeners()
            looks += 1
            time.sleep(0.005)
        stderr.seek(0)
        return {"code": process.returncode, "stderr": stderr.read(), "listened": sorted(found), "looks": looks}


def main() -> None:
    _, surroundings, *command = sys.argv
    try:
        enter()
        server = set_up(surroundings)
    except NoNamespaceError as error:
        print(json.dumps({"no_namespace": str(error)}))
        return
    names = [name for _, name in socket.if_nameindex()]
    found = watched(command)
    print(json.dumps({"interfaces": names, "questions": questions(server), **found}))


if __name__ == "__main__":
    main()
