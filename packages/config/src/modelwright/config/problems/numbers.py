"""Numbers with bounds, as annotations of fields."""

from typing import Annotated

from pydantic import Field

__all__ = ["Count", "Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "UnitFraction"]

Count = Annotated[int, Field(ge=1)]
"""At least 1."""

NonNegativeInt = Annotated[int, Field(ge=0)]
"""At least 0."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Finite and above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite and at least 0."""

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""From 0 up to, not including, 1."""

UnitFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Above 0, up to 1."""
