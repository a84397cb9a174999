"""`config show` and `config presets`: what they print can be read back."""

import json
from pathlib import Path

import pytest

from packages.cli.tests.command import modelwright


def show(folder: Path, *words: str) -> str:
    done = modelwright("config", "show", *words, "--import", "my_parts", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_file_comes_back(folder: Path) -> None:
    text = (folder / "bytes.yaml").read_text()
    assert show(folder, "bytes.yaml") == text
    (folder / "again.yaml").write_text(show(folder, "bytes.yaml", "--full"))
    assert show(folder, "again.yaml") == text


def test_a_preset_is_a_file_to_start_from(folder: Path) -> None:
    text = show(folder, "--preset", "bytes_small")
    (folder / "preset.yaml").write_text(text)
    assert text.startswith("modelwright: 1\n")
    assert show(folder, "preset.yaml") == text


def test_overrides_are_applied(folder: Path) -> None:
    text = show(folder, "bytes.yaml", "--set", "train.steps=7", "--set", "model.seq_length=64", "--format", "json")
    shown = json.loads(text)
    assert (shown["train"], shown["model"]["seq_length"]) == ({"steps": 7}, 64)


def test_json_and_long_lines_come_back(folder: Path) -> None:
    name = "x" * 300
    (folder / "bytes.json").write_text(
        show(folder, "bytes.yaml", "--set", f"name={name}", "--format", "json", "--full")
    )
    shown = json.loads((folder / "bytes.json").read_text())
    assert (shown["name"], shown["modelwright"]) == (name, 1)
    assert show(folder, "bytes.json").splitlines()[1] == f"name: {name}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of `FILE` and `--preset` must be given; `modelwright config presets` lists the presets."),
        (
            ["bytes.yaml", "--preset", "bytes_small"],
            "one of `FILE` and `--preset` must be given; `modelwright config presets` lists the presets.",
        ),
        (["bytes.yaml", "--format", "toml"], "`--format` must be yaml or json, but is 'toml'."),
    ],
)
def test_bad_options(words: list[str], message: str, folder: Path) -> None:
    done = modelwright("config", "show", *words, "--import", "my_parts", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_an_unknown_preset(folder: Path) -> None:
    done = modelwright("config", "show", "--preset", "bytes_smal", "--import", "my_parts", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the preset must be `bytes_small`")
    assert done.stderr.endswith("but `bytes_smal` was given; did you mean `bytes_small`?\n")
