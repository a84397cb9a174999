"""`docs/slots.md` and the table of slots agree with the code."""

import dataclasses

from modelwright import layers
from modelwright.protocols import SLOTS
from tests.policies.slots_page import PAGE, page


def test_the_page_is_what_the_code_gives():
    """A list of slots that is written by hand is wrong after the next release of the engine."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.policies.slots_page`"


def test_the_spec_fields_of_the_slots_exist():
    """The page says which slots a spec can fill, so it must not name a field that was renamed."""
    for slot in SLOTS:
        for path in slot.spec_fields:
            name, _, field = path.partition(".")
            spec = getattr(layers, name)
            assert not field or field in {found.name for found in dataclasses.fields(spec)}, (slot.name, path)


def test_every_typed_field_of_a_spec_fills_a_slot():
    """A spec field that the table does not know would be missing from the page."""
    listed = {path for slot in SLOTS for path in slot.spec_fields}
    own = {"MambaKernels.scan_step", "MambaKernels.convolution_step"}  # slots of our own mixer, not of the engine's
    for name in layers.__all__:
        spec = getattr(layers, name)
        if isinstance(spec, type) and dataclasses.is_dataclass(spec) and name.endswith(("Spec", "Kernels")):
            fields = {f"{name}.{field.name}" for field in dataclasses.fields(spec) if _is_slot(field.type)}
            assert fields - listed - own == set(), name


def _is_slot(annotation: object) -> bool:
    """Return whether a field is annotated with a Builder or an Interface."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return "Builder" in text or "Interface" in text
