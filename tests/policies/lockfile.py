"""The index-neutral form of `uv.lock`.

A lock file that uv writes names, for every file of every package, the place it was downloaded from. Each site
resolves through its own index, so the form that is committed keeps names, versions, dependencies and hashes and
replaces every place by the host `index.invalid`. It also has no `[manifest]` table: uv takes such a lock for
incomplete, resolves again through the site's own index with the locked versions as its preference, and writes the
full file back.

Run as a script, this rewrites the `uv.lock` of the current directory and exits with 1 if that changed it: the
pre-commit hook.
"""

import re
import sys
import tomllib
from pathlib import Path

_INDEX = "https://index.invalid"
_MANIFEST = re.compile(r"\[manifest\]\n(?:.+\n)*\n")
_REGISTRY = re.compile(r'\bregistry = "[^"]*"')
_FILE = re.compile(r'\burl = "[^"]*/([^"/]+)"')
# What only some indexes tell about a file, and what is no part of what is locked.
_INDEX_EXTRAS = re.compile(r', (?:size = \d+|upload-time = "[^"]*")')


def neutralize(text: str) -> str:
    """Return the text of a lock file without the places it was resolved from; neutral text comes back unchanged."""
    text = _MANIFEST.sub("", text)
    text = _REGISTRY.sub(f'registry = "{_INDEX}/simple"', text)
    text = _FILE.sub(rf'url = "{_INDEX}/\1"', text)
    return _INDEX_EXTRAS.sub("", text)


def differences(committed: str, resolved: str) -> list[str]:
    """Return one line for each package whose version, hashes or dependencies differ between two lock files."""
    ours, theirs = _packages(committed), _packages(resolved)
    lines = [f"{name}: committed, but resolving does not need it" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"{name}: needed, but not in the committed lock" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        parts = [part for part in ours[name] if ours[name][part] != theirs[name][part]]
        if parts:
            lines.append(f"{name}: different {', '.join(parts)}")
    return lines


def _packages(text: str) -> dict[str, dict[str, object]]:
    """Return what is locked of each package, by name and version, in the words of `differences`."""
    locked: dict[str, dict[str, object]] = {}
    for package in tomllib.loads(neutralize(text))["package"]:
        files = [package.get("sdist", {}), *package.get("wheels", [])]
        locked[f"{package['name']} {package.get('version', '')}".strip()] = {
            "hashes": {file["hash"] for file in files if "hash" in file},
            "dependencies": [package.get(key) for key in ("dependencies", "optional-dependencies", "dev-dependencies")],
        }
    return locked


def main() -> int:
    """Rewrite `uv.lock` in its neutral form and return 1 if it was not in it, as pre-commit hooks do."""
    path = Path("uv.lock")
    before = path.read_text(encoding="utf-8")
    after = neutralize(before)
    path.write_text(after, encoding="utf-8")
    return int(after != before)


if __name__ == "__main__":
    sys.exit(main())
