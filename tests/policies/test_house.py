"""The arrangement of the files: small folders, one meaning for each file name, and one door for each package."""

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policies.repository import PACKAGES, Package

LARGEST_FOLDER = 12
FAMILY_FILES = frozenset({"config", "builder", "presets", "hf", "from_megatron"})
"""Files that every family has, so that the second family needs no learning; other packages may import them."""

SAME_TOPIC = {
    "activations": "names in a config, and the functions of those names",
    "dtypes": "the section of a run file, and its effect on a model",
    "latent_attention": "the Protocols of the slots, and the parts that fill them",
    "lr_schedule": "the section of a run file, and the engine's schedule of it",
    "norm": "the Protocols of the slots, and the parts that fill them",
    "residual": "the Protocols of the slots, and the parts that fill them",
    "rotary": "the Protocols of the slots, and the parts that fill them",
}
"""File names that mean the same topic in several packages, with what each side has of it."""

COMMANDS = "cli/commands"
"""Folder with one file for each command, named as the command."""

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)


def modules(package: Package) -> list[Path]:
    """Return the files of a package except the doors of its folders."""
    return sorted(path for path in package.portion.rglob("*.py") if path.name != "__init__.py")


@each_package
def test_no_folder_has_more_modules_than_a_reader_takes_in(package: Package):
    """A folder of thirty files has no topics, and a file in it is found by search alone."""
    sizes: dict[Path, int] = defaultdict(int)
    for path in modules(package):
        sizes[path.parent] += 1
    assert {str(folder): size for folder, size in sizes.items() if size > LARGEST_FOLDER} == {}


def test_a_file_name_has_one_meaning():
    """Whoever looks for a file by its name should not find another one of that name first."""
    places: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in modules(package):
            folder = path.parent.relative_to(package.portion).as_posix()
            if folder != COMMANDS and path.stem not in FAMILY_FILES | set(SAME_TOPIC):
                places[path.stem].append(f"{folder}/{path.name}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@each_package
def test_no_module_has_the_name_of_a_public_name(package: Package):
    """Importing `modelwright.x.name` would replace the public `name` of the package by the module."""
    door = importlib.import_module(f"modelwright.{package.name}")
    below = {path.stem if path.suffix == ".py" else path.name for path in package.door.parent.iterdir()}
    assert sorted(below & set(door.__all__)) == []


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of this repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.startswith("modelwright."):
                yield module
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.startswith("modelwright."))


@each_package
def test_other_packages_are_imported_through_their_doors(package: Package):
    """What is behind a door can be moved without notice; what is on it cannot."""
    found: list[str] = []
    for path in package.portion.rglob("*.py"):
        for module in imported(path):
            _, owner, *rest = module.split(".")
            family_file = len(rest) == 1 and rest[0] in FAMILY_FILES
            if owner != package.name and rest and not family_file:
                found.append(f"{path.relative_to(package.portion)}: {module}")
    assert found == []
