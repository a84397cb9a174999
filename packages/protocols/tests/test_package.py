"""Promises of the package as a whole."""

import importlib
import subprocess
import sys
from pathlib import Path

import modelwright.protocols as package

SOURCE = Path(str(package.__file__)).parent


def test_importing_it_loads_no_third_party_module() -> None:
    """A project that only writes a part depends on this package alone and imports it fast."""
    code = (
        "import sys; before = set(sys.modules); import modelwright.protocols; "
        "print('\\n'.join(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "modelwright" in loaded
    assert set(loaded) - {"modelwright"} <= sys.stdlib_module_names


def test_every_protocol_is_exported() -> None:
    """A Protocol that the door does not export cannot be used by a project that depends on this package."""
    for file in [*SOURCE.glob("slots/*.py"), *SOURCE.glob("not_fillable_yet/*.py"), SOURCE / "optional_members.py"]:
        place = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        module = importlib.import_module(f"modelwright.protocols.{place}")
        own = {n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        assert {name for name in own if not name.startswith("_")} <= set(package.__all__)


# Slots that store the function itself, so that nothing builds it.
FUNCTIONS = {"CausalConvolution", "FusedScan", "GatedDeltaRule", "Loss", "Scan"}
# The same for our own mixer; the engine's mixer imports its functions by name.
OWN = {"CausalConvolutionStep", "ScanStep"}
# Interfaces that several slots share.
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
    """A Builder that no slot uses would describe no call."""
    listed = {slot.protocol.__name__ for slot in package.SLOTS}
    builders = {name for name in package.__all__ if name.endswith("Builder")}
    # Parts of the MLP or attention slot that have a Protocol of their own, because they need more members.
    assert builders - listed == {"GatedDeltaNetBuilder", "LatentAttentionBuilder", "MoeBuilder"}
    assert listed - builders == {f"{name}Interface" for name in FUNCTIONS}
    assert len({slot.name for slot in package.SLOTS}) == len(package.SLOTS)


def test_forward_and_call_agree() -> None:
    """torch types the call of a module as `Any`, so an Interface declares both."""
    for name in package.__all__:
        interface = getattr(package, name)
        if name.endswith("Interface") and "forward" in vars(interface):
            assert vars(interface)["forward"].__annotations__ == vars(interface)["__call__"].__annotations__
            assert vars(interface)["forward"].__kwdefaults__ == vars(interface)["__call__"].__kwdefaults__
