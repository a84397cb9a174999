"""What the policies read: the packages, their declarations, and what git would commit."""

import subprocess
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Package:
    """One folder of `packages/`."""

    folder: Path

    @property
    def name(self) -> str:
        """The last part of the import name, which is the name of the folder too."""
        return self.folder.name

    @property
    def portion(self) -> Path:
        """The folder of the namespace `modelwright`; no package of its own."""
        return self.folder / "src" / "modelwright"

    @property
    def door(self) -> Path:
        """The one public module of the package."""
        return self.portion / self.name / "__init__.py"

    @cached_property
    def project(self) -> dict[str, Any]:
        """The `[project]` table."""
        return read_toml(self.folder / "pyproject.toml")["project"]

    @property
    def requirements(self) -> list[str]:
        """Every requirement that an installed package can have, extras included."""
        extras = self.project.get("optional-dependencies", {})
        return [*self.project["dependencies"], *(line for lines in extras.values() for line in lines)]


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def git(*command: str) -> str:
    """Return what a git command prints, run at the root of the repository."""
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode > 1:  # `git grep` says with 1 that it found nothing
        raise RuntimeError(f"`git {' '.join(command)}` failed: {done.stderr}")
    return done.stdout


PACKAGES = [Package(path.parent) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]
SETTINGS = read_toml(ROOT / "pyproject.toml")["tool"]
LAYERS = [
    [name.strip() for name in line.split("|")] for line in reversed(SETTINGS["importlinter"]["contracts"][0]["layers"])
]
"""The layers of the import-linter contract, lowest first; packages of one line do not know each other."""
