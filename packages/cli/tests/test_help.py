"""Help and usage errors come without torch and the engine."""

import json
import subprocess
import sys

import pytest

from packages.cli.tests.command import modelwright

COMMANDS = ["", "train", "build", "verify", "generate", "config", "config show", "config presets", "doctor"]
LOADED = (
    "import sys, atexit, json; "
    "atexit.register(lambda: sys.stderr.write(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))); "
    "sys.argv = ['modelwright', *sys.argv[1:]]; from modelwright.cli import main; main()"
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_loads_nothing_heavy(command: str, option: str) -> None:
    words = [sys.executable, "-c", LOADED, *command.split(), option]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not {"torch", "megatron", "numpy", "matplotlib", "ruamel"} & set(json.loads(done.stderr))
    assert f"Usage: modelwright {command}".rstrip() in done.stdout
    assert option != "--help" or "--help" in done.stdout


@pytest.mark.parametrize("command", ["train", "build", "verify", "config show", "config presets", "doctor"])
def test_every_command_can_show_tracebacks(command: str) -> None:
    assert "--debug" in modelwright(*command.split(), "--help").stdout


def test_help_names_the_commands() -> None:
    shown = modelwright("--help").stdout
    for command in ("train", "build", "verify", "generate", "config", "doctor"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "x.yaml", "--step", "3"], "No such option"),
        (["trian"], "No such command"),
        (["train", "x.yaml", "--steps", "many"], "Invalid value for '--steps'"),
        (["build"], "Missing argument"),
        (["generate", "x", "--tokens", "0"], "Invalid value for '--tokens'"),
        (["generate", "x", "--top-p", "1.5"], "Invalid value for '--top-p'"),
        (["generate", "x", "--top-p", "0"], "Invalid value for '--top-p'"),
    ],
)
def test_a_usage_error(words: list[str], said: str) -> None:
    done = modelwright(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
