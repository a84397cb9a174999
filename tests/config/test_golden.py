"""Old files stay readable: `golden/KIND-VERSION-NAME` loads, and becomes what stands in `expected/`.

When a family gets a new version, the files stay as they are; what they must become is edited with the migration. A file
without an expectation writes it: look at it before you commit it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from modelwright.config import (
    Config,
    Fraction,
    ModelConfig,
    OneOf,
    config_class,
    dumps,
    fingerprint,
    load,
    loads,
    migrate,
    migration,
    missing_migrations,
    register_config,
)
from tests.config.schema_lock import kinds, version_of

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


@config_class
class Dropouts(Config):
    """The section that replaces one field in version 3."""

    kind: ClassVar[str] = "dropouts"

    attention: Fraction = 0.0
    """Dropout of the weights."""

    hidden: Fraction = 0.0
    """Dropout of the residual stream."""


@register_config
@config_class
class GoldenToyConfig(ModelConfig):
    """A family in version 3."""

    kind: ClassVar[str] = "golden-toy"
    version: ClassVar[int] = 3

    width: int
    """Called `size` in version 1."""

    dropouts: Annotated[Dropouts, OneOf(Dropouts)] = Dropouts()
    """One number, `dropout`, up to version 2."""


@migration("golden-toy", 1)
def size_is_width(data: dict[str, Any]) -> dict[str, Any]:
    """Rename."""
    return {"width" if key == "size" else key: value for key, value in data.items()}


@migration("golden-toy", 2)
def one_dropout_is_two(data: dict[str, Any]) -> dict[str, Any]:
    """Split one field into two."""
    rest = {key: value for key, value in data.items() if key != "dropout"}
    both = {"kind": "dropouts", "attention": data.get("dropout", 0.0), "hidden": data.get("dropout", 0.0)}
    return {**rest, "dropouts": both}


@pytest.mark.parametrize("name", FILES)
def test_an_old_file_becomes_what_it_must(name: str) -> None:
    made = json.loads(dumps(load(FOLDER / name), format="json", full=True))
    expected = FOLDER / "expected" / f"{name}.json"
    if not expected.exists():
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        pytest.fail(f"{expected.name} was not there; it is now: look at it, and commit it if it is right")
    wanted = json.loads(expected.read_text())
    # A section may have got fields with a default since; what the file said must still be said.
    assert _covered(wanted, made), f"{name} became {made}"


FINGERPRINTS: dict[str, str] = json.loads((Path(__file__).parent / "fingerprints.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_an_old_file_keeps_its_fingerprint(name: str) -> None:
    """Mark a field that a class gets without a new version as `AddedLater`, or every config has another fingerprint."""
    assert fingerprint(load(FOLDER / name)) == FINGERPRINTS[name]


@pytest.mark.parametrize("name", FILES)
def test_migrating_writes_what_loads_the_same(name: str) -> None:
    text = migrate(FOLDER / name)
    form = "json" if name.endswith(".json") else "yaml"
    assert loads(text, format=form) == load(FOLDER / name)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*kinds(), "golden-toy"])
def test_every_version_has_a_golden_file_and_a_migration(kind: str) -> None:
    version = 3 if kind == "golden-toy" else version_of(kind)
    assert missing_migrations(kind, version) == []
    found = {int(name.removeprefix(f"{kind}-").split("-")[0]) for name in FILES if name.startswith(f"{kind}-")}
    assert found == set(range(1, version + 1)), f"put a file of each version of `{kind}` into tests/config/golden/"


def test_the_chain() -> None:
    old = loads("kind: golden-toy\nsize: 16\ndropout: 0.1\n")
    assert old == GoldenToyConfig(width=16, dropouts=Dropouts(attention=0.1, hidden=0.1))
    assert migrate(FOLDER / "golden-toy-1-renamed.yaml") == (
        "kind: golden-toy\nversion: 3\nwidth: 16\ndropouts:\n  kind: dropouts\n  attention: 0.1\n  hidden: 0.1\n"
    )


def _covered(wanted: Any, made: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(made, dict):
        return all(key in made and _covered(value, made[key]) for key, value in wanted.items())
    return bool(wanted == made)
