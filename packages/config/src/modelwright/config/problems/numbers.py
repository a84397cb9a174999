"""Numbers with bounds, as annotations of fields."""

from typing import Annotated

from pydantic import Field

__all__ = ["Count", "Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "UnitFraction"]

Count = Annotated[int, Field(ge=1)]
"""Integer, at least 1."""

NonNegativeInt = Annotated[int, Field(ge=0)]
"""Integer, at least 0."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Finite number above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite number, at least 0."""

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Number from 0 (inclusive) to 1 (exclusive)."""

UnitFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Number from 0 (exclusive) to 1 (inclusive)."""
