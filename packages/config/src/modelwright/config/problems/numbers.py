"""Numbers with bounds, as annotations of fields."""

from typing import Annotated

from pydantic import Field

__all__ = ["Count", "Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "Seed", "UnitFraction"]

Count = Annotated[int, Field(ge=1)]
"""Integer, at least 1."""

NonNegativeInt = Annotated[int, Field(ge=0)]
"""Integer, at least 0."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of a random number generator: an integer from 0 to 2**63 - 1, which leaves room for the offsets of steps and
ranks in the 64 bits of torch's generators."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Finite number above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite number, at least 0."""

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Number from 0 (inclusive) to 1 (exclusive)."""

UnitFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Number from 0 (exclusive) to 1 (inclusive)."""
