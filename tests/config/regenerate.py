"""Write the generated files: the schema locks, the reference in `docs/config/`, and two tables of upstream's fields.

    uv run python -m tests.config.regenerate

A lock is not written if its fields changed without a new version. The message says what to do first.
"""

import json
import sys

from tests.config import reference, schema_lock, unread_fields, upstream_defaults


def main() -> int:
    """Write all files. Return 1 if a lock is refused."""
    refused = [message for kind in schema_lock.kinds() if (message := _lock(kind))]
    reference.FOLDER.mkdir(exist_ok=True)
    for name, text in reference.pages().items():
        (reference.FOLDER / name).write_text(text, encoding="utf-8")
    if "--no-engine" not in sys.argv:
        upstream_defaults.PATH.write_text(upstream_defaults.text(), encoding="utf-8")
        unread_fields.PATH.write_text(unread_fields.text(), encoding="utf-8")
    for message in refused:
        sys.stderr.write(message + "\n")
    return 1 if refused else 0


def _lock(kind: str) -> str:
    path, new = schema_lock.FOLDER / f"{kind}.json", schema_lock.locked(kind)
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if schema_lock.changes(old, new)[0] and old["version"] == new["version"]:
            return schema_lock.verdict(kind, old, new)
    path.write_text(schema_lock.text(new), encoding="utf-8")
    return ""


if __name__ == "__main__":
    sys.exit(main())
