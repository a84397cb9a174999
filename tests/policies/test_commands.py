"""The commands that people are told to run, and those that continuous integration runs, are the same."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest
from nox import registry

from tests.policies.repository import PACKAGES, ROOT, git

DEFAULT_SESSIONS = {"docs", "lint", "types", "layers", "lock_check", "build", "tests", "integration", "lowest"}


@pytest.fixture(scope="module")
def default_sessions() -> list[dict[str, str]]:
    command = [sys.executable, "-m", "nox", "--list", "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def readme_commands() -> list[str]:
    """Return the lines of the first `sh` block of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("```sh\n", 1)[1].split("```", 1)[0].splitlines()


def test_the_readme_needs_two_commands():
    """All the set-up on a fresh machine: one line that installs and shows something, one that runs every check."""
    first, second = readme_commands()
    assert first.startswith("pip install uv && uv run modelwright ")
    assert second == "uv run nox"


def test_ci_runs_the_commands_of_the_readme():
    """A set-up that only CI uses proves nothing about the one in the README, so CI reads it there."""
    shown = subprocess.run(["bash", ".ci/run", "--print"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, second = readme_commands()
    assert shown.splitlines() == [first.split(" && ")[0], second]
    assert "nox" not in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_named_in_the_readme_exist():
    """The first thing that a reader tries is what stands in the README."""
    files = [word for command in readme_commands() for word in command.split() if word.endswith((".yaml", ".py"))]
    assert files
    assert git("ls-files", *files).split() == files


def test_sessions_explain_themselves():
    """`nox --list` is the list of what can be checked; a session without a docstring is not explained there."""
    importlib.import_module("noxfile")
    for name, session in registry.get().items():
        text = inspect.getdoc(session.func) or ""
        assert text.endswith("."), f"the session {name} has no docstring"
        assert "\n" not in text, f"the docstring of the session {name} has more than one line"


def test_nothing_is_left_out_by_default(default_sessions: list[dict[str, str]]):
    """What plain `nox` does not run, nobody runs."""
    assert {session["name"] for session in default_sessions} == DEFAULT_SESSIONS


def test_every_package_is_tested_alone(default_sessions: list[dict[str, str]]):
    """Beside its siblings, a package would not miss a dependency that it forgot to declare."""
    alone = {session["session"] for session in default_sessions if session["name"] == "tests"}
    assert alone == {f"tests({package.name})" for package in PACKAGES}
