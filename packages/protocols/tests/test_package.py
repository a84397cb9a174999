"""Promises of the package as a whole."""

import importlib
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


def test_the_door_is_whole() -> None:
    """Whatever is public in a private file is exported, unless it serves only other private files."""
    inner = {"_adapted", "_annotations", "_signatures"}
    for file in SOURCE.glob("_[a-z]*.py"):
        if file.stem in inner:
            continue
        module = importlib.import_module(f"modelwright.protocols.{file.stem}")
        own = {n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        assert {name for name in own if not name.startswith("_")} <= set(package.__all__)


# A slot that holds the function itself: nothing builds it.
FUNCTIONS = {"CausalConvolution", "FusedScan", "GatedDeltaRule", "Loss", "Scan"}
# The same, of our own mixer: the engine's knows its functions by name.
OWN = {"CausalConvolutionStep", "ScanStep"}
# Several slots share what is built, or a part of it.
SHARED = {"GroupedLinear", "TransformerLayer"}


def product(builder: str) -> str:
    """The name of the Interface that a Builder returns."""
    for base in getattr(package, builder).__mro__:
        if "__call__" in vars(base):
            return str(vars(base)["__call__"].__annotations__["return"])
    raise AssertionError(builder)


def test_every_interface_has_a_builder() -> None:
    """One of the two without the other is not a slot."""
    names = set(package.__all__)
    interfaces = {name for name in names if name.endswith("Interface")}
    products = {product(name) for name in names if name.endswith("Builder")}
    assert products <= interfaces
    assert interfaces - products == {f"{name}Interface" for name in FUNCTIONS | OWN | SHARED}


def test_every_protocol_of_a_slot_is_in_the_list_of_slots() -> None:
    """A Builder that no slot takes would be a promise about nothing."""
    listed = {slot.protocol.__name__ for slot in package.SLOTS}
    builders = {name for name in package.__all__ if name.endswith("Builder")}
    # What fills the MLP or the attention slot with a Protocol of its own, because more is asked of it.
    assert builders - listed == {"GatedDeltaNetBuilder", "LatentAttentionBuilder", "MoeBuilder"}
    assert listed - builders == {f"{name}Interface" for name in FUNCTIONS}
    assert len({slot.name for slot in package.SLOTS}) == len(package.SLOTS)


def test_forward_and_call_agree() -> None:
    """torch types the call of a module as anything, so an Interface says the same thing twice."""
    for name in package.__all__:
        interface = getattr(package, name)
        if name.endswith("Interface") and "forward" in vars(interface):
            assert vars(interface)["forward"].__annotations__ == vars(interface)["__call__"].__annotations__
            assert vars(interface)["forward"].__kwdefaults__ == vars(interface)["__call__"].__kwdefaults__
