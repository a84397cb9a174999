"""Typed interfaces of every slot of a Megatron-Core model; no dependencies."""

from modelwright.protocols._errors import ModelwrightError, did_you_mean

__all__ = ["ModelwrightError", "did_you_mean"]
