"""Every package has the same shape and declares only what lies below it."""

import pytest
from packaging.requirements import Requirement

from tests.policies.repository import LAYERS, PACKAGES, ROOT, SETTINGS, Package, git

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def siblings(package: Package) -> list[Requirement]:
    requirements = [Requirement(line) for line in package.requirements]
    return [requirement for requirement in requirements if requirement.name.startswith("modelwright-")]


@each_package
def test_the_namespace_has_no_module_of_its_own(package: Package):
    """`modelwright` is a namespace (PEP 420): one `__init__.py` in one portion hides all the other packages."""
    assert sorted(path.name for path in package.portion.iterdir() if path.name != "__pycache__") == [package.name]


@each_package
def test_the_package_is_typed(package: Package):
    """Without `py.typed` a type checker ignores every annotation of an installed package."""
    assert (package.door.parent / "py.typed").is_file()


@each_package
def test_the_package_describes_itself(package: Package):
    """A package is found and judged by its page in an index: what it is, under which license, with which text."""
    assert package.project["name"] == f"modelwright-{package.name}"
    assert package.project["description"].endswith(".")
    assert package.project["license"] == "Apache-2.0"
    readme = (package.folder / package.project["readme"]).read_text(encoding="utf-8")
    assert len(readme.split()) >= 8, f"{package.name}: the README says too little"


@each_package
def test_siblings_are_declared_as_ranges(package: Package):
    """A pin with `==` lets nobody upgrade one package alone; no bound at all lets an incompatible one in."""
    for requirement in siblings(package):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, f"{package.name}: {requirement} is not a range"


@each_package
def test_declared_dependencies_point_down_the_layers(package: Package):
    """What is installed follows the same direction as what is imported, or a slice would pull in the whole."""
    for requirement in siblings(package):
        name = requirement.name.removeprefix("modelwright-")
        assert LEVELS[name] < LEVELS[package.name], f"{package.name} declares {name}, which is not below it"


@each_package
def test_mypy_knows_the_package(package: Package):
    """mypy takes no pattern in `mypy_path`; a package that is missing there is checked under a wrong name."""
    assert f"packages/{package.name}/src" in SETTINGS["mypy"]["mypy_path"]


@each_package
def test_no_member_is_probed(package: Package):
    """`hasattr` is true for a field that is set to None, and hides a member that nobody declared."""
    assert git("grep", "--cached", "-nE", r"\bhasattr\(", f"packages/{package.name}/src").splitlines() == []


def test_only_packages_are_in_packages():
    """A folder without a `pyproject.toml` is seen by no check."""
    assert sorted(path.name for path in (ROOT / "packages").iterdir()) == [package.name for package in PACKAGES]
