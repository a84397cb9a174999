"""Load every file of a folder under an audit hook; run as a script, because a hook can never be removed.

Prints one JSON line for each file: what it gave, how long it took, and every event that a loader has no business with.
"""

import json
import os
import sys
import time
from pathlib import Path

from modelwright.config import ConfigError, dumps, load, preset, registered_kinds

REFUSED = ("import", "open", "exec", "compile", "code.", "ctypes.", "marshal.", "pickle.", "os.exec", "os.fork")
REFUSED += ("os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.", "shutil.", "socket.", "subprocess.")
REFUSED += ("urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "os.remove", "os.rename", "os.mkdir", "os.putenv")
events: list[str] = []
watched: list[str] = []


def hook(event: str, arguments: tuple[object, ...]) -> None:
    """Record the events during the load of a file."""
    if watched and event.startswith(REFUSED):
        target = arguments[0] if arguments else ""
        if event != "open" or _path(target) != watched[0]:
            events.append(f"{event} {target!r}")


def _path(target: object) -> str:
    """Return the path of what is opened, which may be a descriptor that is open already."""
    if isinstance(target, int):
        return str(Path(f"/proc/self/fd/{target}").readlink())
    return os.fspath(target) if isinstance(target, str | os.PathLike) else ""


def warm(folder: Path) -> None:
    """Import the modules that every load needs: the readers and the installed families."""
    registered_kinds()
    text = dumps(preset("gpt_tiny"), format="json")
    (folder / "warm.json").write_text(text)
    (folder / "warm.yaml").write_text(text)
    (folder / "warm.toml").write_text('kind = "gpt"\nwrong = "x"\n')
    for name in ("warm.json", "warm.yaml"):
        load(folder / name)
    for name, text in {"warm.toml": "", "bad.yaml": "a: [", "bad.json": "{", "bad.toml": "["}.items():
        path = folder / name
        if text:
            path.write_text(text)
        try:
            load(path)
        except ConfigError as error:
            str(error)


def attempt(path: Path) -> dict[str, object]:
    """Load one file."""
    events.clear()
    start = time.perf_counter()
    watched.append(str(path))
    try:
        load(path)
        outcome = "loaded"
    except ConfigError as error:
        outcome = "ConfigError"
        str(error)
    except BaseException as error:  # noqa: BLE001 - what is not a ConfigError is what this looks for
        outcome = f"{type(error).__name__}: {error}"[:200]
    finally:
        watched.clear()
    return {
        "file": path.name,
        "outcome": outcome,
        "seconds": time.perf_counter() - start,
        "events": sorted(set(events)),
    }


def main(folder: Path) -> None:
    """Load every file of the folder."""
    other = folder.parent / "warm"
    other.mkdir()
    warm(other)
    sys.addaudithook(hook)
    for path in sorted(folder.iterdir()):
        sys.stdout.write(json.dumps(attempt(path)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
