"""Versions: older data runs through a chain of pure functions, newer data is refused, nothing else can happen."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest

from modelwright.config import (
    ConfigError,
    ModelConfig,
    config_class,
    dumps,
    load,
    loads,
    migrate,
    migration,
    missing_migrations,
    register_config,
)
from modelwright.config.strict import migrations
from tests.messages import facts


@register_config
@config_class
class VersionedConfig(ModelConfig):
    """A family in its third version."""

    kind: ClassVar[str] = "versioned"
    version: ClassVar[int] = 3

    width: int = 1
    """`size` in version 1, half of it in version 2."""


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_MIGRATIONS", dict(migrations._MIGRATIONS))
    migration("versioned", 1)(rename)
    migration("versioned", 2)(double)


def rename(data: dict[str, Any]) -> dict[str, Any]:
    return {"half": data["size"], **{key: value for key, value in data.items() if key != "size"}}


def double(data: dict[str, Any]) -> dict[str, Any]:
    data["width"] = 2 * data.pop("half")
    return data


def facts_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, source="f")
    return facts(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "kind: versioned\nsize: 4\n",
        "kind: versioned\nversion: 1\nsize: 4\n",
        "kind: versioned\nversion: 2\nhalf: 4\n",
        "kind: versioned\nversion: 3\nwidth: 8\n",
    ],
)
def test_every_version_is_read(text: str) -> None:
    assert loads(text) == VersionedConfig(width=8)
    run = "modelwright: 1\nmodel:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    assert loads(run).model == VersionedConfig(width=8)  # type: ignore[union-attr]


def test_what_is_written_says_its_version() -> None:
    assert dumps(VersionedConfig(width=8)) == "kind: versioned\nversion: 3\nwidth: 8\n"
    assert VersionedConfig(width=8).as_dict()["version"] == 3


def test_the_data_of_the_caller_stays_as_it_is() -> None:
    data = {"version": 2, "half": 4, "engine": {"a": [1]}}
    before = copy.deepcopy(data)
    assert VersionedConfig.from_dict(data).width == 8
    assert data == before


def test_a_newer_version_is_refused_with_both_numbers() -> None:
    assert facts_of("kind: versioned\nversion: 4\n") == "wrong_version: f:2:10 `version` `versioned` 4 3"


@pytest.mark.parametrize("given", ["0", "-1", "true", "1.0", '"1"', "null", "[1]"])
def test_what_is_no_version(given: str) -> None:
    expected = facts_of(f"kind: versioned\nversion: {given}\n")
    assert expected.startswith("wrong_version: f:2:10 `version` `versioned` 1 3")


def test_data_that_is_not_of_its_version() -> None:
    assert facts_of("kind: versioned\nsise: 4\n") == "wrong_version: f:1:1 `version` `versioned` 1 `KeyError: 'size'`"
    assert facts_of("kind: versioned\nversion: 2\nhalf: {a: b}\n").startswith(
        "wrong_version: f:2:10 `version` `versioned` 2 `TypeError"
    )


def test_what_is_wrong_after_the_migration_is_said_in_the_words_of_now() -> None:
    assert facts_of('kind: versioned\nversion: 2\nhalf: "ab"\n') == 'wrong_type: f:1:1 `width` "abab"'


def test_a_missing_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(migrations._MIGRATIONS, ("versioned", 2))
    assert missing_migrations("versioned", 3) == [2]
    assert (
        facts_of("kind: versioned\nsize: 4\n")
        == 'wrong_version: f:1:1 `version` `versioned` 2 3 `@migration("versioned", 2)`'
    )


def test_a_migration_returns_plain_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(migrations._MIGRATIONS, ("versioned", 2), lambda data: {"width": object()})
    assert facts_of("kind: versioned\nversion: 2\nhalf: 4\n") == "wrong_version: f:2:10 `version` `versioned` 2"


def test_a_step_has_one_owner() -> None:
    migration("versioned", 1)(rename)
    with pytest.raises(ConfigError) as caught:
        migration("versioned", 1)(double)
    assert facts(caught.value) == f"`versioned` 1 `{__name__}.rename` `{__name__}.double`"
    with pytest.raises(ConfigError) as caught:
        migration("versioned", 0)
    assert facts(caught.value) == "`from_version` 1 0 `versioned`"


def test_migrate_writes_the_same_in_new_words(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("# mine\nmodelwright: 1\nmodel: {kind: versioned, size: 4}\ntrain: {steps: 5}\n")
    before = load(path)
    text = migrate(path)
    assert text == "modelwright: 1\nmodel:\n  kind: versioned\n  version: 3\n  width: 8\ntrain:\n  steps: 5\n"
    assert path.read_text().startswith("# mine")
    assert migrate(path, write=True) == path.read_text() == text
    assert load(path) == before


def test_migrate_does_not_write_toml(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text('kind = "versioned"\nsize = 4\n')
    assert migrate(path) == "kind: versioned\nversion: 3\nwidth: 8\n"
    with pytest.raises(ConfigError, match=r"`old\.toml`.* `\.yaml`"):
        migrate(path, write=True)


def test_a_run_has_versions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file format itself is at version 1; this is what happens when it moves on."""
    monkeypatch.setattr("modelwright.config.run.run.FILE_VERSION", 2)
    text = "modelwright: 1\nmodel: {kind: versioned, version: 3}\ntrainer: {steps: 5}\n"
    assert facts_of(text).startswith("wrong_version: f:1:14 `modelwright` `run` 1 2")

    @migration("run", 1)
    def trainer_is_train(data: dict[str, Any]) -> dict[str, Any]:
        return {"train" if key == "trainer" else key: value for key, value in data.items()}

    assert loads(text).train.steps == 5  # type: ignore[union-attr]


def test_no_family_is_called_run() -> None:
    @config_class
    class RunFamily(ModelConfig):
        kind: ClassVar[str] = "run"

    with pytest.raises(
        ConfigError,
        match=r"`RunFamily` .*`run`",
    ):
        register_config(RunFamily)
