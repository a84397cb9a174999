"""Promises of the package as a whole."""

import subprocess
import sys
from pathlib import Path

import modelwright.protocols as package

SOURCE = Path(str(package.__file__)).parent


def test_importing_it_loads_no_third_party_module() -> None:
    """A project that only writes a part depends on this package alone, and starts at once."""
    code = (
        "import sys; before = set(sys.modules); import modelwright.protocols; "
        "print('\\n'.join(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "modelwright" in loaded
    assert set(loaded) - {"modelwright"} <= sys.stdlib_module_names


def test_the_door_is_sorted_and_whole() -> None:
    """Whatever is public in a private file is exported, unless it serves only other private files."""
    assert package.__all__ == sorted(package.__all__)
    inner = {"_annotations", "_signatures"}
    for file in SOURCE.glob("_[a-z]*.py"):
        if file.stem in inner:
            continue
        module = sys.modules[f"modelwright.protocols.{file.stem}"]
        own = {n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        assert {name for name in own if not name.startswith("_")} <= set(package.__all__)


def test_every_interface_has_a_builder() -> None:
    """One of the two without the other is not a slot; layers share one Interface as their base."""
    names = set(package.__all__)
    interfaces = {name.removesuffix("Interface") for name in names if name.endswith("Interface")}
    builders = {name.removesuffix("Builder") for name in names if name.endswith("Builder")}
    assert interfaces - {"TransformerLayer"} == builders


def test_forward_and_call_agree() -> None:
    """torch types the call of a module as anything, so an Interface says the same thing twice."""
    for name in package.__all__:
        interface = getattr(package, name)
        if name.endswith("Interface") and "forward" in vars(interface):
            assert vars(interface)["forward"].__annotations__ == vars(interface)["__call__"].__annotations__
            assert vars(interface)["forward"].__kwdefaults__ == vars(interface)["__call__"].__kwdefaults__
