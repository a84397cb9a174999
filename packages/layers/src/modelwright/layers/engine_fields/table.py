"""The table of all verdicts: one for every field of the installed engine's config.

`tests/integration/test_engine_fields.py` compares it with the installed engine, and `docs/engine_fields.md` prints it.
"""

from types import MappingProxyType
from typing import Final

from modelwright.config import FIXED_ENGINE_FIELDS
from modelwright.layers.engine_fields.honored import HONORED
from modelwright.layers.engine_fields.owned import OWNED
from modelwright.layers.engine_fields.refused import REFUSED
from modelwright.layers.engine_fields.verdict import Refused, Verdicts

FIXED: Final[Verdicts] = {
    name: Refused(f"modelwright fixes it to {field.value}: {field.reason}")
    for name, field in FIXED_ENGINE_FIELDS.items()
}
"""Fields with one value in every model."""

VERDICTS: Final[Verdicts] = MappingProxyType({**FIXED, **OWNED, **HONORED, **REFUSED})
"""The verdict on every field, by its name."""
