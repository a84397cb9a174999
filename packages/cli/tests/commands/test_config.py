"""`modelwright config`: what each command prints, and how it exits."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from modelwright.cli.app import app
from modelwright.config import Count, ModelConfig, config_class, fingerprint, load, migration, register_config


@register_config
@config_class
class CliToyConfig(ModelConfig):
    """A family of the tests, in its second version."""

    kind: ClassVar[str] = "cli-toy"
    version: ClassVar[int] = 2

    width: Count = 8
    """Called `size` in version 1."""


@migration("cli-toy", 1)
def _rename(data: dict[str, object]) -> dict[str, object]:
    return {"width" if key == "size" else key: value for key, value in data.items()}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text("# mine\nmodelwright: 1\nmodel: {kind: cli-toy, size: 16}\n")
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.yaml"
    path.write_text("modelwright: 1\nstack: ':smile: [b]x[/b]'\nmodel: {kind: cli-toy, version: 2, width: 32}\n")
    return path


def test_show_prints_what_can_be_read_again(new: Path, tmp_path: Path) -> None:
    for form in ("yaml", "json"):
        path = tmp_path / f"again.{form}"
        path.write_text(run("show", new, "--full", "--format", form).output)
        assert load(path) == load(new)
    assert run("show", new, "--format", "toml").exit_code == 2
    assert "width: 3" in run("show", new, "--set", "model.width=3").output
    assert run("show").exit_code == 2


def test_validate(old: Path, new: Path, tmp_path: Path) -> None:
    done = run("validate", old, new)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"{path}: valid, a run of a `cli-toy`, fingerprint {fingerprint(load(path))}" for path in (old, new)
    ]
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text("kind: cli-toy\nversion: 2\nwidht: 3\n")
    worse.write_text("kind: cli-toy\nversion: 3\n")
    done = run("validate", bad, new, worse)
    assert done.exit_code == 2
    assert f"{bad}:3:1: `widht` is not a field of `cli-toy`; did you mean `width`?" in done.stderr
    assert f"{worse}:2:10: `version` of `cli-toy` is 3 in this file, but version 2 is installed" in done.stderr
    assert done.stdout.startswith(f"{new}: valid")


def test_diff(old: Path, new: Path) -> None:
    assert run("diff", old, new).output.splitlines() == [
        "model.width: 16 → 32",
        'stack: null (default) → ":smile: [b]x[/b]"',
    ]
    assert run("diff", old, old).output == "no differences\n"


def test_schema() -> None:
    schema = json.loads(run("schema", "cli-toy").output)
    assert schema["properties"]["width"] == {
        "type": "integer", "minimum": 1, "default": 8, "description": "Called `size` in version 1.",
    }  # fmt: skip
    assert schema["required"] == ["kind", "version"]
    assert json.loads(run("schema").output)["title"] == "modelwright run"
    assert run("schema", "cli-toi").exit_code == 2


def test_migrate(old: Path) -> None:
    expected = "modelwright: 1\nmodel:\n  kind: cli-toy\n  version: 2\n  width: 16\n"
    before = load(old)
    assert run("migrate", old).output == expected
    assert old.read_text().startswith("# mine")
    assert run("migrate", old, "--write").output == f"{old}: rewritten\n"
    assert old.read_text() == expected
    assert load(old) == before


def test_convert_refuses_what_is_not_upstreams(new: Path) -> None:
    done = run("convert", new)
    assert done.exit_code == 2
    assert "`_target_` must be " in done.stderr
    assert "but `None` was given" in done.stderr
